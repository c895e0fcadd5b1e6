"""Two nodes of a Ray cluster on this machine, and a request to play on them, for all tests of this folder."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster_requests import configured, play

from agents.engines.base import Weights
from agents.models.load import load_model
from agents.rollout.envs import EnvPool, open_split
from agents.rollout.source import LocalSource, open_chat, open_run_engine

NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 10**8}


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


@pytest.fixture(scope="package")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with two CPUs each, to which this process is connected."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # actors import what the tests send them
        warnings.simplefilter("ignore", ResourceWarning)  # Ray closes the processes of its nodes later
        import ray

        cluster = start()
        ray.init(address=cluster.address, logging_level="warning")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="package")
def weights(tiny: Path) -> dict[str, torch.Tensor]:
    return load_model(tiny, "float32").state_dict()


@pytest.fixture(scope="package")
def envs(tiny: Path) -> Iterator[EnvPool]:
    with closing(open_split(configured(tiny).env, 4, split="train")) as opened:
        yield opened


@pytest.fixture(scope="package")
def expected(tiny: Path, envs: EnvPool, weights: dict[str, torch.Tensor]) -> list[Any]:
    """What an engine in this process plays."""
    config, chat = configured(tiny), open_chat(configured(tiny), tiny)
    place: Any = {"dtype": "float32", "device": torch.device("cpu"), "number": 0}
    with closing(LocalSource(open_run_engine(config, tiny, chat, log=print, **place), chat)) as source:
        source.load_weights(3, Weights.of(weights))
        return play(source.player(envs))
