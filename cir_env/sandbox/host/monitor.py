"""`Worker`, the host's view of one child: its descriptors, its clocks, and the result of its job."""

import contextlib
import os
import re
import secrets
import select
import shutil
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from cir_env.errors import SandboxUnavailable
from cir_env.sandbox import wire
from cir_env.sandbox.contract import ExecutionResult, Limits, Status
from cir_env.sandbox.host.launch import ZygoteHandle, pid_of, state_of
from cir_env.sandbox.host.loop import log
from cir_env.sandbox.host.output import Output

KB = 1024
STATUSES = {
    wire.OK: Status.OK,
    wire.ERROR: Status.ERROR,
    wire.MEMORY: Status.MEMORY,
    wire.FILES: Status.FILE_LIMIT,
    wire.THREADS: Status.PROCESS_LIMIT,
}
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,16}\b")
MAX_INVALID_PACKETS = 64
"""Number of invalid packets on its status socket after which a block is ended."""
MAX_CHECK_INTERVAL_S = 0.1
"""Seconds between two checks of a block. The time that a thread waited for a core is lost if it ends in between."""
MIN_CHECK_INTERVAL_S = 0.01
"""Minimum seconds between two checks to tell whether a block is asleep."""
MAX_LATE_S = 0.5
"""Seconds by which a check may be late. What exceeds them, as after a stop of this process, counts towards no limit."""
MAX_THREADS_READ = 256
CLOSED_SESSION = "the session was closed"
HAS_SCHEDSTAT = os.path.exists("/proc/self/schedstat")


def hide_addresses(text: str) -> str:
    """Replace memory addresses, which differ from run to run.

    >>> hide_addresses("<object object at 0x7f0a2987bed0>")
    '<object object at 0x...>'
    """
    return ADDRESS.sub("at 0x...", text)


def _over_output_limit(limits: Limits) -> tuple[Status, str]:
    return Status.OUTPUT_LIMIT, f"OutputLimitError: the code printed over {limits.output_limit_kb} KB"


def _resolve(resolve: Callable[[Any], None], value: object) -> None:
    """Resolve a future, which may be cancelled, and whose callbacks may raise what they like."""
    try:
        resolve(value)
    except InvalidStateError:
        pass
    except BaseException:
        log.exception("A callback of a block's future failed")


@dataclass(eq=False, slots=True, kw_only=True)
class Task:
    """A block that is queued or running."""

    code: bytes
    """The code in UTF-8."""
    limits: Limits
    """Its limits."""
    future: "Future[ExecutionResult]"
    """The future of its result."""
    session: "SessionState | None" = None
    """The session that it belongs to."""
    files: bytes = b""
    """Its files, as `wire.pack_files` encodes them."""
    attempts: int = 0
    """How often it was assigned to a child."""

    def finish(
        self, status: Status, error: str, *, stdout: str = "", traceback: str = "", cpu_seconds: float = 0.0
    ) -> None:
        """Deliver the result."""
        result = ExecutionResult(
            status=status, stdout=stdout, error=error, traceback=traceback, cpu_seconds=cpu_seconds
        )
        _resolve(self.future.set_result, result)

    def fail(self, error: SandboxUnavailable) -> None:
        """Deliver an error."""
        _resolve(self.future.set_exception, error)


@dataclass(eq=False, slots=True, kw_only=True)
class SessionState:
    """The supervisor's view of a session: its waiting blocks, and the child that holds the namespace."""

    files: bytes = b""
    """The files of its blocks, as in `Task`; each child gets them once."""
    waiting: deque[Task] = field(default_factory=deque)
    """Blocks that wait for the active one."""
    active: bool = False
    """Whether one of its blocks is queued or running."""
    worker: "Worker | None" = None
    """The child, once a block has run."""
    blocks: int = 0
    """Number of blocks that have run in the namespace."""
    lost: bool = False
    """Whether an infrastructure error ended the namespace, so that later blocks cannot run."""
    ended: tuple[Status, str] | None = None
    """Status and error of the next block, if something else ended the namespace between two blocks."""
    closed: bool = False
    """Whether the session was closed."""

    def why_over(self) -> str | None:
        """Return why no other block can run in it; None if one can."""
        return CLOSED_SESSION if self.closed else "the sandbox lost the process of the session" if self.lost else None


class Worker:
    """A child, from the order to fork it to its end."""

    def __init__(self, number: int, zygote: ZygoteHandle) -> None:
        self.number, self.zygote = number, zygote
        self.task: Task | None = None
        self.session: SessionState | None = None
        self.ready = False
        self.gone = False
        self.exited = False
        """Whether a check has found that the child has ended; the zygote's report follows."""
        self.folder = ""
        self.pid = 0
        self._pidfd = -1
        self.sock, self.child_sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        with contextlib.ExitStack() as undo:
            undo.callback(self.sock.close)
            undo.callback(self.child_sock.close)
            self.out = Output(Limits().output_limit_kb * KB)
            undo.callback(self.out.close)
            if zygote.folders:
                self.folder = secrets.token_hex(8)
                os.makedirs(self._folder_path)  # with its parent, if somebody has cleaned up the temporary files
                os.chmod(self._folder_path, 0o755)
            undo.pop_all()
        self._outgoing: deque[bytes] = deque()
        self._reads_no_more = False
        self._nonce = b""
        self._invalid_packets = 0
        self._start = self._last_check = self._cpu_start = self._cpu = self._idle = 0.0
        self._queued: dict[str, int] = {}
        self.next_check = 0.0
        self.asleep = False

    def on_forked(self, pidfd: int) -> None:
        """Store the pidfd of the forked child, and close the child's end of the socket.

        Raises:
            OSError: This process has no descriptor left to learn the child's process id.
        """
        self._pidfd = pidfd
        self._exit = select.poll()
        self._exit.register(pidfd, select.POLLIN)
        self.pid = pid_of(pidfd)
        self.child_sock.close()

    def read_ready(self) -> str | None:
        """Return '' if the child is ready, the reason if it cannot run code, and None if it has not answered yet."""
        try:
            packet = self.sock.recv(wire.STATUS_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            packet = b""
        self.ready = packet == wire.READY
        return "" if self.ready else packet.decode("utf-8", "replace") or "it ended without an error message"

    def assign(self, task: Task) -> bool:
        """Assign a job to the child, and start its clocks; return False if the child can no longer receive it."""
        files = task.files if self.session is None else b""  # Later blocks of a session find them in place.
        self.task, self.session = task, task.session
        task.attempts += 1
        if self.folder:
            wire.write_files(files, self._folder_path)
            files = b""
        self.out.resize(task.limits.output_limit_kb * KB)
        limits = task.limits
        self._nonce = secrets.token_bytes(wire.NONCE_BYTES)
        job = wire.Job(
            self._nonce,
            len(task.code),
            len(files),
            int(limits.time_limit_s) + 1,
            limits.memory_limit_mb,
            limits.file_limit_mb,
            limits.process_limit,
            self.out.log_bytes,
            wire.ONE_SHOT if task.session is None else 0,
        )
        payload = task.code + files
        pieces = range(0, len(payload), wire.CHUNK_BYTES)
        self._outgoing = deque([job.pack(), *(payload[i : i + wire.CHUNK_BYTES] for i in pieces)])
        self._invalid_packets = 0
        self._start = time.monotonic()
        self._cpu_start, self._cpu, self._idle = self._cpu_clock(), 0.0, 0.0
        self.asleep = False
        self._last_check = self._start
        self.next_check = self._start + MIN_CHECK_INTERVAL_S
        self._signal(signal.SIGCONT)
        self.send()
        return not self._reads_no_more

    def send(self) -> bool:
        """Send the rest of the job as far as possible; return whether more remains."""
        try:
            while self._outgoing:
                self.sock.send(self._outgoing[0])
                self._outgoing.popleft()
        except BlockingIOError:
            return True
        except OSError:
            self._reads_no_more = True
        return False

    def read_status(self) -> tuple[Status, str, str] | None:
        """Return the status that the runner reported, if any: status, last line of the error, traceback."""
        while self.task is not None and self._invalid_packets <= MAX_INVALID_PACKETS:
            try:
                packet = self.sock.recv(wire.STATUS_BYTES)
            except OSError:
                return None
            if not packet:
                return None
            if (read := wire.read_status(packet, self._nonce)) is not None:
                kind, error, trace = read
                return STATUSES[kind], error, trace
            self._invalid_packets += 1
        return None

    def discard_packets(self) -> bool:
        """Drop what an idle session has sent; return False at what may be the end of its socket."""
        try:
            while self.sock.recv(wire.STATUS_BYTES):
                pass
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def has_begun(self) -> bool:
        """Return whether the child has begun with its job, as far as it can be trusted in this."""
        return self.out.header().job == wire.job_mark(self._nonce)

    def socket_closed(self) -> bool:
        """Return whether the child has closed its end of the status socket."""
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def check_limits(self, now: float, cores: int) -> tuple[Status, str] | None:
        """Return status and error if the job exceeds a limit; otherwise set the time of the next check."""
        task = self.task
        if task is None:
            return None
        limits = task.limits
        if self._invalid_packets > MAX_INVALID_PACKETS:
            return Status.ERROR, "OSError: the code wrote to a descriptor that is not its own"
        return None if now < self.next_check else self._check_clocks(limits, now, cores)

    def _check_clocks(self, limits: Limits, now: float, cores: int) -> tuple[Status, str] | None:
        late = max(0.0, now - self.next_check - MAX_LATE_S)
        self._start, self._last_check = self._start + late, self._last_check + late
        self.next_check = now + MAX_CHECK_INTERVAL_S
        self.exited = bool(self._exit.poll(0))
        if self.exited:
            return None
        before, cpu = self._cpu, self.cpu_seconds()
        threads, queued = self._read_threads()
        if queued is not None:  # Otherwise sleeping and waiting for a core are the same: only the wall limit applies.
            passed = now - self._last_check
            idle = max(0.0, passed - (cpu - before) - queued)
            self._idle += idle
            self.asleep = passed >= MIN_CHECK_INTERVAL_S and idle > 0.9 * passed
        self._last_check = now
        wall = now - self._start
        left = (limits.time_limit_s - cpu) / cores, limits.idle_limit_s - self._idle, limits.wall_limit_s - wall
        self.next_check = now + min(max(min(left), 0.01), MAX_CHECK_INTERVAL_S)
        return self._find_excess(limits, cpu, wall, threads)

    def _find_excess(self, limits: Limits, cpu: float, wall: float, threads: int) -> tuple[Status, str] | None:
        if self.out.surely_exceeds(limits.output_limit_kb * KB):
            return _over_output_limit(limits)
        if cpu >= limits.time_limit_s:
            return Status.TIMEOUT, f"TimeoutError: the code ran for over {limits.time_limit_s:g} s"
        if self._idle >= limits.idle_limit_s and not self._runnable():
            return Status.TIMEOUT, f"TimeoutError: the code was idle for over {limits.idle_limit_s:g} s"
        if wall >= limits.wall_limit_s:
            return Status.TIMEOUT, f"TimeoutError: no result after {limits.wall_limit_s:g} s"
        if threads > limits.process_limit:
            return Status.PROCESS_LIMIT, f"RuntimeError: the code ran over {limits.process_limit} threads"
        return None

    def post_mortem(self, wait_status: int) -> tuple[Status, str]:
        """Return status and error of a child that ended without a report, from its wait status."""
        task = self.task
        if os.WIFSIGNALED(wait_status):
            number = os.WTERMSIG(wait_status)
            over = task is not None and self._cpu >= task.limits.time_limit_s
            if task is not None and (over or number == signal.SIGXCPU):
                return Status.TIMEOUT, f"TimeoutError: the code ran for over {task.limits.time_limit_s:g} s"
            with contextlib.suppress(ValueError):
                return Status.KILLED, f"the process was killed by {signal.Signals(number).name}"
            return Status.KILLED, f"the process was killed by signal {number}"
        code = os.WEXITSTATUS(wait_status)
        return (Status.OK, "") if code == 0 else (Status.ERROR, f"SystemExit: {code}")

    def read_output(self) -> tuple[str, tuple[Status, str] | None]:
        """Return what the job printed, and status and error if it is more than the output limit."""
        if self.task is None:
            return "", None
        limits = self.task.limits
        cut = limits.output_limit_kb * KB
        printed = self.out.read(cut + 1)
        over = _over_output_limit(limits) if len(printed) > cut else None
        return printed[:cut].decode("utf-8", "replace"), over

    def finish(self, status: Status, error: str, trace: str, stdout: str) -> Task | None:
        """Deliver the result of the job and return the job."""
        task, self.task = self.task, None
        if task is None:
            return None
        task.finish(
            status,
            hide_addresses(error),
            stdout=hide_addresses(stdout),
            traceback=hide_addresses(trace),
            cpu_seconds=round(self.cpu_seconds(), 6),
        )
        return task

    def cpu_seconds(self) -> float:
        """Return the CPU time of the job so far, in seconds."""
        clock = self._cpu_clock()
        if clock:
            self._cpu = clock - self._cpu_start
        return max(0.0, self._cpu)

    def set_final_cpu(self, whole_life: float) -> None:
        """Set the CPU time from the exit report; a reaped process has no clock any more."""
        self._cpu = max(self._cpu, whole_life - self._cpu_start)

    def pause(self) -> None:
        """Stop the child between the blocks of a session, so that threads left running use no core."""
        self._signal(signal.SIGSTOP)
        self.out.clear()

    def kill(self) -> None:
        """Kill the child."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill the child and close all descriptors."""
        if self.gone:
            return
        self.gone = True
        self.kill()
        self.child_sock.close()
        self.sock.close()
        self.out.close()
        if self.folder:
            shutil.rmtree(self._folder_path, ignore_errors=True)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def abandon(self) -> None:
        """Close the descriptors in a forked copy of the trainer, without ending the child."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)
        self.folder = ""
        self.close()

    @property
    def _folder_path(self) -> str:
        return os.path.join(self.zygote.folders, self.folder)

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _cpu_clock(self) -> float:
        """Read the CPU clock of the process; its id is the kernel's MAKE_PROCESS_CPUCLOCK of the pid."""
        try:
            return time.clock_gettime(((~self.pid) << 3) | 2) if self.pid > 0 else 0.0
        except OSError:
            return 0.0

    def _read_threads(self) -> tuple[int, float | None]:
        """Return the number of threads, and the seconds that they waited for a core since the last check.

        The latter is None if the kernel does not report it.
        """
        before, self._queued = self._queued, {}
        try:
            threads = os.listdir(f"/proc/{self.pid}/task")
            for thread in threads[:MAX_THREADS_READ]:
                place = f"/proc/{self.pid}/task/{thread}/schedstat"
                with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(place) as file:
                    self._queued[thread] = int(file.read().split()[1])
        except (OSError, ValueError, IndexError):
            return 0, None
        waited = sum(max(0, now - before.get(thread, 0)) for thread, now in self._queued.items())
        return len(threads), waited / 1e9 if HAS_SCHEDSTAT else None

    def _runnable(self) -> bool:
        with contextlib.suppress(OSError, IndexError):
            return state_of(self.pid) == "R"
        return False
