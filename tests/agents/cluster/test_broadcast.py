"""Weights by a broadcast among the trainer and those engines that are idle, over gloo in place of NCCL."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster_requests import configured, play
from gloo import GlooTransfer, digest, open_gloo
from ray_processes import processes
from runs import wait_for

from agents.cluster import broadcast
from agents.cluster.actor import Recipe
from agents.cluster.broadcast import Broadcast
from agents.cluster.source import ClusterSource
from agents.config.cluster import ClusterConfig
from agents.engines.base import Weights
from agents.rollout.envs import EnvPool

pytestmark = pytest.mark.slow
DTYPE = torch.bfloat16
CLUSTER = ClusterConfig(engines=2, engine_gpus=1, max_restarts=20)


@dataclass
class Two:
    """Two engines, and what they have noted."""

    source: ClusterSource
    broadcast: Broadcast
    folder: Path
    lines: list[str]
    version: int = 0

    def load(self) -> str:
        """Load the weights of the next version; return their digest."""
        self.version += 1
        made = torch.Generator().manual_seed(self.version)
        weights = {name: torch.randn(3, 5, generator=made).to(DTYPE) for name in "abc"}
        self.source.load_weights(self.version, Weights.of(weights))
        return digest(weights.items())

    def probe(self) -> set[int]:
        """Wait until both engines work; return the versions of their tokens."""
        probed: list[Any] = []

        def both() -> bool:
            probed[:] = self.source.probe([1], temperature=1.0)
            return len(probed) == 8

        wait_for(both)
        return {version for each in probed for version in each.policy_versions}

    def notes(self, what: str) -> list[str]:
        return [each.read_text() for each in self.folder.glob(f"{what}-*")]

    def next(self, way: str) -> list[str]:
        """What is noted of the present version, by broadcast or from the store."""
        return self.notes(f"{way}-{self.version}")


@pytest.fixture(scope="module")
def two(nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder, lines = tmp_path_factory.mktemp("notes"), list[str]()
    engines = Recipe.of(configured(engines=2, max_restarts=20), partial(open_gloo, folder, DTYPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broadcast, "WeightTransfer", GlooTransfer)
        patch.setattr(broadcast, "FileLayout", lambda path: lambda weights: weights)
        sends = Broadcast(Path("unused"), CLUSTER, dtype="bfloat16", device=torch.device("cpu"), log=lines.append)
        with closing(ClusterSource(engines, broadcast=sends, log=lines.append)) as source:
            opened = Two(source, sends, folder, lines)
            opened.load()  # before any engine is there
            assert opened.probe() == {1}
            assert (len(opened.next("stored")), opened.next("broadcast")) == (2, [])
            yield opened


def test_the_same_engines_are_one_group_for_all_broadcasts(two: Two) -> None:
    two.probe()
    two.load()
    joined = two.notes("joined")
    expected = two.load()
    assert two.probe() == {two.version}
    assert two.next("broadcast") == [expected, expected]
    assert (two.next("stored"), len(two.notes("joined"))) == ([], len(joined))


def test_an_engine_that_is_replaced_gets_stored_weights_and_joins_the_next_group(two: Two, envs: EnvPool) -> None:
    two.load()
    joined = two.notes("joined")
    os.kill(processes("RolloutActor")[0], signal.SIGKILL)
    play(two.source.player(envs))  # the loss is noticed
    two.probe()
    assert len(set(two.next("broadcast") + two.next("stored"))) == 1
    assert (len(two.next("broadcast")), len(two.next("stored"))) == (2, 1)
    expected = two.load()
    assert two.next("broadcast") == [expected, expected]
    assert len(two.notes("joined")) == len(joined) + 2


def test_an_engine_that_is_gone_is_noticed_before_the_others_wait_for_it(two: Two) -> None:
    two.load()
    os.kill(processes("RolloutActor")[0], signal.SIGKILL)
    lost = len(two.lines)
    expected = two.load()
    assert two.probe() == {two.version}
    assert (two.next("broadcast"), two.next("stored")) == ([], [expected, expected])
    assert sum("is lost" in line for line in two.lines[lost:]) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_engine_that_dies_or_hangs_in_a_broadcast_holds_up_neither_trainer_nor_engines(
    two: Two, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.load()
    (two.folder / number.name).touch()
    with monkeypatch.context() as patch:
        patch.setattr(two.broadcast, "_cluster", replace(CLUSTER, patience_s=5.0))
        expected = two.load()
    assert not (two.folder / number.name).exists()
    assert two.probe() == {two.version}
    got = two.next("broadcast") + two.next("stored")
    assert set(got) == {expected}
    assert any("broadcast of weights has failed" in line for line in two.lines)
    again = two.load()
    assert two.next("broadcast") == [again, again]


def test_broadcasts_that_always_fail_are_given_up(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no NCCL")

    two.probe()
    two.broadcast.close()
    monkeypatch.setattr(broadcast, "WeightTransfer", fail)
    monkeypatch.setattr(two.broadcast, "_cluster", replace(CLUSTER, max_restarts=1))
    failed = len(two.lines)
    for _ in range(3):
        two.load()
        assert two.probe() == {two.version}
    first, last = two.lines[failed:]
    assert first == "A broadcast of weights has failed (no NCCL); engines get them from the store."
    assert last == f"{first} It was the last one."
