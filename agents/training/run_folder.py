"""A run's output folder: which run owns it, and the checkpoint that the run resumes from."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from agents.core import distributed
from agents.core.errors import ConfigError, expect, one_line
from agents.core.files import write_json
from agents.core.programs import this_command
from agents.rollout.envs import lacking
from agents.tracking.model_card import library_versions
from agents.training import checkpoint

if TYPE_CHECKING:
    from agents.config.training import RunArguments
    from agents.tracking.run_log import RunLog

RECORD = "run.json"
_GONE = {"rollout.boundary": "exact", "rollout.overlap": False, "ppo.train_on_feedback": False}
"""Settings that earlier versions had, and their defaults, which is how all runs are made today."""
_MAY_CHANGE = (
    *("resume", "max_steps", "save_every", "save_total_limit", "best_metric", "device", "output_dir", "validation"),
    "cluster",
    *("report_to", "samples_every", "samples_per_step", "push_to_hub", "hub_model_id", "hub_private_repo"),
)

_OF_THE_MACHINE = (
    *("rollout.engine", "rollout.max_num_seqs", "rollout.vllm_gpu_memory_utilization", "rollout.tensor_parallel_size"),
    "num_replicas",
)
"""What samples, and how much at once: a run may continue on another machine."""


def claim(config: RunArguments) -> Path | None:
    """Return the checkpoint to resume from, if any; reject another run's folder, and clean up after a killed run.

    Raises:
        ConfigError: The folder holds a run that is not to be resumed, nothing to resume, or one of other settings; or
            it cannot be made.
    """
    folder = config.output_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"Expect `output_dir` to be a folder, got {folder}: {one_line(error)}.") from error
    found = checkpoint.checkpoints(folder)
    if not config.resume or (config.resume == "auto" and not found):
        if found:
            raise ConfigError(
                f"{folder} holds a run already: add --resume to continue it, or choose another --output-dir."
            )
        checkpoint.remove_leftovers(folder)
        return None
    if not found:
        raise ConfigError(f"Expect a checkpoint in {folder} to resume from, got none: drop --resume.")
    before = checkpoint.read_json(found[-1] / checkpoint.STATE)["config"]
    if changed := changes(before, config):
        listed = "; ".join(f"`{name}` to be {then!r}, got {now!r}" for name, (then, now) in changed.items())
        raise ConfigError(f"Expect the settings of the run in {folder}: {listed}. Other settings are another run.")
    checkpoint.remove_leftovers(folder)
    return found[-1]


def open_folder(config: RunArguments, run_log: RunLog) -> Path | None:
    """Claim a run's folder, record this start in it, and keep the log there; return the checkpoint to resume from.

    Raises:
        ConfigError: As for :func:`claim`.
        OSError: The folder cannot be written to.
    """
    started = claim(config)
    if distributed.rank() == 0:
        record(config, started)
        run_log.open(config.output_dir)
    return started


def record(config: RunArguments, started: Path | None) -> None:
    """Write the configuration to the run's folder, and add what starts now: command, time, versions, hardware.

    Args:
        config: The run.
        started: The checkpoint that it resumes from, if any.

    Raises:
        OSError: The folder cannot be written to.
    """
    path = config.output_dir / RECORD
    starts = checkpoint.read_json(path)["starts"] if path.exists() else []
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": this_command(),
        "resumed_from": None if started is None else started.name,
        "processes": distributed.size(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "versions": library_versions(),
    }
    write_json(path, {"config": dataclasses.asdict(config), "starts": [*starts, start]})


def check_same(started: Path | None, folder: Path) -> None:
    """Refuse a run whose processes do not resume from the same checkpoint; a collective call.

    Raises:
        ConfigError: They see different checkpoints.
    """
    names = sorted(set(distributed.gather(["none" if started is None else started.name], patiently=True)))
    expect(len(names) == 1, "output_dir", "on a disk that all processes share", f"{folder} with {', '.join(names)}")


def changes(before: Mapping[str, Any], config: RunArguments) -> dict[str, tuple[Any, Any]]:
    """Return which settings are not those of a checkpoint, by dotted name: the checkpoint's value and the present one.

    The checkpoint may be an earlier version's. A setting that it does not know has its default there. One that is known
    no more must have had its default, and arguments that the environment does not have make no difference.
    """
    unused = {f"env.{name}" for name in lacking(config.env.id, config.env.kwargs(split="train"))}
    now, default = (dict(_flat(settings(each))) for each in (config, type(config)()))
    then = dict(_flat({name: value for name, value in before.items() if name not in _MAY_CHANGE}))
    then = {name: value for name, value in then.items() if name not in _OF_THE_MACHINE}
    was, is_now = {**default, **then}, {**_GONE, **now}
    differ = [name for name in {**now, **then} if was[name] != is_now.get(name) and name not in unused]
    return {name: (was[name], is_now.get(name)) for name in sorted(differ)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def settings(config: RunArguments) -> dict[str, Any]:
    """Return the settings that a resumed run may not change, in JSON."""
    kept = {name: value for name, value in dataclasses.asdict(config).items() if name not in _MAY_CHANGE}
    for name in _OF_THE_MACHINE:
        kept.get("rollout", {}).pop(name.removeprefix("rollout."), None)
    as_read: dict[str, Any] = json.loads(json.dumps(kept))
    return as_read
