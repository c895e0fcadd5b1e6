"""What a user's own code may do during a run, without a change to the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.core.types import Trajectory
    from agents.training.trainer import Trainer


class Callback:
    """Hooks of a run, each of which does nothing; a subclass overrides those that it needs.

    ``trainer.step`` is the number of whole steps so far, ``trainer.config`` the run's configuration. An exception ends
    the run as one of the trainer's own would, with a checkpoint of the last whole step. ``trainer.stop()`` ends it as
    Ctrl-C does.

    Example::

        class StopWhenGood(Callback):
            def on_validation(self, trainer, figures, trajectories):
                if figures["validation/accuracy"] > 0.99:
                    trainer.stop()

        Trainer(config, callbacks=[StopWhenGood()])
    """

    def on_train_begin(self, trainer: Trainer) -> None:
        """Do something before the first step, or before the first after a resume."""

    def on_step_end(self, trainer: Trainer, figures: Mapping[str, float], trajectories: Sequence[Trajectory]) -> None:
        """Look at a step's figures, as they were logged, and at the trajectories it was given to train on."""

    def on_validation(
        self, trainer: Trainer, figures: Mapping[str, float], trajectories: Mapping[str, Sequence[Trajectory]]
    ) -> None:
        """Look at a validation's figures, and at the trajectories of each of its arms by name."""

    def on_save(self, trainer: Trainer, path: Path) -> None:
        """Do something with a checkpoint that was just written."""

    def on_train_end(self, trainer: Trainer) -> None:
        """Do something after the last step, whose checkpoint is there; not called after an error."""
