"""The zygote: a fresh interpreter that imports the libraries once and forks a child per block.

It runs as a separate program. It knows no secrets, never sees code or output, and exits when the trainer's end of its
control socket closes, however the trainer ended.
"""

import atexit
import contextlib
import ctypes
import errno
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
import threading
import warnings
from collections.abc import Callable
from typing import IO, Any

from cir_env.sandbox import wire
from cir_env.sandbox.inside import child, jail, layers, report, threads

PR_SET_CHILD_SUBREAPER = 36
MADV_COLLAPSE, HUGE = 25, 2 * 1024 * 1024
STACK_BYTES = 2 * 1024 * 1024
"""Stack of a thread. The default of 8 MB would let 64 threads fill the memory limit of 512 MB."""


def forget_editable_installs() -> None:
    """Remove import hooks and paths from .pth files, such as the trainer's checkout."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if isinstance(finder, type)]
    library, packages = os.path.dirname(os.__file__), ("site-packages", "dist-packages")
    sys.path[:] = [p for p in sys.path if p.startswith(library) or p.endswith((*packages, ".zip", "lib-dynload"))]
    for name in [name for name in sys.modules if name.startswith("__editable__")]:
        del sys.modules[name]
    for path in [path for path in sys.path_importer_cache if not path.startswith(tuple(sys.path))]:
        del sys.path_importer_cache[path]


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
    sys.argv = sys.orig_argv = [report.BLOCK_NAME]
    threading.stack_size(STACK_BYTES)
    threads.explain_failures()
    gc.collect()
    gc.freeze()


def baseline(statm: IO[str]) -> tuple[int, int]:
    """Return the size of the data and of the address space of this process, in bytes."""
    statm.seek(0)
    pages = [int(word) for word in statm.read().split()]
    return pages[5] * resource.getpagesize(), pages[0] * resource.getpagesize()


def place_descriptors(sock_fd: int, out_fd: int) -> None:
    """Move the descriptors of the child to their fixed numbers, and close all others. Stdin is an empty pipe."""
    sock_fd, out_fd = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (sock_fd, out_fd))
    os.dup2(os.pipe()[0], 0)
    os.dup2(out_fd, 1)
    os.dup2(out_fd, 2)
    os.dup2(sock_fd, child.STATUS_FD, inheritable=False)
    os.closerange(child.STATUS_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


class Zygote:
    """Forks children on request and reports their exits."""

    def __init__(self, control: socket.socket, folders: str, entered: jail.Jail, held: tuple[int, int]) -> None:
        self._jail = entered
        self._pid = os.getpid()
        self._control = control
        self._folders = folders
        self._baseline = held
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, tuple[int, int]] = {}  # pid -> (worker number, pidfd)

    def serve(self) -> child.Runner | None:
        """Serve until the control socket closes, then kill all children; return what runs the blocks in a child.

        A child leaves this function, so that the zygote's state is not in the frames above its blocks.
        """
        self._selector.register(self._control, selectors.EVENT_READ)
        while True:
            events = self._selector.select()
            for key, _ in events:
                if key.fileobj is not self._control:
                    continue
                data, fds, _, _ = socket.recv_fds(self._control, 64, 2)
                if not data:
                    self.end()
                    return None
                if (runner := self._spawn(wire.Spawn.unpack(data), fds)) is not None:
                    return runner
            self._reap()

    def end(self) -> None:
        """Kill all children."""
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._kill_orphans()

    def _spawn(self, order: wire.Spawn, fds: list[int]) -> child.Runner | None:
        pid = -1
        try:
            sock_fd, out_fd = fds
            pid = os.fork()
            if pid == 0:
                with child.exit_on_error():
                    return self._become_child(order, sock_fd, out_fd)
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError) as error:  # ValueError: the kernel drops descriptors beyond the limit.
            if pid > 0:
                os.kill(pid, signal.SIGKILL)
            self._report(wire.Report(b"F", order.worker, getattr(error, "errno", errno.EMFILE) or 0, 0.0))
            return None
        finally:
            if pid != 0:
                for fd in fds:
                    os.close(fd)
        self._workers[pid] = order.worker, pidfd
        self._selector.register(pidfd, selectors.EVENT_READ)
        self._report(wire.Report(b"S", order.worker, pid, 0.0), pidfd)
        return None

    def _become_child(self, order: wire.Spawn, sock_fd: int, out_fd: int) -> child.Runner:
        self._selector.close()
        self._control.close()
        place_descriptors(sock_fd, out_fd)
        try:
            runner = self._make_runner(order.folder)
            if order.warm_up:
                runner.warm_up()
        except BaseException as error:
            os.write(child.STATUS_FD, f"{type(error).__name__}: {error}".encode()[:500])
            raise
        os.write(child.STATUS_FD, wire.READY)
        return runner

    def _make_runner(self, folder: str) -> child.Runner:
        os.setsid()
        self._jail.mount_scratch()
        place = self._jail.scratch_mount or "/"
        if self._folders:
            place = self._jail.folder = os.path.join(self._folders, folder)
        os.chdir(place)
        os.environ["HOME"] = os.environ["TMPDIR"] = place
        child.lower(resource.RLIMIT_CORE, 0)
        child.lower(resource.RLIMIT_NOFILE, 128)
        child.lower(resource.RLIMIT_STACK, child.STACK_BYTES)
        child.lower(resource.RLIMIT_MEMLOCK, 0)
        sock = socket.socket(fileno=child.STATUS_FD)
        runner = child.Runner(sock, self._baseline, counts_threads=self._jail.own_user_namespace)
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


def main(control: socket.socket, settings: dict[str, Any]) -> Callable[[], None]:
    """Set up, report the layers, and serve; in a child, return what runs its blocks."""
    jail.prctl(PR_SET_CHILD_SUBREAPER, 1)
    jail.raise_descriptor_limit()
    forget_editable_installs()
    found = layers.set_up(settings["isolation"], settings["preload"] + settings["visible"], settings["groups"])
    preload(settings["preload"])
    report.packages = report.importable(settings["preload"]) if found.contained else None
    reset_state()
    statm, maps = found.memory_files or layers.open_memory_files()
    use_huge_pages(maps)
    held = baseline(statm)
    statm.close()
    maps.close()
    folders = ""
    if found.report.get("namespaces") != layers.ON:
        with contextlib.suppress(OSError):  # The file system may be read-only.
            folders = tempfile.mkdtemp(prefix="cir-env-")
            os.chmod(folders, 0o711)
    zygote = Zygote(control, folders, found.jail, held)
    ready = {"layers": found.report, "contained": found.contained, "folders": folders}
    pidfd = os.pidfd_open(os.getpid())
    with contextlib.suppress(ConnectionError):  # The trainer has ended.
        socket.send_fds(control, [json.dumps(ready).encode()], [pidfd])
        os.close(pidfd)
        if (runner := zygote.serve()) is not None:
            return runner.run
    if folders:
        shutil.rmtree(folders, ignore_errors=True)
    os._exit(0)
