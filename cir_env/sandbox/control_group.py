"""A control group around all zygotes and children of a sandbox: what they may hold together.

The limits of a block are per process; this is the bound on their sum, so that many sessions cannot take the machine's
memory from the trainer. It is used where a group is delegated to this process (the unified hierarchy, version 2, or
the older one), and named as missing elsewhere.
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
"""Of the machine's memory, or of what the enclosing group may hold."""
MAX_TASKS = 16_384
"""Processes and threads of all children together: a distant backstop."""
UNIFIED = ("memory.max", "pids.max")
SEPARATE = {"memory": ("memory.limit_in_bytes",), "pids": ("pids.max",)}
"""Files that take a limit in the unified hierarchy, and, by controller, in the older one."""

_numbers = itertools.count()


class ControlGroup:
    """One folder (version 2), or one for each controller (version 1), with limits.

    Args:
        parents: Where to make the folders, with the names of the files of each that take a limit.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, parents: Mapping[Path, Sequence[str]]) -> None:
        _sweep(parents)
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
        """Make a group below, or beside, the one that this process is in.

        Raises:
            OSError: None is delegated to it; the message is the reason.
        """
        reason = "no control group with the controllers memory and pids is delegated"
        for parents in _candidates():
            try:
                return cls(parents)
            except OSError as error:
                reason = f"{reason} ({error.strerror})"
        raise OSError(reason)

    @property
    def places(self) -> list[str]:
        """The folders."""
        return [str(folder) for folder in self._limits]

    def ensure(self) -> None:
        """Make the folders and set the limits, if they are not there: the last zygote to end removes them."""
        try:
            for folder, limits in self._limits.items():
                folder.mkdir(exist_ok=True)
                for name, value in limits.items():
                    (folder / name).write_text(str(value))
        except OSError:
            self.remove()
            raise

    def killed_since_last_asked(self) -> bool:
        """Say whether the kernel has ended a process because the group was full, since the last such question."""
        before, self._kills = self._kills, 0
        for folder in self._limits:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    found = re.search(r"^oom_kill (\d+)$", (folder / name).read_text(), re.MULTILINE)
                    self._kills += int(found[1]) if found else 0
        return self._kills > before

    def remove(self) -> None:
        """Remove the folders, if no process is left in them."""
        remove(self.places)


def join(places: list[str]) -> None:
    """Move the calling process into the group."""
    for place in places:
        Path(place, "cgroup.procs").write_text("0")


class Remover:
    """Removes the folders for one who will lose sight of them: what lies above them stays open."""

    def __init__(self, places: list[str]) -> None:
        self._open = [(os.open(os.path.dirname(place), os.O_PATH), os.path.basename(place)) for place in places]

    def remove(self) -> None:
        """Remove folders that hold no process."""
        for above, name in self._open:
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=above)

    def close(self) -> None:
        """Let go of what was open."""
        for above, _ in self._open:
            os.close(above)


def remove(places: list[str]) -> None:
    """Remove folders that hold no process."""
    for place in places:
        with contextlib.suppress(OSError):
            os.rmdir(place)


def _candidates() -> Iterator[dict[Path, Sequence[str]]]:
    """Yield the folders in which a group could be made: the one of this process, then the one around it."""
    own = _own_groups()
    if "" in own:
        for folder in (own[""], own[""].parent):
            with contextlib.suppress(OSError):
                if SEPARATE.keys() <= set((folder / "cgroup.subtree_control").read_text().split()):
                    yield {folder: UNIFIED}
    if own.keys() >= SEPARATE.keys():
        yield {own[name]: files for name, files in SEPARATE.items()}


def _own_groups() -> dict[str, Path]:
    """Return the folder of this process's group by controller; "" for the unified hierarchy."""
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


def _sweep(parents: Iterable[Path]) -> None:
    """Remove what trainers left that were killed."""
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
