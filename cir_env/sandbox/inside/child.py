"""Runs inside a forked child: receives blocks, executes them, and reports how they ended.

The supervisor trusts nothing here. It reads one packet per block from this side, measures time from outside, and uses
the exit status of a child that reports nothing.
"""

import ast
import atexit
import builtins
import contextlib
import errno
import linecache
import os
import random
import resource
import socket
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

from cir_env.sandbox import wire
from cir_env.sandbox.inside import streams, threads
from cir_env.sandbox.inside.report import BLOCK_NAME, exit_outcome, last_line, whole_traceback

STATUS_FD = 3
MB = 1024 * 1024
STACK_BYTES = 64 * MB
RESERVE_BYTES = 32 * MB
WARM_UP_CODE = "print\n0"


class Runner:
    """Executes blocks in one namespace and reports on one socket."""

    def __init__(self, sock: socket.socket, baseline: tuple[int, int], *, counts_threads: bool) -> None:
        self._sock = sock
        self._baseline = baseline
        self._counts_threads = counts_threads
        self._module = types.ModuleType("__main__")
        self._module.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = self._module
        self._blocks = 0
        self._log = streams.Log()
        random.seed(0)  # `random` reseeds itself after a fork.

    def warm_up(self) -> None:
        """Touch the memory that every block touches, so that shared pages are copied before a block starts."""
        self._open_streams(self._log.capacity, 0)
        self._evaluate(WARM_UP_CODE, "<warm-up>")
        print(end="", file=self._out)
        wire.pack_status(bytes(wire.NONCE_BYTES), wire.OK)
        _finish_threads()
        linecache.cache.clear()
        self._module.__dict__.clear()
        self._module.__dict__.update(vars(types.ModuleType("__main__")), __builtins__=builtins)

    def run(self) -> None:
        """Execute jobs until the supervisor closes the socket, then exit."""
        with exit_on_error():
            self._serve()
        os._exit(0)

    def _serve(self) -> None:
        while (received := wire.receive_job(self._sock)) is not None:
            job, code, files = received
            if files:
                wire.write_files(files)
            self._prepare(job)
            outcome = self._execute(code.decode("utf-8", "surrogatepass"), job)
            self._log.end()
            self._sock.send(wire.pack_status(job.nonce, *outcome))

    def _prepare(self, job: wire.Job) -> None:
        self._open_streams(job.log_bytes, wire.job_mark(job.nonce))
        data, size = self._baseline
        limit = job.memory_mb * MB
        lower(resource.RLIMIT_DATA, data + limit, reserve=RESERVE_BYTES)
        lower(resource.RLIMIT_AS, size + limit + STACK_BYTES + self._log.capacity, reserve=RESERVE_BYTES)
        if self._counts_threads and job.processes != threads.limit:
            lower(resource.RLIMIT_NPROC, job.processes)
        threads.limit = job.processes
        lower(resource.RLIMIT_FSIZE, max(job.file_mb * MB, 2 * self._log.capacity))  # Direct output follows the log.
        if job.flags & wire.ONE_SHOT:
            lower(resource.RLIMIT_CPU, job.cpu_s + 2)

    def _open_streams(self, log_bytes: int, job: int) -> None:
        # A thread that a block left running may be in `print`, which does not keep its stream alive.
        self._previous = sys.stdout, sys.stderr
        self._out, self._err = self._log.begin(log_bytes, job)
        sys.stdout = sys.__stdout__ = self._out  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._err  # type: ignore[misc]

    def _execute(self, source: str, job: wire.Job) -> tuple[int, str, str]:
        out, err = self._out, self._err
        self._blocks += 1
        name = BLOCK_NAME if self._blocks == 1 else f"{BLOCK_NAME[:-1]} {self._blocks}>"
        try:
            value = self._evaluate(source, name)
            if job.flags & wire.ONE_SHOT:
                _finish_threads()
            flush(out)
            if value is not None and self._log.is_empty():
                print(repr(value), file=out)
            return wire.OK, "", ""
        except SystemExit as stop:
            return exit_outcome(stop, err)
        except MemoryError as error:
            release_reserve()
            return wire.MEMORY, last_line(error), ""
        except BaseException as error:
            return _kind(error), last_line(error), whole_traceback(error)
        finally:
            release_reserve()
            flush(out)
            flush(err)
            _flush_replaced(out, err)

    def _evaluate(self, source: str, name: str) -> object:
        """Execute the block; return the value of its last statement if it is an expression."""
        lines = source.splitlines(keepends=True)
        linecache.cache[name] = (len(source), None, lines, name)
        tree = ast.parse(source, name)
        final = tree.body[-1] if tree.body else None
        last = final if isinstance(final, ast.Expr) else None
        if last is not None:
            tree.body.pop()
        space = self._module.__dict__
        rest = compile(tree, name, "exec", dont_inherit=True)
        if last is None:
            exec(rest, space)
            return None
        # Compile before anything runs: errors that only the compiler finds must not occur after a partial execution.
        flags = rest.co_flags & _FUTURE_FLAGS
        end = compile(ast.Expression(last.value), name, "eval", flags=flags, dont_inherit=True)
        exec(rest, space)
        return eval(end, space)


def _future_flags() -> int:
    import __future__

    return sum(getattr(__future__, name).compiler_flag for name in ("annotations", "barry_as_FLUFL"))


_FUTURE_FLAGS = _future_flags()


def lower(which: int, value: int, *, reserve: int = 0) -> None:
    """Lower a resource limit irreversibly, unless it is already lower.

    The hard limit is higher by `reserve`, which is used to report on a block that hit the limit.
    """
    _, hard = resource.getrlimit(which)
    top = value + reserve if hard == resource.RLIM_INFINITY else min(value + reserve, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(which, (min(value, top), top))


def release_reserve() -> None:
    """Make the reserved memory available for the report."""
    for which in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        with contextlib.suppress(OSError, ValueError):
            _, hard = resource.getrlimit(which)
            resource.setrlimit(which, (hard, hard))


def flush(stream: Any) -> None:
    """Flush a stream, ignoring errors that a block may cause by modifying its streams."""
    with contextlib.suppress(Exception):
        stream.flush()


def _flush_replaced(out: object, err: object) -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and stream is not out and stream is not err:
            flush(stream)


def _finish_threads() -> None:
    """Wait for threads and run exit functions, as the interpreter does on exit."""
    shutdown: Callable[[], None] | None = getattr(threading, "_shutdown", None)
    if shutdown is not None and threading.active_count() > 1:
        shutdown()
    run: Callable[[], None] | None = getattr(atexit, "_run_exitfuncs", None)
    if run is not None:
        run()


def _kind(error: BaseException) -> int:
    """Distinguish limits that the block exceeded from other errors."""
    if type(error) is OSError and error.errno in (errno.EFBIG, errno.ENOSPC, errno.EDQUOT):
        return wire.FILES
    if (is_over := threads.is_over_limit(error)) is not None:
        return wire.THREADS if is_over else wire.MEMORY
    return wire.ERROR


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Exit the process if an exception is raised, so that a child never returns into the code of the zygote."""
    try:
        yield
    except BaseException:
        os._exit(71)
