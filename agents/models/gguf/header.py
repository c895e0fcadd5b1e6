"""Reads the header of a GGUF file: its metadata, and where its tensors lie.

The format is described in https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from agents.core.errors import ModelError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufTensor:
    """Where a tensor lies."""

    shape: tuple[int, ...]
    """Its dimensions, in the order of torch."""
    kind: int
    """How its numbers are stored: a number of ``gguf.GGMLQuantizationType``."""
    begin: int
    """Its first byte in the file."""
    end: int
    """The byte after its last one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufHeader:
    """What a GGUF file says about itself."""

    path: Path
    """The file."""
    metadata: Mapping[str, Any]
    """Numbers, strings, and lists of them."""
    tensors: Mapping[str, GgufTensor]
    """The tensors by name."""

    def floats(self, name: str) -> tuple[float, ...]:
        """Return the numbers of a tensor that is stored in float32."""
        tensor = self.tensors[name]
        with self.path.open("rb") as file:
            file.seek(tensor.begin)
            return struct.unpack(f"<{prod(tensor.shape)}f", file.read(tensor.end - tensor.begin))


def read_header(path: Path) -> GgufHeader:
    """Read a file's header and check that the file is complete.

    Raises:
        ModelError: The file is not GGUF, a part of several files, or cut off.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"Expect a file that begins with {MAGIC.decode()}, got {path}.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(_Cursor(data, path))


class _Cursor:
    """Reads values from a file, one after the other."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.path = path
        self.position = len(MAGIC)

    def expect_bytes(self, end: int) -> None:
        if end > len(self.data):
            raise ModelError(
                f"Expect a complete GGUF file, got {self.path}, which ends after {len(self.data)} of at least {end} "
                "bytes. If it is one of several parts, pass them all, as a pattern: --model 'FOLDER/NAME*'."
            )

    def numbers(self, form: str) -> tuple[Any, ...]:
        begin = self.position
        self.position += struct.calcsize(f"<{form}")
        self.expect_bytes(self.position)
        return struct.unpack_from(f"<{form}", self.data, begin)

    def string(self) -> str:
        (length,) = self.numbers("Q")
        begin = self.position
        self.position += length
        self.expect_bytes(self.position)
        return self.data[begin : self.position].decode(errors="replace")

    def value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self.numbers(_NUMBERS[kind])[0]
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise ModelError(
                f"Expect metadata of known types, got type {kind} in {self.path}: it is damaged, or newer."
            )
        kind, count = self.numbers("IQ")
        if kind in _NUMBERS:
            return list(self.numbers(f"{count}{_NUMBERS[kind]}"))
        return [self.value(kind) for _ in range(count)]


def _read(cursor: _Cursor) -> GgufHeader:
    from gguf import GGML_QUANT_SIZES

    version, tensor_count, value_count = cursor.numbers("IQQ")
    if version not in _VERSIONS:
        raise ModelError(f"Expect GGUF of version {' or '.join(map(str, _VERSIONS))}, got {version} in {cursor.path}.")
    metadata = {cursor.string(): cursor.value(*cursor.numbers("I")) for _ in range(value_count)}
    if metadata.get("split.count", 1) > 1:
        raise ModelError(
            f"Expect a GGUF file of a whole model, got {cursor.path}, one of {metadata['split.count']} that llama.cpp "
            f"split. Merge them: `llama-gguf-split --merge {cursor.path} MERGED.gguf`."
        )
    listed = []
    for _ in range(tensor_count):
        name = cursor.string()
        shape = cursor.numbers(f"{cursor.numbers('I')[0]}Q")[::-1]
        listed.append((name, shape, *cursor.numbers("IQ")))
    alignment = metadata.get("general.alignment", 32)
    data_begin = -(-cursor.position // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in listed:
        if kind not in GGML_QUANT_SIZES:
            raise ModelError(f"Expect tensors of types that `gguf` knows, got type {kind} of {name} in {cursor.path}.")
        block, size = GGML_QUANT_SIZES[kind]
        begin = data_begin + offset
        tensors[name] = GgufTensor(shape=shape, kind=kind, begin=begin, end=begin + prod(shape) // block * size)
    cursor.expect_bytes(max((tensor.end for tensor in tensors.values()), default=0))
    return GgufHeader(path=cursor.path, metadata=metadata, tensors=tensors)
