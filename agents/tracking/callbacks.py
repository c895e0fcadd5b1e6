"""Callbacks: user code that runs during training, without changes to the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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
