"""Transcripts of a run, in ``samples.jsonl``: a few of each step, right and wrong ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from agents.core.samples import transcript
from agents.core.types import Trajectory
from agents.rollout.metrics import is_correct
from agents.tracking.callbacks import Callback
from agents.tracking.trackers import drop_rows

if TYPE_CHECKING:
    from agents.config.training import TrainConfig
    from agents.training.trainer import Trainer


class SampleLog(Callback):
    """Appends transcripts every ``samples_every`` steps and after each validation.

    A row has the step and its ``kind``, "training" or the set or arm of a validation, beside the transcript. A resumed
    run has each step once.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._path = config.output_dir / "samples.jsonl"
        self._every, self._count = config.samples_every, config.samples_per_step

    def on_train_begin(self, trainer: Trainer) -> None:
        """Drop what an earlier run wrote after the checkpoint."""
        drop_rows(self._path, keep_before=trainer.step + 1 if trainer.step else 0)

    def on_step_end(self, trainer: Trainer, figures: Mapping[str, float], trajectories: Sequence[Trajectory]) -> None:
        """Write what the step was trained on."""
        if self._every and trainer.step % self._every == 0:
            self._write(trainer.step, "training", trajectories)

    def on_validation(
        self, trainer: Trainer, figures: Mapping[str, float], trajectories: Mapping[str, Sequence[Trajectory]]
    ) -> None:
        """Write some of each set and arm."""
        for kind, played in trajectories.items():
            self._write(trainer.step, kind, played)

    def _write(self, step: int, kind: str, trajectories: Sequence[Trajectory]) -> None:
        with self._path.open("a") as file:
            for trajectory in choose_samples(trajectories, self._count):
                file.write(json.dumps({"step": step, "kind": kind, **transcript(trajectory)}) + "\n")


def choose_samples(trajectories: Sequence[Trajectory], count: int) -> list[Trajectory]:
    """Return up to ``count`` trajectories, right and wrong in turn.

    Those of problems that were solved and missed come first, side by side: they show best what makes the difference.
    No problem is shown twice for the same outcome.
    """
    problems: dict[int, dict[bool, Trajectory]] = {}
    for each in trajectories:
        problems.setdefault(each.group_id, {}).setdefault(is_correct(each), each)
    both = [outcomes[correct] for outcomes in problems.values() if len(outcomes) == 2 for correct in (True, False)]
    right, wrong = (
        [outcomes[correct] for outcomes in problems.values() if set(outcomes) == {correct}] for correct in (True, False)
    )
    rest = [each for pair in zip_longest(right, wrong) for each in pair if each is not None]
    return (both + rest)[:count]
