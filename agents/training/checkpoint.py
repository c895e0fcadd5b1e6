"""Checkpoints in the layout of transformers: ``output_dir/checkpoint-N`` loads with ``from_pretrained``.

Beside model and tokenizer it contains ``training_state`` (optimizer state, and trained parameters outside the model:
value head, critic, adapters), ``rollouts.json`` with trajectories that were sampled but not trained on yet, and
``trainer_state.json`` with step, settings, best checkpoint and health; with adapters also ``adapter`` in peft's layout.
All randomness of a step, and the order of the problems, is a function of seed and step, so a run resumes exactly.

Several processes write one checkpoint: the first one the model, of which it holds one file at a time, and each its own
part of ``training_state`` (``torch.distributed.checkpoint``). It loads in any number of processes. All of them must see
the same folder.

A checkpoint appears by one rename, after everything in it has been synced to disk, and is removed by another: whenever
the process or the machine dies, every ``checkpoint-N`` is complete.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, filterwarnings

import numpy as np
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from agents.core import distributed
from agents.core.errors import CheckpointError
from agents.learning.optimizer import state_of
from agents.models.lora import save_adapters
from agents.models.sharded import write_model
from agents.training.weight_sync import weights_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from agents.config.training import LoraConfig
    from agents.learning.policy import Policy


STATE = "trainer_state.json"
ROLLOUTS = "rollouts.json"
TRAINING_STATE = "training_state"
_FULL_DISK = 2**20  # bytes that are left where a write has failed for lack of space


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in ``folder``, oldest first."""
    found = [p for p in folder.glob("checkpoint-*") if p.name[11:].isdigit() and (p / STATE).exists()]
    return sorted(found, key=lambda p: int(p.name[11:]))


def path_of(folder: Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return folder / f"checkpoint-{step}"


def save(
    folder: Path,
    *,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    rollouts: Sequence[Mapping[str, Any]],
    keep: int,
    lora: LoraConfig | None = None,
) -> Path:
    """Write ``folder/checkpoint-{state["step"]}`` atomically, then remove old checkpoints.

    A collective call: all processes take part. If the step's checkpoint exists already, only ``state`` is rewritten.

    Args:
        folder: The run's output folder.
        policy: Model and value head.
        tokenizer: Saved beside the model.
        optimizer: Its state is saved.
        state: Small JSON values. ``step`` is required; ``best`` may name the best checkpoint, which is kept.
        rollouts: For each process its trajectories that were sampled but not trained on.
        keep: Number of newest checkpoints to keep, in addition to the best.
        lora: Configuration of the adapters, if there are any.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: The disk is full or not writable; earlier checkpoints are untouched.
    """
    target = path_of(folder, state["step"])
    partial = _partial(target)
    is_there = distributed.any_of(distributed.rank() == 0 and (target / STATE).exists())

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def finish() -> None:
        (partial / STATE).write_text(json.dumps(state, indent=1))
        for path in (*partial.rglob("*"), partial):
            _to_disk(path)
        if is_there:
            (partial / STATE).replace(target / STATE)
            partial.rmdir()
        else:
            shutil.rmtree(target, ignore_errors=True)  # without a state it is not a checkpoint
            partial.rename(target)
        _to_disk(target)
        _to_disk(folder)

    try:
        distributed.succeed_together(begin, on_first=True)
        if not is_there:
            _write(partial, policy, tokenizer, optimizer, rollouts, lora)
        distributed.succeed_together(finish, on_first=True)
    except Exception as error:  # safetensors and torch have their own error classes for a full disk
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reason = str(full if _is_full(folder) else error).partition("\n")[0]
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"Could not write {target}: {reason}. Free disk space; older checkpoints are intact."
        ) from error
    if distributed.rank() == 0:
        best = (state.get("best") or {}).get("checkpoint")
        for old in checkpoints(folder)[:-keep]:
            if old.name != best:
                _remove(old)
    return target


def _is_full(folder: Path) -> bool:
    """Return whether the disk is full, which torch's writer reports as an unexpected position in a file."""
    try:
        return shutil.disk_usage(folder).free < _FULL_DISK
    except OSError:
        return False


def _write(  # noqa: PLR0917 - it is `save`, continued
    folder: Path,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    rollouts: Sequence[Mapping[str, Any]],
    lora: LoraConfig | None,
) -> None:
    keep_model(policy, folder)

    def write_rest() -> None:
        tokenizer.save_pretrained(folder)
        (folder / ROLLOUTS).write_text(json.dumps(rollouts, default=_plain))

    distributed.succeed_together(write_rest, on_first=True)
    if lora is not None:
        save_adapters(policy.model, lora, folder / "adapter")
    state = _training_state(policy, optimizer)
    with _shards():
        save_shards(state, checkpoint_id=folder / TRAINING_STATE, process_group=distributed.patient_group())


@contextmanager
def _shards() -> Iterator[None]:
    """Silence torch's warning about a single process, and unwrap the exception of a failed process."""
    with catch_warnings():
        filterwarnings("ignore", "torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from error


def keep_model(policy: Policy, folder: Path) -> None:
    """Write a policy's model, with its adapters added, to a folder. A collective call: the first process writes."""
    weights = weights_of(policy.model)
    distributed.succeed_together(lambda: folder.mkdir(parents=True, exist_ok=True), on_first=True)
    write_model(policy.model, folder, weights.shapes, weights.tensors)


def _training_state(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    """Return optimizer state and weights outside the model's files, by parameter; the initial optimizer state is 0."""
    states: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in policy.named_parameters():
        if not parameter.requires_grad:
            continue
        states[name] = state_of(optimizer, parameter)
        if not name.startswith("model.") or ".lora_" in name:
            states[name]["weight"] = parameter.detach()
    return states


def remove_leftovers(folder: Path) -> None:
    """Remove partially written or removed checkpoints of a run that was killed."""
    for path in folder.glob(".checkpoint-*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _partial(checkpoint: Path) -> Path:
    return checkpoint.with_name(f".{checkpoint.name}.partial")


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint; after the rename it no longer counts as one."""
    with suppress(OSError):  # leftovers only take up space
        shutil.rmtree(checkpoint.rename(_partial(checkpoint)))


def _to_disk(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: object) -> object:
    """Convert a value of an environment's info for JSON."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.item() if isinstance(value, np.generic) else str(value)


def read_json(path: Path) -> Any:
    """Read one of a checkpoint's JSON files.

    Raises:
        CheckpointError: The file is missing or not valid JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Expect JSON in {path}, got: {error}.") from error


def load_training_state(path: Path, *, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Load what ``from_pretrained`` does not: optimizer state, and trained parameters outside the model.

    A collective call: all processes take part.

    Raises:
        CheckpointError: The training state is missing, unreadable, or that of another model.
    """
    states = _training_state(policy, optimizer)
    try:
        with _shards():
            load_shards(states, checkpoint_id=path / TRAINING_STATE, process_group=distributed.patient_group())
    except Exception as error:  # torch raises many classes
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"Expect the training state in {path / TRAINING_STATE}, got: {reason}. Remove {path}."
        ) from error
    parameters = dict(policy.named_parameters())
    for name, state in states.items():
        state.pop("weight", None)  # loaded in place
        optimizer.state[parameters[name]] = state
