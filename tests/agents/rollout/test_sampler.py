"""The trajectories of each step: whole groups, chosen in order, optionally sampled during the previous update."""

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from agents_fakes import FakeEngine, ScannedCallEnv, pool, scripted, tokenizer

from agents.config.schedules import CompetenceConfig
from agents.config.training import EnvConfig, PPOConfig, RolloutConfig, TrainConfig
from agents.core.chat import Chat
from agents.core.types import Collected, Trajectory
from agents.rollout.sampler import Sampler
from agents.rollout.source import LocalSource, most_in_flight

WORDY = Chat(tokenizer(), "raw")


def ignore(_: Trajectory) -> None:
    pass


def take(made: Sampler, step: int) -> Collected:
    collected = made.take(step, sync=dict, on_end=ignore)
    assert collected is not None
    return collected


def is_ahead(made: Sampler) -> bool:
    return made.as_json()[0]["ahead"] is not None


def beside(engine: FakeEngine, act: Callable[[], None]) -> None:
    """Call ``act`` in each engine step that runs during an update."""
    poll = engine.poll

    def acting() -> Any:
        if threading.current_thread() is not threading.main_thread():
            act()
        return poll()

    engine.poll = acting  # type: ignore[method-assign]


def break_down() -> None:
    raise OSError("the engine broke")


@contextmanager
def sampler(write: Any = None, **rollout: Any) -> Iterator[tuple[Sampler, FakeEngine]]:
    """A sampler of 3 problems with 2 episodes each, and its engine."""
    settings = {"num_problems": 3, "num_generations": 2, "max_completion_length": 60, "max_model_len": 96} | rollout
    config = TrainConfig(rollout=RolloutConfig(**settings), ppo=PPOConfig(importance_sampling="token"))
    engine = FakeEngine(WORDY, *([] if write is None else [write]))
    with pool(lambda: ScannedCallEnv(delay_s=0.003), 10) as envs:
        source = LocalSource(engine, WORDY, in_flight=most_in_flight(config.rollout, engine))
        made = Sampler(envs, source, config)
        yield made, engine
        made.close()


def content(made: Sequence[Trajectory]) -> list[Any]:
    return [(each.group_id, each.token_ids, each.policy_versions) for each in made]


def group_ids(made: Sequence[Trajectory]) -> list[int]:
    return [each.group_id for each in made]


def test_a_step_has_its_problems_in_whole_groups() -> None:
    with sampler() as (made, _):
        steps = [take(made, step) for step in range(2)]
    assert [group_ids(step.trajectories) for step in steps] == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]]
    assert "engine/utilisation" in steps[0].metrics
    assert steps[0].metrics["selection/kept_ratio"] == 1


def test_extra_problems_replace_those_with_equal_rewards() -> None:
    def write(request_id: int, turn: int, seed: int) -> str:
        return "a" if request_id < 4 or request_id % 2 else "z"  # all of the first two groups are right

    with sampler(write, num_extra_problems=4) as (made, engine):
        first = take(made, 0)
        assert group_ids(first.trajectories) == [2, 2, 3, 3, 4, 4]
        assert first.metrics["selection/kept_ratio"] == 6 / 10  # and two groups were not finished
        assert group_ids(take(made, 1).trajectories) == [7, 7, 8, 8, 9, 9]
    assert engine.held == set()


def test_a_step_collected_ahead_equals_the_same_step_collected_on_demand() -> None:
    with sampler() as (made, _):
        take(made, 0)
        expected = content(take(made, 1).trajectories)
    with sampler(overlap=True) as (made, _):
        take(made, 0)
        made.finish()
        assert is_ahead(made)
        assert content(take(made, 1).trajectories) == expected
        made.finish()


def test_the_engine_gets_new_weights_once_per_step_and_only_while_it_is_idle() -> None:
    for overlap in (False, True):
        with sampler(overlap=overlap) as (made, engine):
            busy: list[bool] = []

            def sync(engine: FakeEngine = engine, busy: list[bool] = busy) -> dict[str, float]:
                busy.append(engine.busy)
                return {}

            for step in range(3):
                made.take(step, sync=sync, on_end=ignore)
                made.finish()
        assert busy == [False] * 3


def test_an_error_during_the_update_is_raised_by_finish() -> None:
    with sampler(overlap=True) as (made, engine):
        beside(engine, break_down)
        take(made, 0)
        with pytest.raises(OSError, match="the engine broke"):
            made.finish()
        made.finish()  # nothing is left to wait for


@pytest.mark.parametrize("settings", [{"max_new_tokens": 5}, {"overlap": True}])
def test_trajectories_not_yet_trained_on_survive_a_stop(settings: dict[str, Any]) -> None:
    def play(made: Sampler, steps: Sequence[int]) -> list[Any]:
        taken = []
        for step in steps:
            taken.append(content(take(made, step).trajectories))
            made.finish()
        return taken

    with sampler(**settings) as (made, _):
        expected = play(made, range(5))
    with sampler(**settings) as (made, _):
        first = play(made, range(2))
        written = json.loads(json.dumps(made.as_json()))
    with sampler(**settings) as (made, _):
        made.restore(written)
        assert first + play(made, range(2, 5)) == expected


def test_a_budget_by_competence_is_used_and_survives_a_stop() -> None:
    class Budgeted(ScannedCallEnv):
        def _info(self, kept_chars: int) -> dict[str, Any]:
            left = {"interaction_budget": self._budget, "interactions_left": self._budget - self._made}
            return super()._info(kept_chars) | left

    easy = CompetenceConfig(first=1, last=3, window=1, exhausted=1.0, accuracy=1.0)
    config = TrainConfig(
        env=EnvConfig(interaction_budget="competence", competence=easy),
        rollout=RolloutConfig(num_problems=2, num_generations=2, max_completion_length=60, max_model_len=96),
    )
    budgets, written = [], "null"
    for step in range(4):
        with pool(Budgeted, 4) as envs:
            engine = FakeEngine(WORDY, scripted("a`\n", "a`\n", "a`\n", "a"))
            made = Sampler(envs, LocalSource(engine, WORDY), config)
            if json.loads(written):
                made.restore(json.loads(written))
            budgets.append(take(made, step).metrics["interaction_budget"])
            made.finish()
            written = json.dumps(made.as_json())
            made.close()
    assert budgets == [1, 2, 3, 3]


def test_closing_stops_the_overlapping_collection() -> None:
    with sampler(overlap=True) as (made, engine):
        started = threading.Event()

        def slow() -> None:
            started.set()
            time.sleep(0.01)

        beside(engine, slow)
        take(made, 0)
        started.wait(60)
        made.close()
        assert engine.held == set()
        assert made.as_json()[0]["ahead"] is None


class Enough(Exception):
    pass


@pytest.mark.parametrize("settings", [{"max_new_tokens": 5}, {"overlap": True}, {}])
def test_an_interrupted_step_is_saved_as_it_was_at_its_start(settings: dict[str, Any]) -> None:
    def stop(_: Trajectory) -> None:
        raise Enough

    with sampler(**settings) as (made, _):
        take(made, 0)
        made.finish()
        whole = json.dumps(made.as_json())
        if is_ahead(made):
            take(made, 1)  # the step is interrupted later
        else:
            with pytest.raises(Enough):
                made.take(1, sync=dict, on_end=stop)
        assert json.dumps(made.as_json()) == whole


def test_an_error_during_the_update_keeps_the_state_at_the_start_of_its_collection() -> None:
    with sampler(max_new_tokens=5, overlap=True) as (made, engine):
        take(made, 0)
        made.finish()
        collector = json.dumps(made._state()["collector"])
        beside(engine, break_down)
        take(made, 1)
        with pytest.raises(OSError, match="the engine broke"):
            made.finish()
        assert json.dumps(made.as_json()[0]["collector"]) == collector


def test_sampling_with_older_weights_requires_importance_sampling() -> None:
    for settings in ({"overlap": True}, {"max_new_tokens": 9}):
        rollout = dataclasses.replace(RolloutConfig(), **settings)
        with pytest.raises(ValueError, match=r"^Expect `ppo\.importance_sampling` other than none where older weights"):
            TrainConfig(rollout=rollout)
        assert TrainConfig(rollout=rollout, ppo=PPOConfig(importance_sampling="token"))


def test_trajectories_sampled_ahead_by_an_earlier_version_are_restored() -> None:
    with sampler(overlap=True) as (made, _):
        take(made, 0)
        made.finish()
        states = json.loads(json.dumps(made.as_json()))
        expected = take(made, 1)
        made.finish()
    for state in states:
        state["collector"]["figures"] = state.pop("metrics")
    with sampler(overlap=True) as (made, _):
        made.restore(states)
        assert take(made, 1) == expected
        made.finish()


@pytest.mark.parametrize(
    ("cache_tokens", "settings", "most"),
    [
        (None, {}, 6),
        (200, {}, 3),  # each episode counts 96 - 60 / 2 tokens
        (10, {}, 1),
        (200, {"num_envs": 10}, 6),
        (200, {"max_new_tokens": 60}, 6),
    ],
    ids=["rows", "cache", "small cache", "own number", "paused episodes"],
)
def test_no_more_episodes_are_in_flight_than_the_engines_cache_holds(
    cache_tokens: int | None, settings: dict[str, Any], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "cache_tokens", cache_tokens)
    with sampler(scripted("a`\n", "b"), **settings) as (made, engine):
        held: list[int] = []
        poll = engine.poll
        engine.poll = lambda: (held.append(len(engine.held)), poll())[1]  # type: ignore[method-assign, func-returns-value]
        assert len(take(made, 0).trajectories) == 6
    assert max(held) <= most
    assert most == 6 or max(held) == most
