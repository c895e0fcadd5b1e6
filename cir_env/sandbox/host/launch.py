"""Starts a zygote, and speaks with it from the trainer's side."""

import contextlib
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
"""Seconds that a zygote gets to end by itself."""

_BOOT = """\
import importlib, sys, types
for name, path in (("cir_env", sys.argv[3]), ("cir_env.sandbox", sys.argv[4])):
    package = types.ModuleType(name)
    package.__path__ = [path]
    sys.modules[name] = package
importlib.import_module("cir_env.sandbox.inside.zygote").main()
"""
# The real cir_env/__init__.py would import what the zygote must not hold; bare packages take its place.


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How children are made."""

    preload: tuple[str, ...] = PRELOAD
    """Modules to import before the first block."""
    isolation: str = "auto"
    """"auto", "without-namespaces" or "unsafe"."""


class ZygoteHandle:
    """A running zygote, or one on its way."""

    def __init__(self, settings: Settings, groups: list[str]) -> None:
        self.ready = False
        self.patience_ends = 0.0
        self.pid = 0
        self.layers: dict[str, str] = {}
        self.contained = False
        self.errors, err = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.last_words = bytearray()
        options = {"preload": settings.preload, "isolation": settings.isolation, "groups": groups}
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

    def spawn(self, number: int, sock_fd: int, out_fd: int, *, rehearse: bool) -> None:
        """Order a child."""
        socket.send_fds(self.control, [wire.pack_spawn(number, rehearse=rehearse)], [sock_fd, out_fd])

    def receive(self) -> tuple[bytes, list[int]] | None:
        """Return the next message and its descriptors; None: nothing yet; b"": the zygote has ended."""
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 16 * 1024, 1)
        except BlockingIOError:
            return None
        except OSError:
            return b"", []
        for fd in fds:
            os.set_inheritable(fd, False)
        return data, fds

    def hear(self, data: bytes) -> None:
        """Take the message with which a zygote says that it is ready."""
        said = json.loads(data)
        self.layers, self.contained = dict(said["layers"]), bool(said["contained"])
        self.pid = self._process.pid
        self.ready = True

    def read_errors(self) -> bool:
        """Collect what the zygote wrote to stderr; return False at its end."""
        try:
            piece = os.read(self.errors, 4096)
        except BlockingIOError:
            return True
        self.last_words = (self.last_words + piece)[-4096:]
        return bool(piece)

    def complaint(self) -> str:
        """Return the last line that the zygote wrote to stderr."""
        while self.read_errors() and not self._drained():
            pass
        lines = self.last_words.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"

    def hang_up(self) -> None:
        """Close the control socket: a zygote that hears that ends by itself."""
        self.control.close()

    def close(self) -> None:
        """Hang up, and end the process."""
        self.hang_up()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self._release()

    def abandon(self) -> None:
        """Close the descriptors in a forked copy of the trainer; the zygote belongs to the original."""
        self.control.close()
        os.close(self.errors)
        self._process.returncode = 0

    def _drained(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            piece = os.read(self.errors, 4096)
            self.last_words += piece
            return not piece
        return True

    def _release(self) -> None:
        self.control.close()
        os.close(self.errors)


def clean_environment() -> dict[str, str]:
    """Return the whole environment of the zygote: nothing of the trainer's but what Python needs to start."""
    threads = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"]
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        **dict.fromkeys(threads, "1"),
    }
