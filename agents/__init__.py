"""The trainer: a policy samples text, an environment answers, PPO updates the policy.

It sees the environment through the Gymnasium API only, so that any text environment can take its place::

    from agents import Trainer, presets

    trainer = Trainer(presets["tiny"]())
    trainer.train()
    trainer.close()

``__all__`` is the public API:

- `Trainer`, `presets` and `TrainConfig` with its groups `EnvConfig`, `RolloutConfig`, `PPOConfig`, `SelectionConfig`,
  `ValidationConfig`, `CurriculumConfig`, `LoraConfig` and `HealthConfig` train;
- `Callback` watches a run, `read_metrics` reads what it has written;
- `EvalConfig` and `evaluate` measure; `Trajectory` is one episode;
- `AgentsError` is the base class of every exception.

Importing this package imports nothing heavy.

Raises:
    ModuleNotFoundError: The libraries of the extra ``train`` are not installed.
"""

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if absent := [library for library in ("torch", "transformers", "tyro") if find_spec(library) is None]:
    raise ModuleNotFoundError(
        f"Expect the libraries of the trainer, got no {', '.join(absent)}: pip install -e '.[train]' "
        "(without a GPU: pip install -c constraints-cpu.txt -e '.[train]')."
    )
if "OMP_WAIT_POLICY" not in os.environ:
    # waking a thread takes longer than most operators; to wait for long would take a core from the sandbox's processes
    os.environ.setdefault("GOMP_SPINCOUNT", "2500")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from agents.config.evaluation import EvalConfig
from agents.config.presets import presets
from agents.config.training import (
    CurriculumConfig,
    EnvConfig,
    HealthConfig,
    LoraConfig,
    PPOConfig,
    RolloutConfig,
    SelectionConfig,
    TrainConfig,
    ValidationConfig,
)
from agents.core.errors import AgentsError
from agents.core.files import read_metrics
from agents.core.types import Trajectory
from agents.tracking.callbacks import Callback

if TYPE_CHECKING:
    from agents.evaluation.runner import run as evaluate
    from agents.training.trainer import Trainer

__all__ = [
    "AgentsError",
    "Callback",
    "CurriculumConfig",
    "EnvConfig",
    "EvalConfig",
    "HealthConfig",
    "LoraConfig",
    "PPOConfig",
    "RolloutConfig",
    "SelectionConfig",
    "TrainConfig",
    "Trainer",
    "Trajectory",
    "ValidationConfig",
    "evaluate",
    "presets",
    "read_metrics",
]


def __getattr__(name: str) -> Any:
    if name == "Trainer":
        from agents.training.trainer import Trainer

        return Trainer
    if name == "evaluate":
        from agents.evaluation.runner import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
