"""The interaction budget by competence."""

import json

import pytest

from agents.config.schedules import CompetenceConfig
from agents.core.errors import ConfigError
from agents.rollout.budget import ByCompetence

EASY = CompetenceConfig(first=2, last=4, window=2, exhausted=0.5, accuracy=0.5)


def metrics(budget: float, exhausted: float = 1.0, accuracy: float = 1.0) -> dict[str, float]:
    return {"interaction_budget": budget, "tools/budget_exhausted_ratio": exhausted, "accuracy": accuracy}


def test_it_grows_by_one_up_to_the_last_when_it_is_exhausted_and_answers_are_right() -> None:
    schedule = ByCompetence(EASY)
    seen = []
    for _ in range(8):
        seen.append(schedule.budget)
        schedule.observe(metrics(seen[-1]))
    assert seen == [2, 2, 3, 3, 4, 4, 4, 4]


@pytest.mark.parametrize(("exhausted", "accuracy"), [(0.4, 1.0), (1.0, 0.4), (0.0, 0.0)])
def test_it_stays_if_either_threshold_is_missed(exhausted: float, accuracy: float) -> None:
    schedule = ByCompetence(EASY)
    for _ in range(10):
        schedule.observe(metrics(2, exhausted, accuracy))
    assert schedule.budget == 2


def test_the_means_of_the_last_steps_decide() -> None:
    schedule = ByCompetence(EASY)
    for accuracy in (0.0, 0.9, 0.0, 0.9, 0.05):
        schedule.observe(metrics(2, 1.0, accuracy))
        assert schedule.budget == 2
    schedule.observe(metrics(2, 1.0, 1.0))
    assert schedule.budget == 3


def test_steps_without_a_valid_reward_count_as_wrong() -> None:
    schedule = ByCompetence(EASY)
    for _ in range(5):
        schedule.observe({"interaction_budget": 2, "tools/budget_exhausted_ratio": 1.0})
    assert schedule.budget == 2


def test_steps_sampled_before_a_raise_do_not_count_towards_the_next() -> None:
    schedule = ByCompetence(EASY)
    for _ in range(2):
        schedule.observe(metrics(2))
    for _ in range(5):
        schedule.observe(metrics(2))
    assert schedule.budget == 3


def test_it_resumes_from_the_saved_state() -> None:
    one, two = ByCompetence(EASY), ByCompetence(EASY)
    for _ in range(3):
        one.observe(metrics(one.budget))
    two.restore(json.loads(json.dumps(one.as_json())))
    for schedule in (one, two):
        schedule.observe(metrics(3))
    assert one.budget == two.budget == 4


def test_thresholds_out_of_range_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"^Expect `accuracy` in \[0, 1\], got 2\.$"):
        CompetenceConfig(accuracy=2)
    for first in (0, 5):  # a budget of 0 is never exhausted, and would not grow
        with pytest.raises(ConfigError, match=rf"^Expect `first` from 1 to last, got {first}\.$"):
            CompetenceConfig(first=first)
