"""Helpers that observe processes, and conditions that take a moment."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from cir_env.sandbox import LocalSandbox


def eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[1]) == pid:
                found |= {int(stat.parent.name)} | descendants(int(stat.parent.name))
    return found


def zygote_pid(sandbox: LocalSandbox) -> int:
    return sandbox._supervisor.zygotes[0].pid
