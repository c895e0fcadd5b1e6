"""Which trainer a configuration of ``train.py`` is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents.config.presets import AnyConfig
from agents.config.training import TrainConfig
from agents.sft import trainer as supervised
from agents.training import preflight
from agents.training.group import TrainingGroup
from agents.training.trainer import Trainer


def open_trainer(config: AnyConfig) -> Trainer | TrainingGroup | supervised.SupervisedTrainer:
    """Return the trainer; its errors are those of `Trainer` or `SupervisedTrainer`."""
    if not isinstance(config, TrainConfig):
        return supervised.SupervisedTrainer(config)
    return TrainingGroup(config) if config.cluster.trainers else Trainer(config)


def check(config: AnyConfig, *, log: Callable[[str], Any]) -> None:
    """Check all that needs neither the model nor a GPU; errors as for the two that are called."""
    if isinstance(config, TrainConfig):
        preflight.check(config, log=log)
    else:
        supervised.check(config, log=log)
