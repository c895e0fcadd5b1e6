"""The trajectories of each step: whole groups, chosen in order, optionally sampled during the updates before."""

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from agents_fakes import FakeEngine, ScannedCallEnv, pool, scripted, tokenizer, trajectory

from agents.config.cluster import ClusterConfig
from agents.config.schedules import CompetenceConfig
from agents.config.training import EnvConfig, PPOConfig, RolloutConfig, SelectionConfig, TrainConfig
from agents.core.chat import Chat
from agents.core.types import Collected, EpisodeSpec, Trajectory
from agents.engines.base import Weights
from agents.rollout import sampler as sampling
from agents.rollout.sampler import Sampler, StepEnough
from agents.rollout.source import LocalSource, most_in_flight

WORDY = Chat(tokenizer(), "raw")


def ignore(_: Trajectory) -> None:
    pass


def nothing_to_load() -> Callable[[], None]:
    return lambda: None


def take(made: Sampler, step: int, **more: Any) -> Collected:
    collected = made.take(step, **{"sync": dict, "send": nothing_to_load, "on_end": ignore} | more)
    assert collected is not None
    return collected


def is_ahead(made: Sampler) -> bool:
    return len(made.as_json()[0]["ahead"]) > 0


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
    """A sampler of 3 problems with 2 episodes each, and its engine, which counts as one of a cluster if it must."""
    settings = {"num_problems": 3, "num_generations": 2, "max_completion_length": 60, "max_model_len": 96} | rollout
    made_of = RolloutConfig(**settings)
    cluster = ClusterConfig(engines=int(made_of.steps_ahead > 1))
    config = TrainConfig(rollout=made_of, cluster=cluster, ppo=PPOConfig(importance_sampling="token"))
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


def group(number: int, *rewards: float) -> list[Trajectory]:
    return [trajectory(group_id=number, reward=reward) for reward in rewards]


def test_the_first_groups_of_all_processes_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The groups 12 to 17 of the third step: this process plays the even ones, another the odd ones."""
    told = {0: "", 1: "1:++"}  # a step before
    monkeypatch.setattr(sampling, "size", lambda: 2)
    monkeypatch.setattr(sampling, "tell", lambda text: told.update({0: text}))
    monkeypatch.setattr(sampling, "told_by", told.__getitem__)
    episodes = [EpisodeSpec(group_id=number, env_seed=0, sampling_seed=0) for number in (12, 12, 14, 14, 16, 16)]
    is_enough = StepEnough(episodes, 6, 3, SelectionConfig(differing_rewards=True))
    one, two = group(12, 0, 1), group(14, 1, 1)
    assert not is_enough([one])
    told[1] = "2:+"
    assert not is_enough([one, two])
    assert told[0] == "2:+-"
    told[1] = "2:++"
    assert is_enough([one, two])


def test_a_step_collected_ahead_equals_the_same_step_collected_on_demand() -> None:
    with sampler() as (made, _):
        take(made, 0)
        expected = content(take(made, 1).trajectories)
    with sampler(max_staleness=1) as (made, _):
        take(made, 0)
        made.finish()
        assert is_ahead(made)
        assert content(take(made, 1).trajectories) == expected
        made.finish()


def test_the_engine_gets_new_weights_once_per_step_and_only_while_it_is_idle() -> None:
    for staleness in (0, 1):
        with sampler(max_staleness=staleness) as (made, engine):
            busy: list[bool] = []

            def sync(engine: FakeEngine = engine, busy: list[bool] = busy) -> dict[str, float]:
                busy.append(engine.busy)
                return {}

            for step in range(3):
                take(made, step, sync=sync)
                made.finish()
        assert busy == [False] * 3


def test_an_error_during_the_update_is_raised_by_finish() -> None:
    with sampler(max_staleness=1) as (made, engine):
        beside(engine, break_down)
        take(made, 0)
        with pytest.raises(OSError, match="the engine broke"):
            made.finish()
        made.finish()  # nothing is left to wait for


@pytest.mark.parametrize("settings", [{"max_new_tokens": 5, "max_staleness": 11}, {"max_staleness": 1}])
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


def test_closing_stops_what_is_collected_ahead() -> None:
    with sampler(max_staleness=1) as (made, engine):
        started = threading.Event()

        def slow() -> None:
            started.set()
            time.sleep(0.01)

        beside(engine, slow)
        take(made, 0)
        started.wait(60)
        made.close()
        assert engine.held == set()
        assert not is_ahead(made)


class Enough(Exception):
    pass


@pytest.mark.parametrize("settings", [{"max_new_tokens": 5, "max_staleness": 11}, {"max_staleness": 1}, {}])
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
                take(made, 1, on_end=stop)
        assert json.dumps(made.as_json()) == whole


def test_an_error_during_the_update_keeps_the_state_at_the_start_of_its_collection() -> None:
    with sampler(max_new_tokens=5, max_staleness=12) as (made, engine):
        take(made, 0)
        made.finish()
        collector = json.dumps(made._state()["collector"])
        beside(engine, break_down)
        take(made, 1)
        with pytest.raises(OSError, match="the engine broke"):
            made.finish()
        assert json.dumps(made.as_json()[0]["collector"]) == collector


def test_sampling_with_older_weights_requires_importance_sampling() -> None:
    for settings in ({"max_staleness": 1}, {"max_new_tokens": 64, "max_staleness": 1}):
        rollout = dataclasses.replace(RolloutConfig(), **settings)
        with pytest.raises(ValueError, match=r"^Expect `ppo\.importance_sampling` other than none where older weights"):
            TrainConfig(rollout=rollout)
        assert TrainConfig(rollout=rollout, ppo=PPOConfig(importance_sampling="token"))


def test_a_bound_that_paused_episodes_exceed_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^Expect `max_staleness` of at least 2 \(.* 3 steps\), got 1"):
        RolloutConfig(max_completion_length=128, max_new_tokens=50, max_staleness=1)
    assert RolloutConfig(max_completion_length=128, max_new_tokens=50, max_staleness=3).steps_ahead == 1


def test_more_than_a_step_ahead_takes_engines_of_their_own() -> None:
    config: dict[str, Any] = {"rollout": RolloutConfig(max_staleness=2), "ppo": PPOConfig(importance_sampling="token")}
    with pytest.raises(ValueError, match=r"^Expect `rollout\.max_staleness` of at most 1 without .* 2\.$"):
        TrainConfig(**config)
    assert TrainConfig(**config, cluster=ClusterConfig(engines=1))


def play(made: Sampler, engine: FakeEngine, steps: Sequence[int]) -> list[Any]:
    """Take steps whose updates give weights with the numbers of the steps, and return what they train on."""
    taken = []
    for step in steps:
        load = partial(engine.load_weights, step, Weights.of({}))
        collected = take(made, step, sync=lambda load=load: load() or {}, send=lambda load=load: load)
        taken.append(content(collected.trajectories))
        made.finish()
    return taken


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_no_token_that_is_trained_on_is_older_than_the_bound(staleness: int) -> None:
    with sampler(max_staleness=staleness) as (made, engine):
        steps = play(made, engine, range(6))
    sampled = [{version for *_, versions in step for version in versions if version >= 0} for step in steps]
    assert sampled == [{max(0, step - staleness)} for step in range(6)]


def test_paused_episodes_keep_the_bound_as_well() -> None:
    with sampler(max_new_tokens=15, max_staleness=4) as (made, engine):
        steps = play(made, engine, range(8))
    ages = [step - min(v for v in versions if v >= 0) for step, made in enumerate(steps) for *_, versions in made]
    assert 1 < max(ages) <= 4


def test_what_is_collected_ahead_of_several_steps_survives_a_stop() -> None:
    with sampler(max_staleness=3) as (made, engine):
        expected = play(made, engine, range(6))
    with sampler(max_staleness=3) as (made, engine):
        first = play(made, engine, range(2))
        written = json.loads(json.dumps(made.as_json()))
    assert [len(step["trajectories"]) for step in written[0]["ahead"]] == [6, 6, 6]
    with sampler(max_staleness=3) as (made, engine):
        made.restore(written)
        assert first + play(made, engine, range(2, 6)) == expected


def test_a_checkpoint_has_what_was_collected_before_an_error() -> None:
    with sampler(max_staleness=3) as (made, _):
        load = iter([lambda: None, break_down])
        take(made, 0)
        made.finish()
        for step in (1, 2):
            take(made, step, send=lambda: next(load))
            made.finish()
        assert [step["trajectories"][0]["group_id"] for step in made.as_json()[0]["ahead"]] == [9, 12]


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
