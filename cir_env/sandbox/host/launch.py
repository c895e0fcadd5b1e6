"""Starts a zygote, and communicates with it."""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cir_env.sandbox import wire

SANDBOX = Path(__file__).resolve().parents[1]

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
import ctypes, importlib, importlib.abc, importlib.util, json, os, socket, sys

def disable_aslr():
    "Restart without address space randomisation, so that anything ordered by id is reproducible."
    personality, no_randomize, current = ctypes.CDLL(None).personality, 0x40000, 0xFFFFFFFF
    now = personality(current)
    if now >= 0 and not now & no_randomize and personality(now | no_randomize) >= 0:
        os.execv(sys.executable, sys.orig_argv)

class Sources(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    def __init__(self, sources): self.sources = sources
    def get_source(self, name): return self.sources[name]
    def is_package(self, name): return not self.sources[name]
    def get_code(self, name): return compile(self.sources[name], f"<{name}>", "exec")
    def find_spec(self, name, path, target=None):
        if name not in self.sources:
            return None
        spec = importlib.util.spec_from_loader(name, self, origin=f"<{name}>")
        spec.has_location = True
        return spec

def boot():
    disable_aslr()
    control = socket.socket(fileno=int(sys.argv[1]))
    message = json.loads(control.recv(1 << 20))
    sys.meta_path.insert(0, Sources(message["sources"]))
    return importlib.import_module("cir_env.sandbox.inside.zygote").main(control, message["settings"])

boot()()
"""


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
        self.folders = ""
        self._pidfd, self._inner_pid = -1, 0
        self.layers: dict[str, str] = {}
        self.contained = False
        self.stderr, err = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.stderr_tail = bytearray()
        options = {**dataclasses.asdict(settings), "groups": groups}
        boot = [sys.executable, "-s", "-P", "-c", _BOOT, str(theirs.fileno())]
        try:
            self.control.send(json.dumps({"sources": _sources(), "settings": options}).encode())
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

    def spawn(self, order: wire.Spawn, sock_fd: int, out_fd: int) -> None:
        """Order the zygote to fork a child."""
        socket.send_fds(self.control, [order.pack()], [sock_fd, out_fd])

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

    def read_ready(self, data: bytes, fds: list[int]) -> None:
        """Process the message that the zygote is ready, with a pidfd of it.

        Raises:
            OSError: The descriptor was lost since this process has too many.
        """
        message = json.loads(data)
        self.layers, self.contained = dict(message["layers"]), bool(message["contained"])
        self.folders = message["folders"]
        if not fds:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self._pidfd = fds[0]
        self._inner_pid = pid_of(self._pidfd)
        self.ready = True

    @property
    def pid(self) -> int:
        """The process that this one has started; the zygote itself may be its child."""
        return self._process.pid

    def resume_if_stopped(self) -> bool:
        """Continue the zygote if somebody has stopped it, and return whether it was stopped."""
        stopped = False
        for pid in {self.pid, self._inner_pid} - {0}:
            with contextlib.suppress(OSError):
                if state_of(pid) == "T":
                    os.kill(pid, signal.SIGCONT)
                    stopped = True
        return stopped

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
        self.resume_if_stopped()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self._release()
        if self.folders:
            shutil.rmtree(self.folders, ignore_errors=True)

    def abandon(self) -> None:
        """Close the descriptors in a forked copy of the trainer, without ending the zygote."""
        self._release()
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
        if self._pidfd >= 0:
            os.close(self._pidfd)


def pid_of(pidfd: int) -> int:
    """Return the process of a pidfd; 0 if it is in no namespace below this one."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        found = re.search(r"^Pid:\s*(-?\d+)", file.read(), re.MULTILINE)
    return int(found[1]) if found else 0


def state_of(pid: int) -> str:
    """Return the state of a process as in /proc: "R" runnable, "S" asleep, "T" stopped, "Z" ended ...

    Raises:
        OSError: There is no such process.
    """
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


@functools.cache
def _sources() -> dict[str, str]:
    """Return the source of each module that the zygote imports; '' for a package.

    It gets their text, not their place: blocks must not learn where the trainer's files are, and `cir_env/__init__.py`
    would import what the zygote must not contain.
    """
    files = [SANDBOX / "wire.py", SANDBOX / "control_group.py", *(SANDBOX / "inside").glob("[a-z]*.py")]
    modules = {".".join(("cir_env", *file.relative_to(SANDBOX.parent).with_suffix("").parts)): file for file in files}
    packages = ("cir_env", "cir_env.sandbox", "cir_env.sandbox.inside")
    return dict.fromkeys(packages, "") | {name: file.read_text() for name, file in modules.items()}


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
        "MALLOC_ARENA_MAX": "1",  # each further arena takes 64 MB of the address space that a block may use
        "PYTHONTZPATH": "",  # Blocks cannot read the system's time zones; those of the package tzdata are found.
        **dict.fromkeys(threads, "1"),
    }
