"""A control group that limits the memory and the tasks of all zygotes and children of a sandbox together.

The limits of a block apply per process. The group bounds their sum, so that many sessions cannot exhaust the memory of
the machine. It is used if a group is delegated to this process (cgroup version 1 or 2), and reported as missing
otherwise.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

NAME = re.compile(r"cir-env-(\d+)-\d+")
SHARE_OF_MEMORY = 0.75
"""Share of the memory of the machine, or of the enclosing group."""
MAX_TASKS = 16_384
"""Processes and threads of all children together, as a backstop."""
UNIFIED = ("memory.max", "pids.max")
SEPARATE = {"memory": ("memory.limit_in_bytes",), "pids": ("pids.max",)}
"""Limit files in cgroup version 2, and by controller in version 1."""

_numbers = itertools.count()


class ControlGroup:
    """One folder (version 2), or one per controller (version 1), with limits.

    Args:
        parents: Parent folders, each with the names of its limit files.

    Raises:
        OSError: The group cannot be created.
    """

    def __init__(self, parents: Mapping[Path, Sequence[str]]) -> None:
        _remove_stale(parents)
        name = f"cir-env-{os.getpid()}-{next(_numbers)}"
        memory = int(min([_machine_memory(), *map(_memory_limit, parents)]) * SHARE_OF_MEMORY)
        self._limits = {
            parent / name: {file: MAX_TASKS if file.startswith("pids") else memory for file in files}
            for parent, files in parents.items()
        }
        self._kills = 0
        self.ensure()

    @classmethod
    def delegated(cls) -> Self:
        """Create a group below or beside that of this process.

        Raises:
            OSError: No group is delegated to this process; the message says why.
        """
        reason = "no control group with the controllers memory and pids is delegated"
        for parents in _candidates():
            try:
                return cls(parents)
            except OSError as error:
                reason = f"{reason} ({error.strerror})"
        raise OSError(reason)

    @property
    def folders(self) -> list[str]:
        """The folders."""
        return [str(folder) for folder in self._limits]

    def ensure(self) -> None:
        """Create the folders and set the limits. Called for every zygote, since the last one to exit removes them."""
        try:
            for folder, limits in self._limits.items():
                folder.mkdir(exist_ok=True)
                for name, value in limits.items():
                    (folder / name).write_text(str(value))
        except OSError:
            self.remove()
            raise

    def oom_killed_since_last_call(self) -> bool:
        """Return whether the kernel has killed a process of the group for lack of memory since the last call."""
        before, self._kills = self._kills, 0
        for folder in self._limits:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    found = re.search(r"^oom_kill (\d+)$", (folder / name).read_text(), re.MULTILINE)
                    self._kills += int(found[1]) if found else 0
        return self._kills > before

    def remove(self) -> None:
        """Remove the folders if they contain no process."""
        remove(self.folders)


def join(folders: list[str]) -> None:
    """Move the calling process into the group."""
    for folder in folders:
        Path(folder, "cgroup.procs").write_text("0")


class Remover:
    """Removes the folders from a process that can no longer see them: it keeps their parents open."""

    def __init__(self, folders: list[str]) -> None:
        self._open = [(os.open(os.path.dirname(folder), os.O_PATH), os.path.basename(folder)) for folder in folders]

    def remove(self) -> None:
        """Remove the folders that contain no process."""
        for parent, name in self._open:
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=parent)

    def close(self) -> None:
        """Close the parents."""
        for parent, _ in self._open:
            os.close(parent)


def remove(folders: list[str]) -> None:
    """Remove the folders that contain no process."""
    for folder in folders:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _candidates() -> Iterator[dict[Path, Sequence[str]]]:
    """Yield folders in which a group could be created: that of this process, then its parent."""
    own = _own_groups()
    if "" in own:
        for folder in (own[""], own[""].parent):
            with contextlib.suppress(OSError):
                if SEPARATE.keys() <= set((folder / "cgroup.subtree_control").read_text().split()):
                    yield {folder: UNIFIED}
    if own.keys() >= SEPARATE.keys():
        yield {own[name]: files for name, files in SEPARATE.items()}


def _own_groups() -> dict[str, Path]:
    """Return the folder of the group of this process by controller; "" for version 2."""
    mounts = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(" ", 2)
            root, point = before.split()[3:5]
            if kind == "cgroup2":
                mounts[""] = root, point
            elif kind == "cgroup":
                mounts |= {name: (root, point) for name in SEPARATE if name in options.split(" ")[-1].split(",")}
    found = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for name in controllers.split(","):
                if name in mounts:
                    root, point = mounts[name]
                    found[name] = Path(os.path.normpath(os.path.join(point, os.path.relpath(path, root))))
    return found


def _remove_stale(parents: Iterable[Path]) -> None:
    """Remove the groups of trainers that were killed."""
    for parent in parents:
        with contextlib.suppress(OSError):
            for entry in os.scandir(parent):
                found = NAME.fullmatch(entry.name)
                if found and not os.path.exists(f"/proc/{found[1]}"):
                    remove([entry.path])


def _memory_limit(folder: Path) -> float:
    for name in ("memory.max", "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int((folder / name).read_text())
    return float("inf")


def _machine_memory() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
