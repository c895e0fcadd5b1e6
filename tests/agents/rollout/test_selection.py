"""Which episodes are trained on."""

from typing import Any

import pytest
from agents_fakes import trajectory

from agents.config.training import RolloutConfig, SelectionConfig, TrainConfig
from agents.core.errors import ConfigError
from agents.core.types import Trajectory, Turn
from agents.learning.batching import collate
from agents.rollout.selection import choose, describe, is_in_loss, teaches, thin_out, until_enough

ALL = SelectionConfig()
DIFFERING = SelectionConfig(differing_rewards=True)


def group(number: int, *rewards: float | None) -> list[Trajectory]:
    """A group with these rewards; None: not valid."""
    return [trajectory(group_id=number, reward=r or 0.0, reward_valid=r is not None) for r in rewards]


def called(reward: float, *statuses: str, **changes: Any) -> Trajectory:
    """An episode whose blocks had these statuses."""
    turns = [Turn(text="", feedback="", finish_reason="stop", info={"execution_status": each}) for each in statuses]
    answer = Turn(text="", feedback="", finish_reason="stop", info={"predicted": "4"})
    return trajectory(reward=reward, turns=(*turns, answer), **changes)


def group_ids(made: list[Trajectory]) -> list[int]:
    return [each.group_id for each in made]


def test_rewards_that_differ_by_rounding_alone_do_not_differ() -> None:
    assert not teaches(group(0, 0.1 + 0.2, 0.3), DIFFERING)
    assert describe(group(0, 0.1 + 0.2, 0.3))["frac_reward_zero_std"] == 1


def test_groups_after_the_last_one_needed_do_not_count() -> None:
    groups = [*group(0, 1, 1), *group(1, 1, -1), *group(2, -1, -1), *group(3, -1, 1), *group(4, 1, -1)]
    assert group_ids(until_enough(groups, 1, DIFFERING)) == [0, 0, 1, 1]
    assert group_ids(until_enough(groups, 9, DIFFERING)) == group_ids(groups)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [((1, -1), True), ((1, 1), False), ((1, None), False), ((1, None, -1), True), ((None, None), False)],
)
def test_a_group_is_kept_if_its_valid_rewards_differ(rewards: Any, expected: bool) -> None:
    assert teaches(group(0, *rewards), DIFFERING) is expected


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [((1, 1, 1, 1), False), ((1, 1, 1, -1), True), ((1, -1, -1, -1), False), ((1, 1, None, None), False)],
)
def test_a_group_is_kept_if_its_accuracy_is_within_the_range(rewards: Any, expected: bool) -> None:
    assert teaches(group(0, *rewards), SelectionConfig(min_accuracy=0.5, max_accuracy=0.9)) is expected


def test_without_a_filter_every_group_with_a_valid_reward_is_kept() -> None:
    groups = [*group(0, 1, 1), *group(1, None, None), *group(2, -1, 1)]
    assert group_ids(choose(groups, 9, ALL)) == [0, 0, 2, 2]


def test_the_first_groups_that_pass_the_filters_are_chosen() -> None:
    groups = [*group(0, 1, 1), *group(1, 1, -1), *group(2, -1, -1), *group(3, -1, 1), *group(4, 1, -1)]
    assert group_ids(choose(groups, 2, DIFFERING)) == [1, 1, 3, 3]
    assert group_ids(choose(groups, 9, DIFFERING)) == [1, 1, 3, 3, 4, 4]


def test_if_no_group_passes_the_filters_none_is_chosen() -> None:
    assert choose([*group(0, 1, 1), *group(1, -1, -1), *group(2, 1, 1)], 2, DIFFERING) == []


def test_the_cleanest_right_episodes_are_kept_and_the_first_wrong_ones() -> None:
    right = [called(1, "error", "ok"), called(1, "ok", "ok"), called(1, "ok"), called(1, "error")]
    wrong = [called(-1, "error"), called(-1), called(-1, "ok"), called(-1, "timeout")]
    mixed = [right[0], wrong[0], right[1], wrong[1], right[2], wrong[2], right[3], wrong[3]]
    assert thin_out(mixed, 4) == [wrong[0], right[1], wrong[1], right[2]]
    assert thin_out(mixed, 8) == thin_out(mixed, None) == mixed


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        ((1, 1, 1, 1), [1, 1]),
        ((-1, -1, -1, -1), [-1, -1]),
        ((-1, -1, -1, 1), [-1, 1]),  # a rare right one stays
        ((1, 1, 1, -1), [1, 1]),
        ((None, 1, None, -1), [1, -1]),
        ((None, None, None, -1), [-1]),
    ],
)
def test_proportions_are_kept_and_invalid_episodes_are_dropped_first(rewards: Any, kept: list[int]) -> None:
    assert [each.reward for each in thin_out(group(0, *rewards), 2)] == kept


def test_a_group_is_thinned_out_when_it_is_chosen() -> None:
    groups = [*group(0, 1, -1, 1, -1), *group(1, 1, 1, 1, 1)]
    made = choose(groups, 2, SelectionConfig(keep_generations=2, differing_rewards=True))
    assert [(each.group_id, each.reward) for each in made] == [(0, 1), (0, -1)]


def test_truncated_answers_and_void_turns_can_be_excluded_from_the_loss() -> None:
    cut = trajectory(truncated=True, terminated=False)
    void = trajectory(turns=(Turn(text="", feedback="", finish_reason="stop", info={"predicted": None}),))
    plain = called(1)
    for config, expected in (
        (ALL, [True, True, True]),
        (SelectionConfig(mask_truncated_completions=True), [False, True, True]),
        (SelectionConfig(mask_void_turns=True), [True, False, True]),
    ):
        assert [is_in_loss(each, config) for each in (cut, void, plain)] == expected


def test_what_is_excluded_from_the_loss_keeps_its_reward() -> None:
    batch = collate([trajectory("P s s", reward=2.0), trajectory("P s", reward=3.0)], in_loss=[False, True])
    assert batch.action_mask.tolist() == [[False, False, False], [False, True, False]]
    assert batch.rewards.tolist() == [2.0, 3.0]


def test_keeping_more_episodes_than_a_group_has_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"^Expect `keep_generations` of at most num_generations \(8\), got 9\.$"):
        TrainConfig(rollout=RolloutConfig(num_generations=8), selection=SelectionConfig(keep_generations=9))
    with pytest.raises(ConfigError, match=r"^Expect `min_accuracy` and max_accuracy in order in \[0, 1\]"):
        SelectionConfig(min_accuracy=0.9, max_accuracy=0.1)
