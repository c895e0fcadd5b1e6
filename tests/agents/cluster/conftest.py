"""Two nodes of a Ray cluster on this machine, and a request to play on them, for all tests of this folder."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from cluster_fakes import open_calls, open_scripted
from cluster_requests import ASKED, play
from ray_processes import NODE

from agents.engines.base import Weights
from agents.rollout.envs import EnvPool


def start() -> Any:
    """Start two nodes; on a busy machine, Ray's own agents may be too slow for its patience of 15 s."""
    from ray.cluster_utils import Cluster

    failures: list[Exception] = []
    while len(failures) < 3:
        cluster = Cluster()
        try:
            cluster.add_node(**NODE, include_dashboard=False)
            cluster.add_node(**NODE)
            return cluster
        except Exception as error:
            failures.append(error)
            cluster.shutdown()
    raise failures[-1]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with two CPUs each, to which this process is connected."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else all other tests come before its actors
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # actors import what the tests send them
        warnings.simplefilter("ignore", ResourceWarning)  # Ray closes the processes of its nodes later
        import ray

        cluster = start()
        ray.init(address=cluster.address, logging_level="warning")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def envs() -> Iterator[EnvPool]:
    with closing(open_calls(4)) as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(envs: EnvPool) -> list[Any]:
    """What an engine in this process plays."""
    source = open_scripted(0)
    source.load_weights(3, Weights.of({}))
    played = play(source.player(envs))
    assert len({tuple(each[2]) for each in played}) == len(ASKED)
    return played
