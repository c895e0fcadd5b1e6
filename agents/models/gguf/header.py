"""What a GGUF file says about itself: its metadata, and the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.core.errors import ModelError, one_line

MAGIC = b"GGUF"


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufHeader:
    """The header of a GGUF file."""

    path: Path
    """The file."""
    metadata: Mapping[str, Any]
    """Numbers, strings, and lists of them."""
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of each tensor, its dimensions in the order of torch."""
    rope_factors: tuple[float, ...] | None
    """With these, llama.cpp divides the frequencies of Llama 3.1's positions; None: it has none."""


ROPE_FACTORS = "rope_freqs.weight"
"""The tensor that holds the factors."""


def read_header(path: Path) -> GgufHeader:
    """Read a file's header and check that the file is complete.

    Raises:
        ModelError: The file is not GGUF, a part of several files, or cut off.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"Expect a file that begins with {MAGIC.decode()}, got {path}.")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        factors = {
            tensor.name: tuple(map(float, tensor.data)) for tensor in reader.tensors if tensor.name == ROPE_FACTORS
        }
    except Exception as error:  # the reader meets whatever stands there, and has no error of its own
        raise ModelError(
            f"Expect a complete GGUF file, got {path}: {one_line(error)}. "
            "If it is one of several parts, pass them all, as a pattern: --model 'FOLDER/NAME*'."
        ) from error
    if metadata.get("split.count", 1) > 1:
        raise ModelError(
            f"Expect a GGUF file of a whole model, got {path}, one of {metadata['split.count']} that llama.cpp split. "
            f"Merge them: `llama-gguf-split --merge {path} MERGED.gguf`."
        )
    return GgufHeader(
        path=path,
        metadata=metadata,
        shapes={tensor.name: tuple(map(int, tensor.shape[::-1])) for tensor in reader.tensors},
        rope_factors=factors.get(ROPE_FACTORS),
    )
