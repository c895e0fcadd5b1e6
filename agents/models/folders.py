"""Model folders in the layout of ``transformers``: validation and atomic creation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.core.errors import ModelError, one_line

Log = Callable[[str], Any]
"""Receives one line for the user."""


TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def existing(path: str | Path) -> Path:
    """Return the folder at ``path``.

    Raises:
        ModelError: It does not exist.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"Expect a model's folder, got {str(folder)!r}: no such folder")
    return folder


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder contains the files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def missing_part(folder: Path) -> str | None:
    """Name the first part of a model that `folder` lacks; None if the folder looks complete."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if not has_tokenizer(folder):
        return "tokenizer (tokenizer.json)"
    if not any(path for pattern in WEIGHT_FILES for path in folder.glob(pattern)):
        return "weights (*.safetensors)"
    return None


def check_folder(folder: Path) -> None:
    """Check that a folder contains a complete model.

    Raises:
        ModelError: A part is missing; the message names it.
    """
    missing = missing_part(folder)
    if missing is not None:
        raise ModelError(
            f"Expect a folder with config.json, a tokenizer and weights, as `save_pretrained` writes them: "
            f"{folder} has no {missing}"
        )


def build_once(target: Path, build: Callable[[Path], None]) -> None:
    """Create a folder atomically: `build` fills a temporary folder, which is then renamed to `target`.

    Raises:
        ModelError: The folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            build(made)
            made.rename(target)
    except OSError as error:
        if missing_part(target) is not None:  # otherwise another process was faster, with the same result
            raise ModelError(
                f"Cannot create {target}: {one_line(error)}. Set CIR_CACHE to a folder with room for it"
            ) from error
