"""Settings that change during a run: schedules over training steps, and the interaction budget by competence."""

from __future__ import annotations

from dataclasses import dataclass

from agents.core.errors import expect


def parse_schedule(schedule: str) -> list[tuple[int, str]]:
    """Return the steps and values of ``step:value`` pairs in rising order of steps, the first at step 0; else nothing.

    >>> parse_schedule("0:algebra,100:algebra|geometry"), parse_schedule("100:algebra")
    ([(0, 'algebra'), (100, 'algebra|geometry')], [])
    """
    pairs = [
        (start.strip(), value.strip()) for start, _, value in (pair.partition(":") for pair in schedule.split(","))
    ]
    if not all(start.isdecimal() and value for start, value in pairs):
        return []
    steps = [int(start) for start, _ in pairs]
    in_order = steps[0] == 0 and steps == sorted(set(steps))
    return [(step, value) for step, (_, value) in zip(steps, pairs, strict=True)] if in_order else []


def parse_budgets(schedule: str) -> list[tuple[int, int]]:
    """Return the steps at which the interaction budget changes, the first at step 0, each with the budget from then on.

    Args:
        schedule: As for :func:`parse_schedule`; or one number for all steps.

    Raises:
        ConfigError: The schedule cannot be read.

    >>> parse_budgets("0:2,100:3,200:4"), parse_budgets("2")
    ([(0, 2), (100, 3), (200, 4)], [(0, 2)])
    """
    pairs = parse_schedule(schedule if ":" in schedule else f"0:{schedule}")
    valid = bool(pairs) and all(budget.isdecimal() for _, budget in pairs)
    expect(valid, "interaction_budget", "like '2', '0:2,100:3,200:4' or 'competence'", schedule)
    return [(step, int(budget)) for step, budget in pairs]


@dataclass(frozen=True, kw_only=True)
class CompetenceConfig:
    """When the interaction budget grows by one, if it grows by competence."""

    first: int = 2
    """First budget."""
    last: int = 4
    """Largest budget."""
    window: int = 10
    """Steps over which both metrics are averaged, all at the current budget."""
    exhausted: float = 0.3
    """Minimum share of episodes that exhaust their budget."""
    accuracy: float = 0.5
    """Minimum share of correct training episodes."""

    def __post_init__(self) -> None:
        expect(self.window >= 1, "window", "of at least 1", self.window)
        expect(1 <= self.first <= self.last, "first", "from 1 to last", self.first)
        for name in ("exhausted", "accuracy"):
            expect(0 <= getattr(self, name) <= 1, name, "in [0, 1]", getattr(self, name))
