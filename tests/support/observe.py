"""Helpers that observe processes, and conditions that take a moment."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from cir_env.sandbox import LocalSandbox


def eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    end = time.monotonic() + timeout_s
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return holds


def descendants(pid: int) -> set[int]:
    """Return the living processes below one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    found, new = set[int](), {pid}
    while new := {child for child, parent in parents.items() if parent in new}:
        found |= new
    return found


def zygote_pid(sandbox: LocalSandbox) -> int:
    return sandbox._supervisor.zygotes[0].pid
