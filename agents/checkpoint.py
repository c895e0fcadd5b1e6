"""Checkpoints in the layout of transformers: ``output_dir/checkpoint-N`` loads with ``from_pretrained``.

Beside model and tokenizer lie ``optimizer.pt``, ``value_head.pt`` if there is one, ``rollouts.json`` with what was
sampled and not trained on yet, and ``trainer_state.json``. All randomness of a step is a function of seed and step, so
that these suffice to go on exactly.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agents.errors import AgentsError
from agents.models import no_progress_bars

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from agents.policy import Policy


STATE = "trainer_state.json"
ROLLOUTS = "rollouts.json"


class CheckpointError(AgentsError, OSError):
    """A checkpoint can not be written or read."""


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in ``folder``, oldest first."""
    found = [p for p in folder.glob("checkpoint-*") if p.name[11:].isdigit() and (p / STATE).exists()]
    return sorted(found, key=lambda p: int(p.name[11:]))


def save(
    folder: Path,
    *,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    rollouts: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write ``folder/checkpoint-{state["step"]}`` whole or not at all, then remove all but the newest ``keep``.

    Raises:
        CheckpointError: The disk is full or not writable; earlier checkpoints are untouched.
    """
    target = folder / f"checkpoint-{state['step']}"
    partial = folder / f".{target.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        with no_progress_bars():
            policy.model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        if policy.value_head is not None:
            torch.save(policy.value_head.state_dict(), partial / "value_head.pt")
        (partial / ROLLOUTS).write_text(json.dumps(rollouts, default=_plain))
        (partial / STATE).write_text(json.dumps(state, indent=1))
        for path in partial.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except Exception as error:  # safetensors and torch have error classes of their own for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"Could not write {target}: {error}. Free some space; no older checkpoint is lost."
        ) from error
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _plain(value: object) -> object:
    """Return what JSON has for a value that an environment put into its info."""
    return value.item() if isinstance(value, np.generic) else str(value)


def read_json(path: Path) -> dict[str, Any]:
    """Return what lies in one of a checkpoint's JSON files.

    Raises:
        CheckpointError: There is no such file, or no JSON in it.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Expect JSON in {path}, got: {error}.") from error
    return data


def load_training_state(path: Path, *, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Load what ``from_pretrained`` does not: the optimiser's moments and the value head."""
    parts = {"optimizer.pt": optimizer} | ({} if policy.value_head is None else {"value_head.pt": policy.value_head})
    for name, part in parts.items():
        try:
            part.load_state_dict(torch.load(path / name, map_location=policy.device, weights_only=True))
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(
                f"Expect the training state in {path / name}, got: {reason}. Remove {path}."
            ) from error
