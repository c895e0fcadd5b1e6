"""Reads the metrics of a training run back from its output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from agents.core.errors import RunError
from agents.core.files import read_metrics

ARMS = {"validation": "sampled", "validation_greedy": "greedy", "validation_text": "text only"}
"""Names of the validation arms, by the prefix of their metrics."""
SUBJECT = "validation/accuracy/"
"""Prefix of the accuracy by subject."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRun:
    """The metrics of a training run."""

    name: str
    """Name of the run's output folder."""
    rows: Sequence[Mapping[str, float]]
    """The rows of ``metrics.jsonl``."""

    def series(self, key: str) -> list[tuple[float, float]]:
        """Return (step, value) of a metric, in order of steps."""
        return sorted((row["step"], row[key]) for row in self.rows if key in row)

    def before_after(self, key: str) -> tuple[float | None, float | None]:
        """Return a metric before the first and after the last step; None where it was not measured."""
        values = dict(self.series(key))
        last = self.steps
        return values.get(0), values.get(last) if last else None

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return int(max((step for step, _ in self.series("step_time")), default=0))

    @property
    def minutes(self) -> float:
        """Time spent in steps and validations, in minutes."""
        return sum(value for key in ("step_time", "time/validation_s") for _, value in self.series(key)) / 60

    @property
    def budget_changes(self) -> list[tuple[float, float]]:
        """(step, new budget) for each change of the interaction budget."""
        series = self.series("interaction_budget")
        return [now for before, now in pairwise(series) if now[1] != before[1]]

    @property
    def subjects(self) -> list[str]:
        """Subjects of the held-out problems, sorted; empty if there is only one."""
        return self.names_after(SUBJECT)

    def names_after(self, prefix: str) -> list[str]:
        """Return what follows a prefix in the names of the metrics, sorted."""
        return sorted({key.removeprefix(prefix) for row in self.rows for key in row if key.startswith(prefix)})


def is_training_run(folder: Path) -> bool:
    """Return whether a folder is the output folder of a training run."""
    return (folder / "metrics.jsonl").is_file()


def load_training_run(folder: Path) -> TrainingRun:
    """Read the metrics of a training run.

    Raises:
        RunError: The folder's ``metrics.jsonl`` is missing, empty or malformed.
    """
    path = folder / "metrics.jsonl"
    if not is_training_run(folder):
        raise RunError(f"Expect the --output-dir of a training run, got {folder}: no metrics.jsonl in it.")
    rows = read_metrics(path)
    if not rows:
        raise RunError(f"Expect metrics in {path}, got none: has the run written its first validation?")
    return TrainingRun(name=folder.resolve().name, rows=rows)
