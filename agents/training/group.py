"""A run whose training processes are on a Ray cluster; this process starts them, and restarts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents.config.training import TrainConfig
from agents.training.preflight import check_libraries
from agents.training.stop_request import StopRequest
from agents.training.trainer import Trainer


class TrainingGroup:
    """Trains as `Trainer` does, in ``config.cluster.trainers`` processes; see `agents.cluster.trainers`.

    Args:
        config: The run.
        log: Takes lines for the user.
    """

    def __init__(self, config: TrainConfig, *, log: Callable[[str], Any] = print) -> None:
        check_libraries(config)
        self.log = log
        self.stop_request = StopRequest(log)
        self._config = replace(config, output_dir=Path(config.output_dir).absolute())

    def train(self) -> bool:
        """Run to ``max_steps``; return False if the run was asked to stop before."""
        from agents.cluster.trainers import train_together

        with self.stop_request.on_signals():
            return train_together(Trainer, self._config, should_stop=lambda: self.stop_request.asked, log=self.log)

    def close(self) -> None:
        """Do nothing: the processes have ended with :meth:`train`."""
