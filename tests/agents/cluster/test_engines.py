"""Engines on two nodes give the trajectories of an engine in this process, whatever becomes of one of them."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cluster_fakes import Deadly, NoWeights
from cluster_requests import ASKED, SAMPLING, at_first, content, model_recipe, play, recipe
from processes import is_alive
from ray_processes import NODE, processes
from runs import wait_for

from agents.cluster.source import ClusterSource
from agents.core.errors import EngineFault
from agents.core.types import Trajectory
from agents.engines.base import Weights
from agents.models.load import load_model
from agents.rollout.envs import EnvPool
from agents.rollout.source import Player

pytestmark = pytest.mark.slow


def engines() -> list[int]:
    return processes("RolloutActor")


@dataclass
class Two:
    """Two engines with weights, and what plays on them."""

    source: ClusterSource
    player: Player
    lines: list[str]


@pytest.fixture(scope="module")
def two(nodes: Any, envs: EnvPool) -> Iterator[Two]:
    lines: list[str] = []
    made = ClusterSource(recipe(engines=2, max_restarts=20), channel=NoWeights(), log=lines.append)
    with closing(made) as source:
        source.load_weights(3, Weights.of({}))
        yield Two(source, source.player(envs), lines)


def probe_all(two: Two) -> None:
    """Wait until both engines work."""
    wait_for(lambda: len(two.source.probe([1, 2, 3], temperature=1.0)) == 8)


def test_an_engine_killed_while_it_samples_is_replaced_and_its_groups_are_played_again(
    two: Two, expected: list[Any]
) -> None:
    ended: list[Trajectory] = []
    kill = at_first(lambda: os.kill(engines()[0], signal.SIGKILL))
    assert play(two.player, on_end=lambda each: (ended.append(each), kill(each))) == expected
    assert sorted(content(ended)) == sorted(expected)  # each once
    assert any("is lost" in line for line in two.lines)


def test_an_engine_killed_between_two_requests_is_replaced(two: Two, expected: list[Any]) -> None:
    probe_all(two)
    os.kill(engines()[0], signal.SIGKILL)
    assert play(two.player) == expected


def test_all_engines_killed_at_once_are_replaced(two: Two, expected: list[Any]) -> None:
    probe_all(two)
    killed = engines()
    assert len(killed) == 2
    ended: list[Trajectory] = []
    kill = at_first(lambda: [os.kill(each, signal.SIGKILL) for each in killed])
    assert play(two.player, on_end=lambda each: (ended.append(each), kill(each))) == expected
    assert sorted(content(ended)) == sorted(expected)


def test_a_stopped_request_leaves_the_engines_ready_for_the_next(two: Two, expected: list[Any]) -> None:
    assert two.player.collect(ASKED, SAMPLING, should_stop=lambda: True) is None
    assert play(two.player) == expected


def test_enough_groups_end_the_request_for_all_engines(two: Two, expected: list[Any]) -> None:
    assert play(two.player, enough=lambda groups: len(groups) == 5) == expected[:10]
    assert play(two.player) == expected


def test_an_engine_killed_while_it_loads_weights_is_replaced(two: Two, tmp_path: Path) -> None:
    two.source._fleet.bring(Deadly(NoWeights(4), tmp_path / "mark"))
    probe_all(two)
    assert (tmp_path / "mark").exists()
    assert {version for each in play(two.player) for version in each[4]} == {-1, 4}
    two.source.load_weights(3, Weights.of({}))


def test_an_engine_that_hangs_is_replaced(two: Two, expected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    probe_all(two)
    hung = engines()[0]
    monkeypatch.setattr(two.source._fleet, "_cluster", replace(two.source._fleet._cluster, patience_s=3.0))
    os.kill(hung, signal.SIGSTOP)
    assert play(two.player) == expected
    wait_for(lambda: not is_alive(hung))


def test_a_node_may_leave_and_another_join(nodes: Any, two: Two, expected: list[Any]) -> None:
    probe_all(two)
    leave = at_first(lambda: nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False))
    assert play(two.player, on_end=leave) == expected
    nodes.add_node(**NODE)
    probe_all(two)
    assert play(two.player) == expected


def test_without_room_for_any_engine_the_run_ends_with_one_line(nodes: Any) -> None:
    lines: list[str] = []
    made = ClusterSource(recipe(engines=2, engine_cpus=64, patience_s=1), log=lines.append)
    with closing(made), pytest.raises(EngineFault, match=r"^Expect room on the cluster for an engine \(64 CPUs\), got"):
        made.probe([1], temperature=1.0)
    assert lines == ["Warning: 2 engines need 128 CPUs; the cluster has room for 0."]


@pytest.mark.thorough
def test_two_engines_with_a_model_play_what_one_plays_in_this_process(nodes: Any, tiny: Path, envs: EnvPool) -> None:
    recipe, weights = model_recipe(tiny, engines=2), load_model(tiny, "float32").state_dict()

    def played(source: Any) -> list[Any]:
        source.load_weights(3, Weights.of(weights))
        return play(source.player(envs))

    with closing(recipe.open(0)) as here, closing(ClusterSource(recipe, log=print)) as source:
        assert played(source) == played(here)
