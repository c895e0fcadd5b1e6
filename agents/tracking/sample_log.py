"""Writes a few transcripts per step, right and wrong ones, to ``samples.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from agents.core.files import append_json_lines, drop_rows
from agents.core.samples import transcript
from agents.core.types import Trajectory
from agents.tracking.callbacks import Callback, Run

if TYPE_CHECKING:
    from agents.config.training import TrainConfig


class SampleLog(Callback):
    """Appends transcripts every ``samples_every`` steps and after each validation.

    Each row adds the step and its ``kind`` to the transcript: "training", or the set or arm of a validation. A resumed
    run first drops the rows after its checkpoint.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._path = config.output_dir / "samples.jsonl"
        self._every, self._count = config.samples_every, config.samples_per_step

    def on_train_begin(self, run: Run) -> None:
        """Drop rows that were written after the checkpoint."""
        drop_rows(self._path, keep_before=run.step + 1 if run.step else 0)

    def on_step_end(self, run: Run, metrics: Mapping[str, float], trajectories: Sequence[Trajectory]) -> None:
        """Write some of the step's trajectories."""
        if self._every and run.step % self._every == 0:
            self._write(run.step, "training", trajectories)

    def on_validation(
        self, run: Run, metrics: Mapping[str, float], trajectories: Mapping[str, Sequence[Trajectory]]
    ) -> None:
        """Write some trajectories of each validation set and arm."""
        for kind, played in trajectories.items():
            self._write(run.step, kind, played)

    def _write(self, step: int, kind: str, trajectories: Sequence[Trajectory]) -> None:
        chosen = choose_samples(trajectories, self._count)
        append_json_lines(self._path, ({"step": step, "kind": kind, **transcript(each)} for each in chosen))


def choose_samples(trajectories: Sequence[Trajectory], count: int) -> list[Trajectory]:
    """Return up to ``count`` trajectories, alternating right and wrong ones.

    Pairs from problems with both outcomes come first: they show best what makes the difference. Each problem appears
    at most once per outcome.
    """
    problems: dict[int, dict[bool, Trajectory]] = {}
    for each in trajectories:
        problems.setdefault(each.group_id, {}).setdefault(each.is_correct, each)
    both = [outcomes[correct] for outcomes in problems.values() if len(outcomes) == 2 for correct in (True, False)]
    right, wrong = (
        [outcomes[correct] for outcomes in problems.values() if set(outcomes) == {correct}] for correct in (True, False)
    )
    rest = [each for pair in zip_longest(right, wrong) for each in pair if each is not None]
    return (both + rest)[:count]
