"""Two nodes of a Ray cluster on this machine, for all tests of this folder."""

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 10**8}


def start() -> Any:
    """Start two nodes; on a busy machine Ray's own agents may be too slow for its patience."""
    from ray.cluster_utils import Cluster

    for _ in range(3):
        cluster = Cluster()
        try:
            cluster.add_node(**NODE, include_dashboard=False)
            cluster.add_node(**NODE)
        except Exception as error:
            cluster.shutdown()
            failure = error
        else:
            return cluster
    raise failure


@pytest.fixture(scope="package")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with two CPUs each, to which this process is connected."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with warnings.catch_warnings():  # Ray closes the processes of its nodes later
        warnings.simplefilter("ignore", ResourceWarning)
        import ray

        cluster = start()
        ray.init(address=cluster.address, logging_level="warning")
        yield cluster
        ray.shutdown()
        cluster.shutdown()
