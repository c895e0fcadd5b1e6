"""Helpers that observe the processes of a grader, and one that fills the disk."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cir_env.grading.grader import Grader


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def worker_of(grader: Grader) -> int:
    assert grader._process is not None
    return grader._process.pid


def new_child(pid: int, known: int = 0) -> int:
    """Wait until a process has a child other than `known`, and return it."""

    def children() -> list[int]:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [child for child in map(int, text.split()) if child != known]

    wait_until(lambda: bool(children()))
    return children()[0]


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let writes of this process beyond this size of any file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
