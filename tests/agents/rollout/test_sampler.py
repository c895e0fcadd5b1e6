"""What each step is trained on: whole groups, chosen by order, perhaps sampled beside the update before."""

import dataclasses
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from agents_fakes import FakeEngine, ScannedCallEnv, pool, scripted, tokenizer

from agents.config.schedules import CompetenceConfig
from agents.config.training import EnvConfig, PPOConfig, RolloutConfig, TrainConfig
from agents.core.chat import Chat
from agents.core.types import Trajectory
from agents.rollout.sampler import Sampler

WORDY = Chat(tokenizer(), "raw")


def ignore(_: Trajectory) -> None:
    pass


@contextmanager
def sampler(write: Any = None, **rollout: Any) -> Iterator[tuple[Sampler, FakeEngine]]:
    """A sampler of 3 problems and 2 episodes each, and its engine."""
    settings = {"num_problems": 3, "num_generations": 2, "max_completion_length": 60, "max_model_len": 96} | rollout
    config = TrainConfig(rollout=RolloutConfig(**settings), ppo=PPOConfig(importance_sampling="token"))
    engine = FakeEngine(WORDY, *([] if write is None else [write]))
    with pool(lambda: ScannedCallEnv(delay_s=0.003), 10) as envs:
        made = Sampler(envs, engine, WORDY, config)
        yield made, engine
        made.close()


def content(made: Sequence[Trajectory]) -> list[Any]:
    return [(each.group_id, each.token_ids, each.policy_versions) for each in made]


def group_ids(made: Sequence[Trajectory]) -> list[int]:
    return [each.group_id for each in made]


def test_a_step_is_its_problems_in_whole_groups() -> None:
    with sampler() as (made, _):
        steps = [made.take(step, on_end=ignore) for step in range(2)]
    assert [group_ids(step) for step in steps] == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]]
    assert "engine/utilisation" in made.figures
    assert made.figures["selection/kept_ratio"] == 1


def test_extra_problems_replace_those_that_teach_nothing() -> None:
    def write(request_id: int, turn: int, seed: int) -> str:
        return "a" if request_id < 4 or request_id % 2 else "z"  # the first two groups are right as a whole

    with sampler(write, num_extra_problems=4) as (made, engine):
        assert group_ids(made.take(0, on_end=ignore)) == [2, 2, 3, 3, 4, 4]
        assert made.figures["selection/kept_ratio"] == 6 / 10  # and two groups were not even ended
        assert group_ids(made.take(1, on_end=ignore)) == [7, 7, 8, 8, 9, 9]
    assert engine.held == set()


def test_a_step_that_is_begun_ahead_is_the_step_that_would_have_been_taken() -> None:
    with sampler() as (made, _):
        made.take(0, on_end=ignore)
        expected = content(made.take(1, on_end=ignore))
    with sampler() as (made, _):
        made.take(0, on_end=ignore)
        made.begin(1)
        made.finish()
        assert made.is_ahead
        assert content(made.take(1, on_end=ignore)) == expected
        assert not made.is_ahead


def test_a_fault_beside_the_update_is_raised_when_it_is_waited_for() -> None:
    class Broken(FakeEngine):
        def poll(self) -> Any:
            raise OSError("the engine broke")

    with sampler() as (made, engine):
        engine.__class__ = Broken
        made.begin(0)
        with pytest.raises(OSError, match="the engine broke"):
            made.finish()
        made.finish()  # nothing is left to wait for


@pytest.mark.parametrize("settings", [{"max_new_tokens": 5}, {"overlap": True}])
def test_what_was_sampled_and_not_trained_on_survives_a_stop(settings: dict[str, Any]) -> None:
    def play(made: Sampler, steps: Sequence[int]) -> list[Any]:
        taken = []
        for step in steps:
            taken.append(content(made.take(step, on_end=ignore)))
            if settings.get("overlap"):
                made.begin(step + 1)
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


def test_a_budget_that_is_earned_is_used_and_survives_a_stop() -> None:
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
            made = Sampler(envs, FakeEngine(WORDY, scripted("a`\n", "a`\n", "a`\n", "a")), WORDY, config)
            if json.loads(written):
                made.restore(json.loads(written))
            made.take(step, on_end=ignore)
            made.finish()
            budgets.append(made.figures["interaction_budget"])
            written = json.dumps(made.as_json())
            made.close()
    assert budgets == [1, 2, 3, 3]


def test_closing_breaks_off_what_is_collected_beside() -> None:
    with sampler() as (made, engine):
        poll, started = engine.poll, threading.Event()

        def slow() -> Any:
            started.set()
            time.sleep(0.01)
            return poll()

        engine.poll = slow  # type: ignore[method-assign]
        made.begin(0)
        started.wait(60)
        made.close()
        assert engine.held == set()
        assert made.as_json()[0]["ahead"] is None


class Enough(Exception):
    pass


@pytest.mark.parametrize("settings", [{"max_new_tokens": 5}, {"overlap": True}, {}])
def test_a_step_that_is_broken_off_is_written_down_as_it_began(settings: dict[str, Any]) -> None:
    def stop(_: Trajectory) -> None:
        raise Enough

    with sampler(**settings) as (made, _):
        made.take(0, on_end=ignore)
        if settings.get("overlap"):
            made.begin(1)
        made.finish()
        whole = json.dumps(made.as_json())
        if made.is_ahead:
            made.take(1, on_end=stop)  # nothing ends that has not ended before: the step is broken off later
        else:
            with pytest.raises(Enough):
                made.take(1, on_end=stop)
        assert json.dumps(made.as_json()) == whole


def test_a_fault_beside_the_update_leaves_what_its_collection_began_with() -> None:
    with sampler(max_new_tokens=5) as (made, engine):
        made.take(0, on_end=ignore)
        made.finish()
        made.take(1, on_end=ignore)
        collector = json.dumps(made._state()["collector"])
        engine.poll = lambda: (_ for _ in ()).throw(OSError("the engine broke"))  # type: ignore[method-assign]
        made.begin(2)
        with pytest.raises(OSError, match="the engine broke"):
            made.finish()
        assert json.dumps(made.as_json()[0]["collector"]) == collector


def test_older_weights_may_sample_only_where_the_ratio_is_corrected() -> None:
    for settings in ({"overlap": True}, {"max_new_tokens": 9}):
        rollout = dataclasses.replace(RolloutConfig(), **settings)
        with pytest.raises(ValueError, match=r"^Expect `ppo\.importance_sampling` other than none where older weights"):
            TrainConfig(rollout=rollout)
        assert TrainConfig(rollout=rollout, ppo=PPOConfig(importance_sampling="token"))
