"""How the two programs are called, by people and by other programs, and how their output is read."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_ON_NODE = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) if "WORLD_SIZE" in os.environ else 0
"""Processes that torchrun started on this node, or 0; read early, for vLLM writes to the first variable on a CPU."""


def shell_command(program: str, args: Sequence[object] = (), *, launcher: str = "python") -> str:
    """Return a command that runs `train` or `evaluate`: by its console script where this process runs one.

    >>> shell_command("evaluate", ["report", "runs/my run"])
    "python evaluate.py report 'runs/my run'"
    """
    is_script = launcher == "python" and _name().startswith("cir-")
    return shlex.join([*([f"cir-{program}"] if is_script else [*launcher.split(), f"{program}.py"]), *map(str, args)])


def this_command() -> str:
    """Return the command that started this process, with its launcher."""
    name = _name()
    return shlex.join([name, *sys.argv[1:]] if name.startswith("cir-") else [*launcher().split(), *sys.argv])


def launcher() -> str:
    """Return the launch command for the current number of processes, also after they have left their group.

    >>> launcher()
    'python'
    """
    if not _ON_NODE:
        return "python"
    count = int(os.environ["WORLD_SIZE"])
    nodes = f"--nnodes {count // _ON_NODE} " if count > _ON_NODE else ""
    return "python" if count == 1 else f"torchrun {nodes}--nproc-per-node {_ON_NODE}"


def run(command: Sequence[str]) -> int:
    """Run a command and return its exit code, that of a shell if a signal ended it.

    Ctrl-C reaches the command by itself, and SIGTERM is passed on to it; this process waits for what it does then.
    """
    with subprocess.Popen(command) as process:
        handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: process.terminate()}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return code if code >= 0 else 128 - code


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """End the program without a word if whoever reads its output has seen enough, as ``head`` has.

    Raises:
        SystemExit: With the exit code of a program that SIGPIPE ends.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        raise SystemExit(128 + signal.SIGPIPE) from None


def _name() -> str:
    return Path(sys.argv[0]).name
