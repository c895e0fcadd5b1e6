"""Metrics of a step."""

from typing import Any

import pytest
from agents_fakes import trajectory

from agents.core.types import Trajectory, Turn
from agents.rollout.selection import describe, describe_staleness


def turn(feedback: str = "", **info: Any) -> Turn:
    return Turn(text="text", feedback=feedback, finish_reason="stop", info=info)


def called(*statuses: str, **changes: Any) -> Trajectory:
    """An episode with executions of these statuses, and an answer."""
    turns = [turn("4\n", execution_status=status, n_code_blocks=n) for n, status in enumerate(statuses, 1)]
    return trajectory(turns=(*turns, turn(n_code_blocks=len(statuses), execution_status=None)), **changes)


def test_the_metrics_have_these_names() -> None:
    assert set(describe([trajectory()])) == {
        "accuracy",
        "completions/clipped_ratio",
        "completions/max_length",
        "completions/mean_feedback_length",
        "completions/mean_length",
        "completions/mean_length_right",
        "episodes/boundary_cuts",
        "episodes/invalid_ratio",
        "episodes/void_ratio",
        "frac_reward_zero_std",
        "interaction_budget",
        "reward",
        "reward_std",
        "tools/budget_exhausted_ratio",
        "tools/call_frequency",
        "tools/failure_frequency",
        "tools/output_use_ratio",
        "tools/timeout_frequency",
        "tools/use_ratio",
    }


def test_lengths_count_sampled_tokens_and_feedback_apart() -> None:
    metrics = describe([trajectory("P P s f f f s s"), trajectory("P s", truncated=True, terminated=False)])
    assert metrics["completions/mean_length"] == 2
    assert metrics["completions/max_length"] == 3
    assert metrics["completions/mean_feedback_length"] == 1.5
    assert metrics["completions/clipped_ratio"] == 0.5


def test_lengths_of_right_and_wrong_episodes_are_apart_and_need_such_episodes() -> None:
    metrics = describe([trajectory("P s s s"), trajectory("P s", reward=-1.0), trajectory("P s s", reward_valid=False)])
    assert (metrics["completions/mean_length_right"], metrics["completions/mean_length_wrong"]) == (3, 1)
    assert "completions/mean_length_wrong" not in describe([trajectory("P s")])


def test_reward_metrics_equal_a_calculation_by_hand() -> None:
    metrics = describe([trajectory(reward=r, group_id=g) for r, g in ((1.0, 0), (1.0, 0), (1.0, 1), (-1.0, 1))])
    assert metrics["reward"] == 0.5
    assert metrics["reward_std"] == pytest.approx(0.75**0.5)
    assert metrics["frac_reward_zero_std"] == 0.5
    assert metrics["accuracy"] == 0.75


def test_code_metrics_equal_a_calculation_by_hand() -> None:
    metrics = describe([called("ok", "error"), called("timeout"), called(), called()])
    assert metrics["tools/call_frequency"] == 0.75
    assert metrics["tools/use_ratio"] == 0.5
    assert metrics["tools/failure_frequency"] == pytest.approx(2 / 3)
    assert metrics["tools/timeout_frequency"] == pytest.approx(1 / 3)


def test_blocks_count_as_used_if_they_printed_the_answer() -> None:
    episodes = [
        trajectory(turns=(ran("12"), ran("42"), turn(predicted="42"))),
        trajectory(turns=(ran("142"), turn(predicted="42"))),
        trajectory(turns=(ran("42"), turn(predicted=None))),
    ]
    assert describe(episodes)["tools/output_use_ratio"] == 0.25


def ran(output: str) -> Turn:
    return turn(f"```output\n{output}\n```\n", execution_status="ok")


def test_recovery_is_measured_on_the_valid_episodes_with_a_failed_block() -> None:
    right, wrong, failed = called("error", "ok"), called("error", "ok", reward=-1.0), called("ok", "timeout")
    metrics = describe([right, wrong, failed, called("ok"), called("error", "ok", reward_valid=False), called("error")])
    assert (metrics["tools/recovery_ratio"], metrics["tools/recovery_right_ratio"]) == (0.5, 0.25)
    assert not {"tools/recovery_ratio", "tools/recovery_right_ratio"} & set(describe([called("ok")]))


def test_calls_are_split_by_level_and_subject_where_there_are_several() -> None:
    infos = (("1", "sums", 1), ("3", "sums", 2), ("3", "sums", 3), ("", "", 9))
    made = [trajectory(turns=(turn(level=le, subject=s, n_code_blocks=n),)) for le, s, n in infos]
    split = {name: value for name, value in describe(made).items() if name.startswith("tools/call_frequency/")}
    assert split == {"tools/call_frequency/level/1": 1, "tools/call_frequency/level/3": 2.5}


def test_a_missing_answer_is_a_void_turn_unless_the_episode_is_invalid() -> None:
    void, answered = trajectory(turns=(turn(predicted=None),)), trajectory(turns=(turn(predicted="4"),))
    invalid = trajectory(turns=(turn(predicted=None),), reward_valid=False)
    assert describe([void, answered, invalid, trajectory(turns=(turn(),))])["episodes/void_ratio"] == 0.25


def test_a_budget_is_used_up_if_there_was_one_and_nothing_is_left() -> None:
    left = [trajectory(turns=(turn(interaction_budget=b, interactions_left=n),)) for b, n in ((2, 0), (2, 1), (0, 0))]
    metrics = describe([*left, trajectory(turns=(turn(),))])
    assert metrics["tools/budget_exhausted_ratio"] == 0.25
    assert metrics["interaction_budget"] == 1


def test_staleness_counts_updates_per_sampled_token() -> None:
    metrics = describe_staleness([trajectory("P s s", policy_versions=(-1, 3, 5)), trajectory("P s")], 5)
    assert metrics == {"sampling/staleness_mean": pytest.approx(7 / 3), "sampling/staleness_max": 5.0}


def test_without_executions_the_failure_frequency_is_zero() -> None:
    assert describe([called()])["tools/failure_frequency"] == 0


def test_an_environment_without_code_has_metrics_too() -> None:
    metrics = describe([trajectory(turns=(turn(),))])
    assert metrics["tools/call_frequency"] == metrics["tools/use_ratio"] == 0


def test_invalid_episodes_are_excluded_from_rewards() -> None:
    metrics = describe([trajectory(reward=1.0), trajectory(reward=0.0, reward_valid=False)])
    assert metrics["reward"] == metrics["accuracy"] == 1
    assert metrics["episodes/invalid_ratio"] == 0.5


def test_without_valid_episodes_there_are_no_reward_metrics() -> None:
    metrics = describe([trajectory(reward_valid=False)])
    assert metrics["episodes/invalid_ratio"] == 1
    assert not {"reward", "reward_std", "accuracy", "frac_reward_zero_std"} & set(metrics)


def test_cut_tokens_are_counted() -> None:
    assert describe([trajectory(boundary_cuts=2), trajectory(boundary_cuts=1)])["episodes/boundary_cuts"] == 3


@pytest.mark.parametrize(
    ("info", "reward", "correct"),
    [({"correct": True}, -1.0, True), ({"correct": False}, 1.0, False), ({}, 0.5, True), ({}, 0.0, False)],
)
def test_correctness_comes_from_the_environment_or_else_from_the_reward(
    info: dict[str, Any], reward: float, correct: bool
) -> None:
    assert trajectory(reward=reward, turns=(turn(**info),)).is_correct is correct
