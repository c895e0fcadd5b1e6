"""What a user's own code may do during a run, without a change to the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from agents.config.training import TrainConfig
    from agents.core.types import Trajectory


class Run(Protocol):
    """A training run as callbacks see it; :class:`agents.Trainer` is one."""

    step: int
    """Whole steps so far."""
    config: TrainConfig
    """The run's configuration."""
    log: Callable[[str], Any]
    """Writes a line for the user."""

    @property
    def data_summary(self) -> str | None:
        """What the run trains on, in a line, where the environment says so."""

    def stop(self) -> None:
        """End the run as Ctrl-C does."""


class Callback:
    """Hooks of a run, each of which does nothing; a subclass overrides those that it needs.

    An exception ends the run as one of the trainer's own would, with a checkpoint of the last whole step.

    Example::

        class StopWhenGood(Callback):
            def on_validation(self, run, metrics, trajectories):
                if metrics["validation/accuracy"] > 0.99:
                    run.stop()

        Trainer(config, callbacks=[StopWhenGood()])
    """

    def on_train_begin(self, run: Run) -> None:
        """Do something before the first step, or before the first after a resume."""

    def on_step_end(self, run: Run, figures: Mapping[str, float], trajectories: Sequence[Trajectory]) -> None:
        """Look at a step's figures, as they were logged, and at the trajectories it was given to train on."""

    def on_validation(
        self, run: Run, figures: Mapping[str, float], trajectories: Mapping[str, Sequence[Trajectory]]
    ) -> None:
        """Look at a validation's figures, and at the trajectories of each of its arms by name."""

    def on_save(self, run: Run, path: Path) -> None:
        """Do something with a checkpoint that was just written."""

    def on_train_end(self, run: Run) -> None:
        """Do something after the last step, whose checkpoint is there; not called after an error."""
