"""The zygote: a fresh interpreter that imports the libraries once and forks a child per block.

It runs as a separate program. It knows no secrets, never sees code or output, and exits when the trainer's end of its
control socket closes, however the trainer ended.
"""

import atexit
import contextlib
import ctypes
import fcntl
import functools
import gc
import importlib
import itertools
import json
import os
import random
import resource
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import warnings
from typing import IO, Any

from cir_env.sandbox import wire
from cir_env.sandbox.inside import child, jail, layers, report

PR_SET_CHILD_SUBREAPER = 36
ADDR_NO_RANDOMIZE, CURRENT = 0x0040000, 0xFFFFFFFF
MADV_COLLAPSE, HUGE = 25, 2 * 1024 * 1024


def disable_aslr() -> None:
    """Restart without address space randomisation, so that anything ordered by `id` is reproducible."""
    now = jail.libc.personality(CURRENT)
    if now >= 0 and not now & ADDR_NO_RANDOMIZE and jail.libc.personality(now | ADDR_NO_RANDOMIZE) >= 0:
        os.execv(sys.executable, sys.orig_argv)


def forget_editable_installs() -> None:
    """Remove import hooks and paths from .pth files, such as the checkout that contains this file."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if isinstance(finder, type)]
    library, packages = os.path.dirname(os.__file__), ("site-packages", "dist-packages")
    sys.path[:] = [p for p in sys.path if p.startswith(library) or p.endswith((*packages, ".zip", "lib-dynload"))]


def use_huge_pages(maps: IO[str]) -> None:
    """Collapse the heap into huge pages, so that a fork copies fewer page table entries."""
    maps.seek(0)
    for line in maps:
        span, rights, *_, inode = line.split()[:5]
        if rights != "rw-p" or inode != "0":
            continue
        low, high = (int(word, 16) for word in span.split("-"))
        low, high = -(-low // HUGE) * HUGE, high // HUGE * HUGE
        if high > low:
            jail.libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), MADV_COLLAPSE)


def preload(names: list[str]) -> None:
    """Import what blocks are likely to use, and warm up what is slow on first use."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if "sympy" in sys.modules:
        sympy: Any = sys.modules["sympy"]
        x = sympy.Symbol("x")
        sympy.solve(x**2 - 2, x)
        sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2)
    if "numpy" in sys.modules:
        seed_numpy(sys.modules["numpy"])
    random.seed(0)


def seed_numpy(numpy: Any) -> None:
    """Make numpy's random numbers reproducible, including those of generators without a seed."""
    numpy.random.seed(0)
    original, seeds = numpy.random.default_rng, itertools.count()

    @functools.wraps(original)
    def default_rng(seed: Any = None) -> Any:
        return original(next(seeds) if seed is None else seed)

    numpy.random.default_rng = default_rng


def reset_state() -> None:
    """Bring the interpreter into the state in which every child starts."""
    for name in [n for n in sys.modules if n == "cir_env" or n.startswith("cir_env.")]:
        del sys.modules[name]
    getattr(atexit, "_clear", lambda: None)()
    warnings.simplefilter("ignore")
    sys.set_int_max_str_digits(0)
    sys.dont_write_bytecode = True
    sys.argv = [report.BLOCK_NAME]
    gc.collect()
    gc.freeze()


def baseline(statm: IO[str]) -> tuple[int, int]:
    """Return the size of the data and of the address space of this process, in bytes."""
    statm.seek(0)
    pages = [int(word) for word in statm.read().split()]
    return pages[5] * resource.getpagesize(), pages[0] * resource.getpagesize()


def place_descriptors(sock_fd: int, out_fd: int) -> None:
    """Move the descriptors of the child to their fixed numbers, and close all others except stdin, which is empty."""
    sock_fd, out_fd = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (sock_fd, out_fd))
    os.dup2(out_fd, 1)
    os.dup2(out_fd, 2)
    os.dup2(sock_fd, child.STATUS_FD, inheritable=False)
    os.closerange(child.STATUS_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


class Zygote:
    """Forks children on request and reports their exits."""

    def __init__(self, control: socket.socket, scratch: str | None, entered: jail.Jail, held: tuple[int, int]) -> None:
        self._jail = entered
        self._pid = os.getpid()
        self._control = control
        self._scratch = scratch
        self._baseline = held
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, tuple[int, int]] = {}  # pid -> (worker number, pidfd)

    def serve(self) -> None:
        """Serve until the control socket closes; then kill all children."""
        self._selector.register(self._control, selectors.EVENT_READ)
        while True:
            events = self._selector.select()
            for key, _ in events:
                if key.fileobj is not self._control:
                    continue
                data, fds, _, _ = socket.recv_fds(self._control, 64, 2)
                if not data:
                    return self.end()
                self._spawn(*wire.read_spawn(data), fds)
            self._reap()

    def end(self) -> None:
        """Kill all children."""
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._kill_orphans()

    def _spawn(self, worker: int, warm_up: bool, fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._report(wire.Report(b"F", worker, error.errno or 0, 0.0))
            return
        if pid == 0:
            with child.always_exit():
                self._become_child(worker, warm_up, *fds).serve()
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._workers[pid] = worker, pidfd
        self._selector.register(pidfd, selectors.EVENT_READ)
        self._report(wire.Report(b"S", worker, pid, 0.0), pidfd)

    def _become_child(self, worker: int, warm_up: bool, sock_fd: int, out_fd: int) -> child.Runner:
        place_descriptors(sock_fd, out_fd)
        try:
            runner = self._make_runner(worker)
            if warm_up:
                runner.warm_up()
        except BaseException as error:
            os.write(child.STATUS_FD, f"{type(error).__name__}: {error}".encode()[:500])
            raise
        os.write(child.STATUS_FD, wire.READY)
        return runner

    def _make_runner(self, worker: int) -> child.Runner:
        os.setsid()
        self._jail.mount_scratch()
        place = self._jail.scratch_mount or "/"
        if self._scratch is not None:
            place = os.path.join(self._scratch, str(worker))
            os.mkdir(place, 0o700)
        os.chdir(place)
        os.environ["HOME"] = os.environ["TMPDIR"] = place
        child.lower(resource.RLIMIT_CORE, 0)
        child.lower(resource.RLIMIT_NOFILE, 128)
        child.lower(resource.RLIMIT_STACK, child.STACK_BYTES)
        child.lower(resource.RLIMIT_MEMLOCK, 0)
        processes = self._jail.process_base and self._jail.process_base + len(self._workers)
        runner = child.Runner(socket.socket(fileno=child.STATUS_FD), self._baseline, processes)
        self._jail.enter(self._pid)
        return runner

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
            self._kill_orphans()
            if self._scratch is not None:
                shutil.rmtree(os.path.join(self._scratch, str(worker)), ignore_errors=True)
            self._report(wire.Report(b"X", worker, status, usage.ru_utime + usage.ru_stime))

    def _kill_orphans(self) -> None:
        """Kill orphaned descendants of children, which become children of this process."""
        with contextlib.suppress(OSError):
            while True:
                with open(f"/proc/self/task/{os.getpid()}/children") as file:
                    orphans = [int(word) for word in file.read().split() if int(word) not in self._workers]
                if not orphans:
                    return
                for pid in orphans:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)

    def _report(self, report: wire.Report, *fds: int) -> None:
        with contextlib.suppress(OSError):
            socket.send_fds(self._control, [report.pack()], list(fds))


def main() -> None:
    """Set up, report the layers, and serve."""
    disable_aslr()
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    jail.prctl(PR_SET_CHILD_SUBREAPER, 1)
    jail.raise_descriptor_limit()
    forget_editable_installs()
    found = layers.set_up(settings["isolation"], settings["preload"] + settings["visible"], settings["groups"])
    preload(settings["preload"])
    report.packages = report.importable(settings["preload"]) if found.contained else None
    reset_state()
    statm, maps = found.memory_files or layers.open_memory_files()
    use_huge_pages(maps)
    scratch = tempfile.mkdtemp(prefix="cir-env-") if settings["isolation"] == "unsafe" else None
    zygote = Zygote(control, scratch, found.jail, baseline(statm))
    control.send(json.dumps({"layers": found.report, "contained": found.contained}).encode())
    zygote.serve()
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)
