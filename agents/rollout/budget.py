"""How the interaction budget changes during a run: by a schedule of steps, or by competence."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from agents.config.schedules import CompetenceConfig


class ByCompetence:
    """Grows by one when the policy uses its budget up and is right often enough.

    A fixed schedule raises the budget whether or not the policy is ready; the paper's accuracy drops right after each
    rise (its figure of test accuracy by step).

    Args:
        config: Where it begins and ends, and what it takes.
    """

    def __init__(self, config: CompetenceConfig) -> None:
        self._config = config
        self._budget = config.first
        self._recent: deque[tuple[float, float]] = deque(maxlen=config.window)

    @property
    def budget(self) -> int:
        """What the steps so far have earned."""
        return self._budget

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Grow if the means of the last ``window`` steps at this budget pass both thresholds."""
        if metrics.get("interaction_budget", self._budget) != self._budget:
            return  # sampled before the last rise
        self._recent.append((metrics["tools/budget_exhausted_ratio"], metrics.get("accuracy", 0.0)))
        config = self._config
        if len(self._recent) < config.window or self._budget >= config.last:
            return
        exhausted, accuracy = (fmean(values) for values in zip(*self._recent, strict=True))
        if exhausted >= config.exhausted and accuracy >= config.accuracy:
            self._budget += 1
            self._recent.clear()

    def as_json(self) -> dict[str, Any]:
        """Return the budget, and the recent metrics that decide the next one."""
        return {"budget": self._budget, "recent": list(self._recent)}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Continue from what was earned."""
        self._budget = int(data["budget"])
        self._recent.clear()
        self._recent.extend((float(exhausted), float(accuracy)) for exhausted, accuracy in data["recent"])
