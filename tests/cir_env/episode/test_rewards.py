"""Reward functions: they depend on the policy's text and never on program output."""

from typing import Any

import pytest
from fakes import CODE, begun, make, products

from cir_env.episode.rewards import EpisodeRecord, correctness, failed_blocks, length, total
from cir_env.errors import OptionError
from cir_env.sandbox import Status

FAILS = "```python\n1 / 0\n```\n"


def record(**changes: Any) -> EpisodeRecord:
    values: dict[str, Any] = {
        "problem": products()[0],
        "segments": ("x" * 1500,),
        "statuses": (Status.OK, Status.ERROR, Status.TIMEOUT),
        "predicted": "6",
        "correct": True,
        "truncated": False,
        "interaction_budget": 3,
    }
    return EpisodeRecord(**(values | changes))


def test_the_papers_reward_is_plus_or_minus_one() -> None:
    assert [correctness()(record(correct=right)) for right in (True, False)] == [1.0, -1.0]
    assert [correctness(1.0, 0.0)(record(correct=right)) for right in (True, False)] == [1.0, 0.0]


def test_failed_blocks_cost_each_the_same() -> None:
    assert failed_blocks(-0.25)(record()) == -0.5
    assert failed_blocks(-0.25)(record(statuses=())) == 0.0


def test_length_costs_beyond_what_is_free() -> None:
    assert length(free_chars=1000, each_1000=-0.5)(record()) == -0.25
    assert length(free_chars=2000, each_1000=-0.5)(record()) == 0.0


def test_a_total_adds_rewards_and_drops_if_one_part_drops() -> None:
    assert total(correctness(), failed_blocks(-0.25))(record()) == 0.5
    assert total(correctness(), lambda episode: None)(record()) is None


@pytest.mark.parametrize("make_reward", [lambda: failed_blocks(0.1), lambda: length(10, 0.1)])
def test_positive_rewards_for_failures_or_length_are_rejected(make_reward: Any) -> None:
    with pytest.raises(OptionError, match=r"to be at most 0, got 0\.1"):
        make_reward()


def test_the_reward_function_is_called_only_at_the_end() -> None:
    seen: list[EpisodeRecord] = []

    def reward(episode: EpisodeRecord) -> float:
        seen.append(episode)
        return 0.25

    env = begun(reward=reward, interaction_budget=3)
    rewards = [env.step(action)[1] for action in (CODE, FAILS, "So \\boxed{6}.")]
    assert rewards == [0.0, 0.0, 0.25]
    (episode,) = seen
    assert (episode.segments, episode.statuses) == ((CODE, FAILS, "So \\boxed{6}."), (Status.OK, Status.ERROR))
    assert (episode.predicted, episode.correct, episode.truncated, episode.interaction_budget) == ("6", True, False, 3)


def test_an_episode_without_a_reward_is_dropped() -> None:
    _, reward, terminated, _, info = begun(reward=lambda episode: None).step("\\boxed{6}")
    assert (reward, terminated, info["reward_valid"], info["correct"]) == (0.0, True, False, True)


def test_a_reward_function_sees_no_output() -> None:
    seen: list[EpisodeRecord] = []
    env = begun(reward=lambda episode: len(seen.append(episode) or "") * 1.0)
    assert "PLEASE" in env.step("```python\nprint('PLE' + 'ASE')\n```\n")[0]
    env.step("")
    assert "PLEASE" not in repr(seen)


@pytest.mark.parametrize(("value", "shown"), [(float("nan"), "nan"), ("1", "'1'"), (True, "True")])
def test_a_reward_that_is_not_a_number_is_an_error(value: Any, shown: str) -> None:
    with pytest.raises(OptionError, match=f"Expect `reward` to be a finite number, got {shown}"):
        begun(reward=lambda episode: value).step("")


def test_a_reward_must_be_a_function() -> None:
    with pytest.raises(OptionError, match="Expect a reward as 'module:function', got 'paper'"):
        make(reward="paper")
    with pytest.raises(OptionError, match="Expect `reward` to be a function of an `EpisodeRecord`"):
        make(reward=5)
