"""The manifest of a run: all settings that its samples depend on, to validate a resume and to compare runs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agents.config.evaluation import EvalConfig
from agents.core.files import installed_version
from agents.models.folders import WEIGHT_FILES

_PACKAGES = ("torch", "transformers", "tokenizers", "vllm", "numpy", "gymnasium")
_PACKAGES_BESIDE_AN_API = ("numpy", "gymnasium")
_CHUNK = 1 << 24
# arguments that say nothing, or are described by `sets` and `about`
_ELSEWHERE = ("sandbox", "split", "test_share", "unreadable", "problems")


def describe_run(
    config: EvalConfig, *, model: Mapping[str, Any], arm: str, sizes: Mapping[str, int], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all settings that a run's samples depend on, JSON-serializable; a resumed run must have the same ones.

    Args:
        config: The evaluation's configuration.
        model: Its name, the revision of its weights and what else they or their API are.
        arm: One of the configuration's arms.
        sizes: Number of problems in each set.
        about: Description of the environment and the problems.
    """
    counts, heats = config.samples_of(sizes), config.temperatures_of(sizes)
    environment = {name: value for name, value in config.env_kwargs(arm).items() if name not in _ELSEWHERE}
    packages = _PACKAGES_BESIDE_AN_API if "base_url" in model else _PACKAGES
    run = {
        "model": {**model, "template": config.template, "chat_template_kwargs": config.chat_template_kwargs},
        "arm": arm,
        "arguments": environment,
        "sets": {
            name: {"problems": size, "num_samples": counts[name], "temperature": heats[name]}
            for name, size in sizes.items()
        },
        "sampling": {
            "top_p": config.top_p,
            "top_k": config.top_k,
            "min_p": config.min_p,
            "max_completion_length": config.max_completion_length,
            "max_model_len": config.max_model_len,
            "seed": config.seed,
            "engine": config.engine,
            "tensor_parallel_size": config.gpus_of_engine,
        },
        **about,
        "packages": {name: found for name in packages if (found := installed_version(name))},
    }
    return dict(json.loads(json.dumps(run)))


def describe_session(command: str) -> dict[str, Any]:
    """Describe the current process for the manifest: command, time, hardware and versions."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": command,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {"cpu": platform.machine(), "cores": os.cpu_count(), "gpu": device},
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def weights_revision(folder: Path) -> str:
    """Return the commit of a snapshot in the hub's cache, else the SHA-256 of the weight files."""
    if folder.parent.name == "snapshots":
        return f"commit {folder.name}"
    digest = hashlib.sha256()
    for path in sorted(path for pattern in WEIGHT_FILES for path in folder.glob(pattern)):
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return f"sha256 {digest.hexdigest()}"


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the differences of two manifests, as ``place: one -> other``.

    >>> differences({"sampling": {"seed": 0, "top_p": 1}}, {"sampling": {"seed": 1, "top_p": 1}})
    ['sampling.seed: 0 -> 1']
    """
    ours, theirs = dict(_flat(one)), dict(_flat(other))
    return [
        f"{place}: {_short(ours.get(place))} -> {_short(theirs.get(place))}"
        for place in [*ours, *(place for place in theirs if place not in ours)]
        if ours.get(place) != theirs.get(place)
    ]


def is_of_another_version(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two descriptions have different fields, as those of different versions of this program do.

    >>> is_of_another_version({"sampling": {"seed": 0}}, {"sampling": {"seed": 1}})
    False
    """
    return any(_fields(one.get(part)) != _fields(other.get(part)) for part in ("model", "arguments", "sampling"))


def _fields(part: Any) -> set[str]:
    return {name for name, _ in _flat(part)} if isinstance(part, Mapping) else set()


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else text[:20] + "..."
