"""Callbacks: user code that runs during training, without changes to the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agents.core.files import append_json_lines, drop_rows
from agents.core.samples import transcript

if TYPE_CHECKING:
    from agents.config.training import TrainConfig
    from agents.core.types import Trajectory


class Run(Protocol):
    """A training run as callbacks see it; implemented by :class:`agents.Trainer`."""

    step: int
    """Number of completed steps."""
    config: TrainConfig
    """The run's configuration."""
    log: Callable[[str], Any]
    """Prints a line for the user."""

    @property
    def data_summary(self) -> str | None:
        """One line about the training problems, if the environment provides it."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""

    def stop(self) -> None:
        """Stop the run as Ctrl-C does: with a checkpoint of the last completed step."""


class Callback:
    """Base class of callbacks: every hook does nothing, subclasses override the ones they need.

    An exception ends the run like one of the trainer's own, with a checkpoint of the last completed step.

    Example::

        class StopWhenGood(Callback):
            def on_validation(self, run, metrics, trajectories):
                if metrics["validation/accuracy"] > 0.99:
                    run.stop()

        Trainer(config, callbacks=[StopWhenGood()])
    """

    def on_train_begin(self, run: Run) -> None:
        """Run before the first step, also of a resumed run."""

    def on_step_end(self, run: Run, metrics: Mapping[str, float], trajectories: Sequence[Trajectory]) -> None:
        """Run after each training step.

        Args:
            run: The run; ``run.step`` is the number of the step.
            metrics: The step's metrics, as logged.
            trajectories: The trajectories given to the step.
        """

    def on_validation(
        self, run: Run, metrics: Mapping[str, float], trajectories: Mapping[str, Sequence[Trajectory]]
    ) -> None:
        """Run after each validation.

        Args:
            run: The run.
            metrics: The validation's metrics, as logged.
            trajectories: The trajectories by validation set or arm.
        """

    def on_save(self, run: Run, path: Path) -> None:
        """Run after a checkpoint has been written to ``path``."""

    def on_train_end(self, run: Run) -> None:
        """Run after the last step and its checkpoint; not called after an error."""


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
            self._write(run, "training", trajectories)

    def on_validation(
        self, run: Run, metrics: Mapping[str, float], trajectories: Mapping[str, Sequence[Trajectory]]
    ) -> None:
        """Write some trajectories of each validation set and arm."""
        for kind, played in trajectories.items():
            self._write(run, kind, played)

    def _write(self, run: Run, kind: str, trajectories: Sequence[Trajectory]) -> None:
        chosen = choose_samples(trajectories, self._count)
        rows = ({"step": run.step, "kind": kind, **transcript(each, decode=run.decode)} for each in chosen)
        append_json_lines(self._path, rows)


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
