"""Brings what each process has to all of them, with one copy of its arrays on each node.

The trajectories of a step may be gigabytes, and every process trains on all of them. Each process writes its own into a
file that the others of its node map into memory. The first process of every other node receives the file once, for all
processes there. Only what is no array, such as texts, is in every process.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import distributed

from agents.core.distributed import any_of, first_of_nodes, gather, rank, size, wait

T = TypeVar("T")

_ALIGNMENT = 64
_PIECE_BYTES = 2**28


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    """The items of a process, in a file."""

    path: str
    """Of the file, on this node."""
    parts: tuple[slice, ...]
    """Where the pickle is, then each array that it refers to."""


def gather_unless_stopped(mine: Sequence[T] | None) -> list[T] | None:
    """Return the items of all processes, in order of rank; None if one of them was stopped.

    Args:
        mine: This process's items; None: it was asked to stop. The arrays of what is returned cannot be written to if
            there are several processes.
    """
    wait()  # for the slowest process
    if any_of(mine is None):
        return None
    items = list(mine or ())
    if size() == 1:
        return items
    with ExitStack() as files:
        stored = gather([_store(items, files)])
        here = _bring_to_node(stored, files)
        everything = [item for each in here for item in _load(each)]
        wait()  # until all have opened the files
    return everything


def _new_file(files: ExitStack) -> str:
    """Return the path of an empty file, which is removed with the others."""
    descriptor, path = tempfile.mkstemp(prefix="exchange-")
    os.close(descriptor)
    files.callback(os.unlink, path)
    return path


def _store(items: Sequence[T], files: ExitStack) -> _Stored:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(items, protocol=5, buffer_callback=buffers.append)
    parts: list[slice] = []
    path = _new_file(files)
    with open(path, "wb") as file:
        for part in [memoryview(data), *(buffer.raw() for buffer in buffers)]:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            begin = file.tell()
            file.write(part)
            parts.append(slice(begin, file.tell()))
    return _Stored(path=path, parts=tuple(parts))


def _load(stored: _Stored) -> list[Any]:
    with open(stored.path, "rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    data, *arrays = (whole[part] for part in stored.parts)
    items: list[Any] = pickle.loads(data, buffers=arrays)
    return items


def _bring_to_node(stored: Sequence[_Stored], files: ExitStack) -> list[_Stored]:
    """Return the items of all processes, as they are on this node; a collective call."""
    firsts, group = first_of_nodes()
    if len(firsts) == 1:
        return list(stored)
    node = bisect_right(firsts, rank()) - 1
    paths: list[str] = []
    if rank() in firsts:
        for owner, each in enumerate(stored):
            source = bisect_right(firsts, owner) - 1
            paths.append(each.path if source == node else _new_file(files))
            whole = torch.from_file(paths[-1], shared=True, size=each.parts[-1].stop, dtype=torch.uint8)
            for piece in whole.split(_PIECE_BYTES):
                distributed.broadcast(piece, src=firsts[source], group=group)
    here = gather([paths])[firsts[node]]
    return [replace(each, path=path) for each, path in zip(stored, here, strict=True)]
