"""The zygote: a freshly started interpreter that imports the libraries once and forks a child per block.

It is a program, not a module of the trainer: it knows no secret, never sees code or output, and ends when the
trainer's end of its control socket closes, for whatever reason the trainer went away.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import resource
import selectors
import shutil
import signal
import socket
import sys
import warnings
from typing import Any

from cir_env.sandbox import child, wire

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def prctl(option: int, value: int) -> None:
    """Set a process option; a kernel that does not know it is no reason to stop."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def preload(names: list[str]) -> None:
    """Import what blocks are likely to use, and do once what makes first use slow."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if "sympy" in sys.modules:
        sympy: Any = sys.modules["sympy"]
        x = sympy.Symbol("x")
        sympy.solve(x**2 - 2, x)
        sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    random.seed(0)


def settle() -> None:
    """Put the interpreter into the state in which every child starts."""
    for name in [n for n in sys.modules if n == "cir_env" or n.startswith("cir_env.")]:
        del sys.modules[name]
    getattr(atexit, "_clear", lambda: None)()
    warnings.simplefilter("ignore")
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    sys.dont_write_bytecode = True
    sys.argv = [child.BLOCK_NAME]
    gc.collect()
    gc.freeze()


def baseline() -> tuple[int, int]:
    """Return the bytes of data and of address space that this process holds."""
    with open("/proc/self/statm") as file:
        pages = [int(word) for word in file.read().split()]
    return pages[5] * resource.getpagesize(), pages[0] * resource.getpagesize()


class Zygote:
    """Forks children on order and reports their ends."""

    def __init__(self, control: socket.socket, scratch: str, held: tuple[int, int]) -> None:
        self._pid = os.getpid()
        self._control = control
        self._scratch = scratch
        self._baseline = held
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, tuple[int, int]] = {}  # pid -> (worker number, pidfd)

    def serve(self) -> None:
        """Obey until the control socket closes; then end every child."""
        self._selector.register(self._control, selectors.EVENT_READ)
        while True:
            events = self._selector.select()
            for key, _ in events:
                if key.fileobj is not self._control:
                    continue
                data, fds, _, _ = socket.recv_fds(self._control, 64, 2)
                if not data:
                    return self.end()
                self._spawn(wire.read_spawn(data), fds)
            self._reap()

    def end(self) -> None:
        """Kill what is left."""
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._sweep()

    def _spawn(self, worker: int, fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._report(wire.Report(b"F", worker, error.errno or 0, 0.0))
            return
        if pid == 0:
            with child.last_resort():
                self._become_child(worker, *fds)
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._workers[pid] = worker, pidfd
        self._selector.register(pidfd, selectors.EVENT_READ)
        self._report(wire.Report(b"S", worker, pid, 0.0), pidfd)

    def _become_child(self, worker: int, sock_fd: int, out_fd: int) -> None:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._pid:
            os._exit(0)
        null = os.open("/dev/null", os.O_RDONLY)
        null, sock_fd, out_fd = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (null, sock_fd, out_fd))
        for source, target in ((null, 0), (out_fd, 1), (out_fd, 2)):
            os.dup2(source, target)
        os.dup2(sock_fd, child.STATUS_FD, inheritable=False)
        os.closerange(child.STATUS_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        place = os.path.join(self._scratch, str(worker))
        with contextlib.suppress(OSError):
            os.mkdir(place, 0o700)
        os.chdir(place if os.path.isdir(place) else "/")
        os.environ["HOME"] = os.environ["TMPDIR"] = place
        child.lower(resource.RLIMIT_CORE, 0)
        child.lower(resource.RLIMIT_NOFILE, 128)
        child.lower(resource.RLIMIT_STACK, child.STACK_BYTES)
        child.lower(resource.RLIMIT_MEMLOCK, 0)
        child.Runner(socket.socket(fileno=child.STATUS_FD), *self._baseline).serve()

    def _reap(self) -> None:
        while self._workers:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self._workers:
                continue
            worker, pidfd = self._workers.pop(pid)
            self._selector.unregister(pidfd)
            os.close(pidfd)
            self._sweep()
            shutil.rmtree(os.path.join(self._scratch, str(worker)), ignore_errors=True)
            self._report(wire.Report(b"X", worker, status, usage.ru_utime + usage.ru_stime))

    def _sweep(self) -> None:
        """Kill orphans of children: they became children of this process and belong to no worker."""
        with contextlib.suppress(OSError):
            while True:
                with open(f"/proc/self/task/{os.getpid()}/children") as file:
                    strays = [int(word) for word in file.read().split() if int(word) not in self._workers]
                if not strays:
                    return
                for pid in strays:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)

    def _report(self, report: wire.Report, *fds: int) -> None:
        with contextlib.suppress(OSError):
            socket.send_fds(self._control, [report.pack()], list(fds))


def main() -> None:
    """Prepare, say so, and serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    preload(settings["preload"])
    settle()
    zygote = Zygote(control, settings["scratch"], baseline())
    control.send(json.dumps({"pid": os.getpid(), "layers": {}}).encode())
    zygote.serve()
    os._exit(0)
