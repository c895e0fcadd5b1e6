"""Two nodes of a Ray cluster on this machine, for all tests of this folder."""

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

AGENTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


def node() -> dict[str, Any]:
    """What a node is started with: ports for Ray's agents, for which it would otherwise wait, and not for long."""
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in AGENTS]
        ports = [server.getsockname()[1] for server in servers]
    return {"num_cpus": 2, "object_store_memory": 10**8, **dict(zip(AGENTS, ports, strict=True))}


@pytest.fixture(scope="package")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with two CPUs each, to which this process is connected; it can `add_node(**node())`."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with warnings.catch_warnings():  # Ray closes the processes of its nodes later
        warnings.simplefilter("ignore", ResourceWarning)
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        cluster.add_node(**node(), include_dashboard=False)
        cluster.add_node(**node())
        ray.init(address=cluster.address, logging_level="warning")
        yield cluster
        ray.shutdown()
        cluster.shutdown()
