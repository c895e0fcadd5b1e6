"""Processes of a Ray cluster that a test has started."""

import os
from pathlib import Path
from typing import Any

NODE: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 10**8}
"""A node's resources."""


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def processes(actor: str) -> list[int]:
    """The processes of the actors of a class: children of the nodes, which are children of this process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_actor = (folder / "cmdline").read_bytes().startswith(f"ray::{actor}".encode())
            if is_actor and parent_of(parent_of(int(folder.name))) == os.getpid():
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have started."""
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for task in tasks for child in task.read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (child, *descendants(child))]
