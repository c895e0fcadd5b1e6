"""The interaction budget, as it is earned."""

import json

import pytest

from agents.config.schedules import CompetenceConfig
from agents.core.errors import ConfigError
from agents.rollout.budget import ByCompetence

EASY = CompetenceConfig(first=2, last=4, window=2, exhausted=0.5, accuracy=0.5)


def figures(budget: float, exhausted: float = 1.0, accuracy: float = 1.0) -> dict[str, float]:
    return {"interaction_budget": budget, "tools/budget_exhausted_ratio": exhausted, "accuracy": accuracy}


def test_it_grows_one_by_one_up_to_the_last_when_it_is_used_up_and_answers_are_right() -> None:
    schedule = ByCompetence(EASY)
    seen = []
    for _ in range(8):
        seen.append(schedule.budget)
        schedule.observe(figures(seen[-1]))
    assert seen == [2, 2, 3, 3, 4, 4, 4, 4]


@pytest.mark.parametrize(("exhausted", "accuracy"), [(0.4, 1.0), (1.0, 0.4), (0.0, 0.0)])
def test_it_stays_where_either_is_missing(exhausted: float, accuracy: float) -> None:
    schedule = ByCompetence(EASY)
    for _ in range(10):
        schedule.observe(figures(2, exhausted, accuracy))
    assert schedule.budget == 2


def test_the_means_of_the_last_steps_decide() -> None:
    schedule = ByCompetence(EASY)
    for accuracy in (0.0, 0.9, 0.0, 0.9, 0.05):
        schedule.observe(figures(2, 1.0, accuracy))
        assert schedule.budget == 2
    schedule.observe(figures(2, 1.0, 1.0))
    assert schedule.budget == 3


def test_steps_without_a_valid_reward_count_as_wrong() -> None:
    schedule = ByCompetence(EASY)
    for _ in range(5):
        schedule.observe({"interaction_budget": 2, "tools/budget_exhausted_ratio": 1.0})
    assert schedule.budget == 2


def test_what_was_sampled_before_a_rise_does_not_count_towards_the_next() -> None:
    schedule = ByCompetence(EASY)
    for _ in range(2):
        schedule.observe(figures(2))
    for _ in range(5):
        schedule.observe(figures(2))
    assert schedule.budget == 3


def test_it_goes_on_from_what_was_written_down() -> None:
    one, two = ByCompetence(EASY), ByCompetence(EASY)
    for _ in range(3):
        one.observe(figures(one.budget))
    two.restore(json.loads(json.dumps(one.as_json())))
    for schedule in (one, two):
        schedule.observe(figures(3))
    assert one.budget == two.budget == 4


def test_thresholds_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^Expect `accuracy` in \[0, 1\], got 2\.$"):
        CompetenceConfig(accuracy=2)
    for first in (0, 5):  # a budget of nothing is never used up, and would not grow
        with pytest.raises(ConfigError, match=rf"^Expect `first` from 1 to last, got {first}\.$"):
            CompetenceConfig(first=first)
