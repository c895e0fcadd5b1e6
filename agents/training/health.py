"""The health of a run: optimiser steps that must not be taken, and collapses that a person should look at."""

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

_MAX_FILES = 8  # the first ones show how it began
_LEAST_CODE_USE = 0.1  # below, a step without any code is chance


class Health:
    """Judges optimiser steps before they are taken, and whole steps by what came before them.

    A step in progress counts once it has ended: what a checkpoint holds is the health after the last whole step.

    Args:
        config: The bounds.
        folder: Where what was wrong is put for inspection: a minibatch's tensors (``torch.load`` reads them) or a
            step's transcripts (JSON), at most 8 files.
        log: Takes lines for the user.
    """

    def __init__(self, config: HealthConfig, folder: Path, log: Callable[[str], Any]) -> None:
        self._config, self._folder, self._log = config, folder, log
        self._faults: list[str | None] = []  # of each optimiser step of the step in progress
        self._last_fault: str | None = None  # of the last whole step
        self._skipped_in_a_row = self._collapsed_in_a_row = 0
        self._shares = {"entropy": config.entropy_collapse, "tools/use_ratio": config.code_use_collapse}
        self._recent: dict[str, list[float]] = {name: [] for name in self._shares}

    def admits(self, step: int, figures: Mapping[str, float], part: Part) -> bool:
        """Return whether an optimiser step may be taken; if not, say so and keep its minibatch for inspection.

        Args:
            step: Number of the training step in progress, from 1.
            figures: The minibatch's means over sampled tokens, and ``grad_norm``.
            part: The minibatch.
        """
        fault = fault_of(figures, self._config)
        self._faults.append(fault)
        if fault is None:
            return True
        number = len(self._faults)
        self._log(f"Step {step} skips its optimiser step {number}: {fault}. Weights and moments stay as they were.")
        tensors = {type(each).__name__: _tensors(each) for each in part}
        data = {"step": step, "fault": fault, "figures": dict(figures), **tensors}
        self._keep(f"step-{step}-minibatch-{number}.pt", lambda path: torch.save(data, path))
        return False

    def end_step(self, step: int, figures: Mapping[str, float], trajectories: Sequence[Trajectory]) -> dict[str, float]:
        """Take a whole step into account and return its ``health/*`` figures.

        Args:
            step: Its number, from 1.
            figures: What was measured.
            trajectories: What it was given to train on; kept for inspection in a step that collapsed.
        """
        for fault in self._faults:
            self._skipped_in_a_row = 0 if fault is None else self._skipped_in_a_row + 1
        collapsed = {name: name in figures and self._collapsed(name, figures[name]) for name in self._recent}
        for name in [name for name, has in collapsed.items() if has]:
            usual = fmean(self._recent[name])
            self._log(f"Warning: {name} is {figures[name]:.3g} in step {step}, after {usual:.3g} in the steps before.")
            texts = json.dumps([transcript(t) for t in trajectories], indent=1, default=str)
            self._keep(f"step-{step}-{name.replace('/', '-')}.json", partial(_write, texts))
        self._collapsed_in_a_row = self._collapsed_in_a_row + 1 if any(collapsed.values()) else 0
        for name in self._recent.keys() & figures.keys():
            self._recent[name] = [*self._recent[name], figures[name]][-self._config.window :]
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
        """Raise where the run is to stop.

        Raises:
            UnhealthyError: The last whole step ended with ``max_skipped_steps`` skipped in a row, or more, or was the
                last one of ``max_collapsed_steps``.
        """
        count, limit = self._skipped_in_a_row, self._config.max_skipped_steps
        if count >= limit and self._last_fault is not None:
            raise UnhealthyError(
                f"Expect fewer than {limit} skipped optimiser steps in a row, got {count}, the last one for "
                f"{self._last_fault}: look into {self._folder}. The last whole step is saved; --resume tries again."
            )
        count, bound = self._collapsed_in_a_row, self._config.max_collapsed_steps
        if bound is not None and count >= bound:
            raise UnhealthyError(
                f"Expect fewer than {bound} collapsed steps in a row, got {count}: look into {self._folder}. "
                "The last whole step is saved; --resume goes on from it."
            )

    def as_json(self) -> dict[str, Any]:
        """Return what the next step's judgement rests on."""
        in_a_row = {"skipped_in_a_row": self._skipped_in_a_row, "collapsed_in_a_row": self._collapsed_in_a_row}
        return in_a_row | {"recent": dict(self._recent)}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on from what another run's health was."""
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
        """Write a file for inspection unless there are enough; a full disk must not end the run."""
        if rank() > 0:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if len(list(self._folder.iterdir())) < _MAX_FILES:
                write(self._folder / name)
        except (OSError, RuntimeError) as error:  # torch has the latter for a full disk
            self._log(f"Warning: could not keep {name} for inspection: {error}.")


def fault_of(figures: Mapping[str, float], config: HealthConfig) -> str | None:
    """Return why an optimiser step must not be taken, or None.

    ``approx_kl`` is measured before the step: a minibatch finds how far the steps before it in the same update have
    moved the policy.

    >>> from agents.config.training import HealthConfig
    >>> fault_of({"policy_loss": 0.1, "approx_kl": 0.2, "grad_norm": float("nan")}, HealthConfig())
    'grad_norm nan'
    >>> fault_of({"policy_loss": 0.1, "approx_kl": 0.2, "grad_norm": 1.0}, HealthConfig(max_approx_kl=0.1))
    'approx_kl 0.2, above 0.1'
    >>> fault_of({"policy_loss": 0.1, "approx_kl": 0.2, "grad_norm": 1.0}, HealthConfig())
    """
    for name, value in figures.items():
        if not math.isfinite(value):
            return f"{name} {value}"
    bound = config.max_approx_kl
    if bound is not None and figures["approx_kl"] > bound:
        return f"approx_kl {figures['approx_kl']:.3g}, above {bound:g}"
    return None


def _write(text: str, path: Path) -> None:
    path.write_text(text)


def _tensors(part: Any) -> dict[str, torch.Tensor]:
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return {name: value.cpu() for name, value in values.items() if value is not None}
