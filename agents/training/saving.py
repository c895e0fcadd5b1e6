"""Saves runs, keeps the best checkpoint, and restores runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agents.core.errors import CheckpointError
from agents.tracking.callbacks import Run
from agents.training import checkpoint, run_folder

if TYPE_CHECKING:
    from agents.core.chat import Chat
    from agents.learning.ppo import PPO
    from agents.rollout.sampler import Sampler
    from agents.training.health import Health
    from agents.training.validation import Validator


class Trained(Run, Protocol):
    """What of a run is saved."""

    ppo: PPO
    """The policy with its optimizer."""
    chat: Chat
    """Its tokenizer is saved beside the model."""
    sampler: Sampler
    """What it has sampled and not trained on is saved."""
    validator: Validator
    """Its last step is saved."""
    health: Health
    """The health after the last whole step."""
    interaction_budget: float | None
    """That of the last whole step; None before the first."""


class Saver:
    """Writes checkpoints of whole steps, and remembers which one is the best.

    Args:
        run: The run; its step is that of the last whole one.
        on_save: Called with each checkpoint that was written.
    """

    def __init__(self, run: Trained, *, on_save: Callable[[Path], None]) -> None:
        self._run, self._on_save = run, on_save
        self._best: dict[str, Any] | None = None
        self._saved: dict[str, Any] | None = None  # the state in the last checkpoint

    def save(self) -> Path:
        """Write a checkpoint of the last whole step, unless it is there already; return where it is.

        Raises:
            CheckpointError: The disk is full or not writable.
        """
        config = self._run.config
        state = {
            "step": self._run.step,
            "config": run_folder.settings(config),
            "validated": self._run.validator.last_step,
            "best": self._best,
            "health": self._run.health.as_json(),
            "interaction_budget": self._run.interaction_budget,
            "data": self._run.data_summary,
        }
        if state == self._saved:
            return checkpoint.path_of(config.output_dir, self._run.step)
        path = checkpoint.save(
            config.output_dir,
            policy=self._run.ppo.policy,
            tokenizer=self._run.chat.tokenizer,
            optimizer=self._run.ppo.optimizer,
            state=state,
            rollouts=self._run.sampler.as_json(),
            keep=config.save_total_limit,
            lora=config.lora if config.lora.rank else None,
        )
        self._saved = state
        self._on_save(path)
        return path

    def save_or_warn(self) -> bool:
        """Save; on failure, log a warning and return False."""
        try:
            self.save()
        except CheckpointError as error:
            self._run.log(f"Warning: {error}")
            return False
        return True

    def keep_if_best(self, metrics: Mapping[str, float]) -> None:
        """Save a trained policy that is better than all before it; its own checkpoint says that it is the best."""
        name = self._run.config.best_metric
        if name is None or self._run.step == 0:
            return
        if name not in metrics:
            self._run.log(f"Warning: expect a metric {name} by which the best checkpoint is kept, got none this time.")
        elif self._best is None or metrics[name] > self._best["value"]:
            before = self._best
            path = checkpoint.path_of(self._run.config.output_dir, self._run.step)
            self._best = {"checkpoint": path.name, "metric": name, "value": metrics[name]}
            if not self.save_or_warn():
                self._best = before

    def restore(self, path: Path) -> int:
        """Restore the run from a checkpoint; return its number of whole steps."""
        state = checkpoint.read_json(path / checkpoint.STATE)
        self._run.validator.last_step = state["validated"]
        best = state["best"]
        self._best = best if best is not None and best["metric"] == self._run.config.best_metric else None
        self._run.health.restore(state["health"])
        self._run.interaction_budget = state["interaction_budget"]
        checkpoint.load_training_state(path, policy=self._run.ppo.policy, optimizer=self._run.ppo.optimizer)
        self._run.sampler.restore(checkpoint.read_json(path / checkpoint.ROLLOUTS))
        self._saved = state
        self._run.log(f"Resuming after step {state['step']}.")
        return int(state["step"])
