"""Checkpoints in the layout of transformers: ``output_dir/checkpoint-N`` loads with ``from_pretrained``.

Beside model and tokenizer lie ``optimizer.pt``, ``value_head.pt`` if there is one, ``rollouts.json`` with what was
sampled and not trained on yet, and ``trainer_state.json`` with step, settings, best checkpoint and health. All
randomness of a step is a function of seed and step, and so is the order of the problems, so that these suffice to go on
exactly.

A folder becomes ``checkpoint-N`` by one rename, when everything in it is on the disk, and ceases to be one by another:
whenever the process or the machine dies, every ``checkpoint-N`` is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
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


def path_of(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is, once it is written."""
    return folder / f"checkpoint-{step}"


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
    """Write ``folder/checkpoint-{state["step"]}`` whole or not at all, then remove what need not be kept.

    A step is saved once: where its checkpoint is there already, only ``state`` is written anew.

    Args:
        folder: The run's.
        policy: Model and value head.
        tokenizer: Saved beside the model.
        optimizer: Its moments are saved.
        state: What is small; ``step`` is needed, and ``best`` may name the checkpoint that is kept as the best.
        rollouts: What was sampled and not trained on.
        keep: How many of the newest checkpoints are kept, beside the best.

    Raises:
        CheckpointError: The disk is full or not writable; earlier checkpoints are untouched.
    """
    target = path_of(folder, state["step"])
    partial = _partial(target)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        is_there = (target / STATE).exists()
        if not is_there:
            _write(partial, policy, tokenizer, optimizer, rollouts)
        (partial / STATE).write_text(json.dumps(state, indent=1))
        for path in (*partial.rglob("*"), partial):
            _to_disk(path)
        if is_there:
            (partial / STATE).replace(target / STATE)
            partial.rmdir()
        else:
            shutil.rmtree(target, ignore_errors=True)  # without a state it is no checkpoint
            partial.rename(target)
        _to_disk(target)
        _to_disk(folder)
    except Exception as error:  # safetensors and torch have error classes of their own for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"Could not write {target}: {error}. Free some space; no older checkpoint is lost."
        ) from error
    best = (state.get("best") or {}).get("checkpoint")
    for old in checkpoints(folder)[:-keep]:
        if old.name != best:
            _remove(old)
    return target


def _write(
    folder: Path,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    rollouts: Mapping[str, Any],
) -> None:
    with no_progress_bars():
        policy.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    if policy.value_head is not None:
        torch.save(policy.value_head.state_dict(), folder / "value_head.pt")
    (folder / ROLLOUTS).write_text(json.dumps(rollouts, default=_plain))


def remove_leftovers(folder: Path) -> None:
    """Remove what a run that was killed has left half written or half removed."""
    for path in folder.glob(".checkpoint-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _partial(checkpoint: Path) -> Path:
    return checkpoint.with_name(f".{checkpoint.name}.partial")


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint; killed half way, it is none any more."""
    with suppress(OSError):  # what stays takes space, and does no other harm
        shutil.rmtree(checkpoint.rename(_partial(checkpoint)))


def _to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of files, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
