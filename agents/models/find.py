"""Resolves a model's name to a folder with weights and tokenizer.

    folder         a folder in the layout of ``transformers``, such as a checkpoint of ``train.py``
    GGUF file      one file, or a pattern for the parts of one, such as ``parts/*.bin``; converted once
                   (`agents.models.gguf`)
    ``tiny``       a small transformer with random weights, created without a download (`agents.models.tiny`)
    hub name       the hub's cache, then the hub. Without access to the hub, some small models are taken from
                   wheels on the package index that contain them in GGUF (`agents.models.gguf.wheels`)

`agents.models.load` loads the folder. Created and converted models are cached in ``$CIR_CACHE`` (default
``~/.cache/cir``).
"""

from __future__ import annotations

import os
from pathlib import Path

from agents.core.errors import ModelError
from agents.models.folders import Log, build_once, check_folder, missing_part
from agents.models.gguf.convert import is_gguf, open_gguf
from agents.models.gguf.wheels import SMOLLM2, WHEELS, fetch_packaged
from agents.models.hub import hub_cached, hub_download, hub_problem

TINY = "tiny"
_TINY_FOLDER = "tiny-2"  # raised when tokenizer or weights change


def default_cache() -> Path:
    """Return the cache folder for created and converted models: ``$CIR_CACHE``, else ``~/.cache/cir``."""
    return Path(os.environ.get("CIR_CACHE") or "~/.cache/cir").expanduser()


def resolve_model(name: str, *, cache_dir: str | Path | None = None, log: Log = print) -> Path:
    """Return the folder with the weights and the tokenizer of a model; log where they came from.

    Args:
        name: A folder, a GGUF file, ``tiny``, or a hub name such as ``Qwen/Qwen2.5-Math-7B``.
        cache_dir: Cache for created and converted models; None: `default_cache`.
        log: Receives single lines, before each slow operation and at the end.

    Raises:
        ModelError: The folder does not hold a model, or no source has the model.
    """
    folder = Path(name).expanduser()
    if name != TINY and name.strip() and folder.is_dir():
        check_folder(folder)
        log(f"model: the local folder {folder}")
        return folder
    cache = default_cache() if cache_dir is None else Path(cache_dir).expanduser()
    if name != TINY and is_gguf(name):
        return open_gguf(name, cache, log)
    if folder.is_absolute() or name.startswith(("~", ".")) or name.count("/") > 1 or not name.strip():
        raise ModelError(
            f"Expect `model` to be a folder, a GGUF file, {TINY!r} or a hub name, got {name!r}: no such folder"
        )
    if name == TINY:
        return _tiny(cache, log)
    cached = hub_cached(name)
    if cached is not None:
        log(f"model: {name} from the hub's cache, {cached}")
        return cached
    if name in WHEELS:
        return fetch_packaged(name, cache, log)
    log(f"model: looking for {name} on the hub ...")
    problem = hub_problem(name)
    if problem is not None:
        raise ModelError(
            f"{name!r} is neither a local folder nor in the hub's cache, and the hub did not provide it: "
            f"{problem}. Run `hf download {name} --local-dir FOLDER` on a machine with access to the hub and pass "
            f"that folder, or use {SMOLLM2} or {TINY!r}"
        )
    return hub_download(name, log)


def _tiny(cache: Path, log: Log) -> Path:
    target = cache / _TINY_FOLDER
    if missing_part(target) is None:
        log(f"model: the tiny transformer from {target}")
        return target
    log(f"model: creating the tiny transformer in {target} ...")
    from agents.models.tiny import build_tiny

    build_once(target, build_tiny)
    return target
