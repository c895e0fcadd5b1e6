"""The trainer: a policy samples text, an environment answers, PPO updates the policy.

It sees the environment through the Gymnasium API only, so that any text environment can take its place::

    from agents import Trainer, presets

    trainer = Trainer(presets["tiny"]())
    trainer.train()
    trainer.close()

Importing this package imports nothing heavy.
"""

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads would spin against the sandbox's processes
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from agents.config.presets import presets
from agents.config.training import TrainConfig
from agents.tracking.callbacks import Callback

if TYPE_CHECKING:
    from agents.training.trainer import Trainer

__all__ = ["Callback", "TrainConfig", "Trainer", "presets"]


def __getattr__(name: str) -> Any:
    if name != "Trainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agents.training.trainer import Trainer

    return Trainer
