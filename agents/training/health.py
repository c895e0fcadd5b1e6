"""The health of a run: skips broken optimizer steps, and warns about collapses that need a person's attention."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from agents.core.distributed import rank
from agents.core.errors import UnhealthyError
from agents.core.samples import transcript
from agents.core.types import Trajectory

if TYPE_CHECKING:
    from agents.config.training import HealthConfig
    from agents.learning.ppo import Part

_MAX_FILES = 8  # the first ones show the beginning
_LEAST_CODE_USE = 0.1  # below this, a step without any code may be chance


class Health:
    """Checks optimizer steps before they are taken, and training steps against the steps before them.

    A training step counts once it has ended: a checkpoint contains the health after the last completed step.

    Args:
        config: The thresholds.
        folder: Folder for the tensors of skipped minibatches (read them with ``torch.load``) and the transcripts of
            collapsed steps (JSON), at most 8 files.
        log: Receives lines for the user.
    """

    def __init__(self, config: HealthConfig, folder: Path, log: Callable[[str], Any]) -> None:
        self._config, self._folder, self._log = config, folder, log
        self._faults: list[str | None] = []  # of each optimizer step of the current training step
        self._last_fault: str | None = None  # of the last completed training step
        self._skipped_in_a_row = self._collapsed_in_a_row = 0
        self._shares = {"entropy": config.entropy_collapse, "tools/use_ratio": config.code_use_collapse}
        self._recent: dict[str, list[float]] = {name: [] for name in self._shares}

    def admits(self, step: int, metrics: Mapping[str, float], part: Part) -> bool:
        """Return whether an optimizer step may be taken; if not, log it and save its minibatch for inspection.

        Args:
            step: Number of the current training step, from 1.
            metrics: Means over the minibatch's sampled tokens, and ``grad_norm``.
            part: The minibatch.
        """
        fault = fault_of(metrics, self._config)
        self._faults.append(fault)
        if fault is None:
            return True
        number = len(self._faults)
        self._log(f"Step {step} skips its optimizer step {number}: {fault}. Weights and optimizer state are unchanged.")
        tensors = {type(each).__name__: _tensors(each) for each in part}
        data = {"step": step, "fault": fault, "figures": dict(metrics), **tensors}
        self._keep(f"step-{step}-minibatch-{number}.pt", lambda path: torch.save(data, path))
        return False

    def end_step(self, step: int, metrics: Mapping[str, float], trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Record a completed training step.

        Args:
            step: Its number, from 1.
            metrics: Its metrics.
            trajectories: Its trajectories; saved for inspection if the step collapsed.

        Returns:
            The ``health/*`` metrics of the step.
        """
        for fault in self._faults:
            self._skipped_in_a_row = 0 if fault is None else self._skipped_in_a_row + 1
        collapsed = {name: name in metrics and self._collapsed(name, metrics[name]) for name in self._recent}
        for name in [name for name, has in collapsed.items() if has]:
            usual = fmean(self._recent[name])
            self._log(f"Warning: {name} is {metrics[name]:.3g} in step {step}, after {usual:.3g} in the steps before.")
            texts = json.dumps([transcript(t) for t in trajectories], indent=1, default=str)
            self._keep(f"step-{step}-{name.replace('/', '-')}.json", partial(_write, texts))
        self._collapsed_in_a_row = self._collapsed_in_a_row + 1 if any(collapsed.values()) else 0
        for name in self._recent.keys() & metrics.keys():
            self._recent[name] = [*self._recent[name], metrics[name]][-self._config.window :]
        skipped = sum(fault is not None for fault in self._faults)
        self._last_fault = next((fault for fault in reversed(self._faults) if fault is not None), None)
        self._faults = []
        return {
            "health/skipped_steps": float(skipped),
            "health/skipped_in_a_row": float(self._skipped_in_a_row),
            "health/entropy_collapse": float(collapsed["entropy"]),
            "health/code_use_collapse": float(collapsed["tools/use_ratio"]),
        }

    def check(self) -> None:
        """Check whether the run may continue.

        Raises:
            UnhealthyError: At least ``max_skipped_steps`` optimizer steps were skipped in a row, or at least
                ``max_collapsed_steps`` training steps collapsed in a row.
        """
        count, limit = self._skipped_in_a_row, self._config.max_skipped_steps
        if count >= limit and self._last_fault is not None:
            raise UnhealthyError(
                f"Expect fewer than {limit} skipped optimizer steps in a row, got {count}, the last one for "
                f"{self._last_fault}: look into {self._folder}. The last completed step is saved; --resume retries."
            )
        count, bound = self._collapsed_in_a_row, self._config.max_collapsed_steps
        if bound is not None and count >= bound:
            raise UnhealthyError(
                f"Expect fewer than {bound} collapsed steps in a row, got {count}: look into {self._folder}. "
                "The last completed step is saved; --resume continues from it."
            )

    def as_json(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        in_a_row = {"skipped_in_a_row": self._skipped_in_a_row, "collapsed_in_a_row": self._collapsed_in_a_row}
        return in_a_row | {"recent": dict(self._recent)}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Restore the state of :meth:`as_json`."""
        self._skipped_in_a_row = int(data["skipped_in_a_row"])
        self._collapsed_in_a_row = int(data["collapsed_in_a_row"])
        self._recent = {name: list(map(float, data["recent"][name])) for name in self._recent}

    def _collapsed(self, name: str, value: float) -> bool:
        recent = self._recent[name]
        if len(recent) < self._config.window:
            return False
        usual = fmean(recent)
        return value < self._shares[name] * usual and (name != "tools/use_ratio" or usual >= _LEAST_CODE_USE)

    def _keep(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file for inspection unless there are enough; errors are only logged."""
        if rank() > 0:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if len(list(self._folder.iterdir())) < _MAX_FILES:
                write(self._folder / name)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
            self._log(f"Warning: could not save {name} for inspection: {error}.")


def fault_of(metrics: Mapping[str, float], config: HealthConfig) -> str | None:
    """Return why an optimizer step must not be taken, or None.

    ``approx_kl`` is measured before the step: it shows how far the earlier steps of the update have moved the policy.

    >>> from agents.config.training import HealthConfig
    >>> fault_of({"policy_loss": 0.1, "approx_kl": 0.2, "grad_norm": float("nan")}, HealthConfig())
    'grad_norm nan'
    >>> fault_of({"policy_loss": 0.1, "approx_kl": 0.2, "grad_norm": 1.0}, HealthConfig(max_approx_kl=0.1))
    'approx_kl 0.2, above 0.1'
    >>> fault_of({"policy_loss": 0.1, "approx_kl": 0.2, "grad_norm": 1.0}, HealthConfig())
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            return f"{name} {value}"
    bound = config.max_approx_kl
    if bound is not None and metrics["approx_kl"] > bound:
        return f"approx_kl {metrics['approx_kl']:.3g}, above {bound:g}"
    return None


def _write(text: str, path: Path) -> None:
    path.write_text(text)


def _tensors(part: Any) -> dict[str, torch.Tensor]:
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return {name: value.cpu() for name, value in values.items() if value is not None}
