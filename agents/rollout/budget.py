"""The interaction budget that grows with competence; `agents.config.schedules` has the fixed schedules."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from agents.config.schedules import CompetenceConfig


class ByCompetence:
    """Raises the budget by one when enough episodes exhaust it and enough are correct.

    A fixed schedule raises the budget whether or not the policy is ready: in the paper's plot of test accuracy by
    step, accuracy drops right after each raise.

    Args:
        config: First and last budget, window and thresholds.
    """

    def __init__(self, config: CompetenceConfig) -> None:
        self._config = config
        self._budget = config.first
        self._recent: deque[tuple[float, float]] = deque(maxlen=config.window)

    @property
    def budget(self) -> int:
        """The current budget."""
        return self._budget

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Raise the budget if the means over the last ``window`` steps at this budget reach both thresholds."""
        if metrics.get("interaction_budget", self._budget) != self._budget:
            return  # sampled before the last raise
        self._recent.append((metrics["tools/budget_exhausted_ratio"], metrics.get("accuracy", 0.0)))
        config = self._config
        if len(self._recent) < config.window or self._budget >= config.last:
            return
        exhausted, accuracy = (fmean(values) for values in zip(*self._recent, strict=True))
        if exhausted >= config.exhausted and accuracy >= config.accuracy:
            self._budget += 1
            self._recent.clear()

    def as_json(self) -> dict[str, Any]:
        """Return the budget and the recent metrics that decide the next raise."""
        return {"budget": self._budget, "recent": list(self._recent)}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Restore the state that :meth:`as_json` returned."""
        self._budget = int(data["budget"])
        self._recent.clear()
        self._recent.extend((float(exhausted), float(accuracy)) for exhausted, accuracy in data["recent"])
