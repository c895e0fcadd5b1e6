"""Starts a zygote, and communicates with it."""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cir_env.sandbox import wire

PACKAGE = Path(__file__).resolve().parents[1]

PRELOAD = tuple(
    """
    abc ast bisect calendar cmath collections collections.abc contextlib copy csv dataclasses datetime decimal
    enum fractions functools hashlib heapq itertools json math numbers operator pathlib random re secrets
    statistics string struct sys textwrap threading time traceback typing types unicodedata warnings
    numpy numpy.fft numpy.linalg numpy.polynomial numpy.random
    mpmath sympy sympy.abc sympy.combinatorics sympy.geometry sympy.ntheory sympy.parsing.sympy_parser
    sympy.solvers.diophantine sympy.stats
    scipy scipy.integrate scipy.linalg scipy.optimize scipy.special
    """.split()  # noqa: SIM905
)
"""Modules that the zygote imports once, if they are installed."""

GRACE_S = 5.0
"""Seconds that a zygote has to exit by itself before it is killed."""

_BOOT = """\
import importlib, sys, types
for name, path in (("cir_env", sys.argv[3]), ("cir_env.sandbox", sys.argv[4])):
    package = types.ModuleType(name)
    package.__path__ = [path]
    sys.modules[name] = package
importlib.import_module("cir_env.sandbox.inside.zygote").main()
"""
# Empty packages replace cir_env/__init__.py, which would import what the zygote must not contain.


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How children are created."""

    preload: tuple[str, ...] = PRELOAD
    """Modules to import before the first block."""
    visible: tuple[str, ...] = ()
    """Paths of installed packages that blocks may import besides."""
    isolation: str = "auto"
    """"auto", "without-namespaces" or "unsafe"."""


class ZygoteHandle:
    """A zygote that is running or starting."""

    def __init__(self, settings: Settings, groups: list[str]) -> None:
        self.ready = False
        self.answer_deadline = 0.0
        self.pid = 0
        self.layers: dict[str, str] = {}
        self.contained = False
        self.stderr, err = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.stderr_tail = bytearray()
        options = {**dataclasses.asdict(settings), "groups": groups}
        where = [str(PACKAGE.parent), str(PACKAGE)]
        boot = [sys.executable, "-s", "-P", "-c", _BOOT, str(theirs.fileno()), json.dumps(options), *where]
        try:
            self._process = subprocess.Popen(
                boot,
                env=clean_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError:
            self._release()
            raise
        finally:
            theirs.close()
            os.close(err)
        self.control.setblocking(False)

    def spawn(self, number: int, sock_fd: int, out_fd: int, *, warm_up: bool) -> None:
        """Order the zygote to fork a child."""
        socket.send_fds(self.control, [wire.pack_spawn(number, warm_up=warm_up)], [sock_fd, out_fd])

    def receive(self) -> tuple[bytes, list[int]] | None:
        """Return the next message and its descriptors; None if there is none yet, b"" if the zygote has ended."""
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 16 * 1024, 1)
        except BlockingIOError:
            return None
        except OSError:
            return b"", []
        for fd in fds:
            os.set_inheritable(fd, False)
        return data, fds

    def read_ready(self, data: bytes) -> None:
        """Process the message that the zygote is ready."""
        message = json.loads(data)
        self.layers, self.contained = dict(message["layers"]), bool(message["contained"])
        self.pid = self._process.pid
        self.ready = True

    def read_stderr(self) -> bool:
        """Collect stderr of the zygote; return False at its end."""
        try:
            piece = os.read(self.stderr, 4096)
        except BlockingIOError:
            return True
        self.stderr_tail = (self.stderr_tail + piece)[-4096:]
        return bool(piece)

    def last_error_line(self) -> str:
        """Return the last line that the zygote wrote to stderr."""
        while self.read_stderr() and not self._drained():
            pass
        lines = self.stderr_tail.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it ended without an error message"

    def close_control(self) -> None:
        """Close the control socket, upon which the zygote exits."""
        self.control.close()

    def close(self) -> None:
        """Close the control socket and end the process."""
        self.close_control()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self._release()

    def abandon(self) -> None:
        """Close the descriptors in a forked copy of the trainer, without ending the zygote."""
        self.control.close()
        os.close(self.stderr)
        self._process.returncode = 0

    def _drained(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            piece = os.read(self.stderr, 4096)
            self.stderr_tail += piece
            return not piece
        return True

    def _release(self) -> None:
        self.control.close()
        os.close(self.stderr)


def clean_environment() -> dict[str, str]:
    """Return the environment of the zygote: it inherits nothing from the trainer."""
    threads = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"]
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONTZPATH": "",  # Blocks cannot read the system's time zones; those of the package tzdata are found.
        **dict.fromkeys(threads, "1"),
    }
