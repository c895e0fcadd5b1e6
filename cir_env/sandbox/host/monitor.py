"""One child seen from outside: its descriptors, its clocks, and the verdict on the job that it runs."""

import contextlib
import os
import re
import secrets
import signal
import socket
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from cir_env.sandbox import wire
from cir_env.sandbox.contract import ExecutionResult, Limits, Status
from cir_env.sandbox.host.launch import ZygoteHandle

KB = 1024
STATUSES = {
    wire.OK: Status.OK,
    wire.ERROR: Status.ERROR,
    wire.MEMORY: Status.MEMORY,
    wire.FILES: Status.FILE_LIMIT,
    wire.THREADS: Status.PROCESS_LIMIT,
}
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,16}\b")
MAX_FALSE_PACKETS = 64
"""Packets that are not the runner's, after which a block that writes to its status socket is ended."""
MAX_JUDGE_PAUSE_S = 0.1
"""Seconds between two looks at a block: what a thread that ends waited for a core is known to the last look."""
MIN_LOOK_S = 0.01
"""Seconds between two looks from which a block that did next to nothing is taken to be asleep."""
MAX_THREADS_READ = 256
HAS_SCHEDSTAT = os.path.exists("/proc/self/schedstat")


def hide_addresses(text: str) -> str:
    """Replace memory addresses, which differ from run to run.

    >>> hide_addresses("<object object at 0x7f0a2987bed0>")
    '<object object at 0x...>'
    """
    return ADDRESS.sub("at 0x...", text)


@dataclass(eq=False, slots=True, kw_only=True)
class Task:
    """A block on its way through the supervisor."""

    code: bytes
    """Its text in UTF-8."""
    limits: Limits
    """What it may use."""
    future: "Future[ExecutionResult]"
    """Where the result goes."""
    lane: "Lane | None" = None
    """The session that it belongs to."""
    attempts: int = 0
    """How often it was given to a child."""

    def finish(
        self, status: Status, error: str, *, stdout: str = "", traceback: str = "", cpu_seconds: float = 0.0
    ) -> None:
        """Deliver the result."""
        result = ExecutionResult(
            status=status, stdout=stdout, error=error, traceback=traceback, cpu_seconds=cpu_seconds
        )
        with contextlib.suppress(InvalidStateError):
            self.future.set_result(result)


@dataclass(eq=False, slots=True, kw_only=True)
class Lane:
    """A session as the supervisor sees it: blocks in order, and the child that holds the namespace."""

    waiting: deque[Task] = field(default_factory=deque)
    """Blocks behind the one that is queued or running."""
    active: bool = False
    """Whether one of its blocks is queued or running."""
    worker: "Worker | None" = None
    """The child, once a block has run."""
    blocks: int = 0
    """Blocks that have run in the child's namespace."""
    lost: bool = False
    """A fault of ours took the namespace: later blocks cannot be judged."""
    closed: bool = False
    """Nothing more will come."""


class Worker:
    """A child from its order to its end."""

    def __init__(self, number: int, zygote: ZygoteHandle) -> None:
        self.number, self.zygote = number, zygote
        self.task: Task | None = None
        self.lane: Lane | None = None
        self.ready = False
        self.gone = False
        self.pid = 0
        self._pidfd = -1
        self.sock, self.child_sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        try:
            self.out, self.child_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            self.sock.close()
            self.child_sock.close()
            raise
        os.set_blocking(self.child_out, True)
        self._outgoing: deque[bytes] = deque()
        self._nonce = b""
        self._output = bytearray()
        self._false_packets = 0
        self._start = self._looked_at = self._cpu_start = self._cpu = self._idle = 0.0
        self._queued: dict[str, int] = {}
        self.judge_at = 0.0
        self.asleep = False

    def born(self, pidfd: int) -> None:
        """Take the child's handle; its own ends of the descriptors are closed here."""
        self._pidfd = pidfd
        with open(f"/proc/self/fdinfo/{pidfd}") as file:
            found = re.search(r"^Pid:\s*(-?\d+)", file.read(), re.MULTILINE)
        self.pid = int(found[1]) if found else 0
        self.close_child_ends()

    def close_child_ends(self) -> None:
        """Close what only the child may hold."""
        if self.child_out >= 0:
            self.child_sock.close()
            os.close(self.child_out)
            self.child_out = -1

    def read_greeting(self) -> str | None:
        """Return the reason why the child cannot run code, '' if it can, None if it has not said yet."""
        try:
            packet = self.sock.recv(wire.STATUS_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            packet = b""
        self.ready = packet == wire.READY
        return "" if self.ready else packet.decode("utf-8", "replace") or "it ended without a word"

    def assign(self, task: Task) -> None:
        """Give the child a job, and start its clocks."""
        self._discard_output()
        self.task, self.lane = task, task.lane
        task.attempts += 1
        limits = task.limits
        self._nonce = secrets.token_bytes(wire.NONCE_BYTES)
        job = wire.Job(
            self._nonce,
            len(task.code),
            int(limits.time_limit_s) + 1,
            limits.memory_limit_mb,
            limits.file_limit_mb,
            limits.process_limit,
            wire.ONE_SHOT if task.lane is None else 0,
        )
        pieces = range(0, len(task.code), wire.CHUNK_BYTES)
        self._outgoing = deque([job.pack(), *(task.code[i : i + wire.CHUNK_BYTES] for i in pieces)])
        self._false_packets = 0
        self._start = time.monotonic()
        self._cpu_start, self._cpu, self._idle = self._cpu_clock(), 0.0, 0.0
        self.asleep = False
        self._looked_at = self._start
        self.judge_at = self._start + MIN_LOOK_S
        self._signal(signal.SIGCONT)
        self.send()

    def send(self) -> bool:
        """Send what is left of the job; return whether more remains."""
        try:
            while self._outgoing:
                self.sock.send(self._outgoing[0])
                self._outgoing.popleft()
        except BlockingIOError:
            return True
        except OSError:
            self._outgoing.clear()  # The child has gone: its exit decides.
        return False

    def read_output(self) -> bool:
        """Take what was printed; return False at the end of the stream."""
        limit = self.task.limits.output_limit_kb * KB if self.task else 0
        while len(self._output) <= limit:
            try:
                piece = os.read(self.out, 64 * KB)
            except BlockingIOError:
                return True
            if not piece:
                return False
            self._output += piece
        return True

    def read_status(self) -> tuple[Status, str, str] | None:
        """Take the runner's word on the job, if it came: status, last line of the error, traceback."""
        while self.task is not None and self._false_packets <= MAX_FALSE_PACKETS:
            try:
                packet = self.sock.recv(wire.STATUS_BYTES)
            except OSError:
                return None
            if not packet:
                return None
            if (read := wire.read_status(packet, self._nonce)) is not None:
                kind, error, trace = read
                return STATUSES[kind], error, trace
            self._false_packets += 1
        return None

    def hung_up(self) -> bool:
        """Say whether the child's end of the status socket is closed."""
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def judge(self, now: float, cores: int) -> tuple[Status, str] | None:
        """Return the verdict if the job is over a limit; otherwise set the time of the next look."""
        task = self.task
        if task is None:
            return None
        limits = task.limits
        if len(self._output) > limits.output_limit_kb * KB:
            return Status.OUTPUT_LIMIT, f"OutputLimitError: the code printed over {limits.output_limit_kb} KB"
        if self._false_packets > MAX_FALSE_PACKETS:
            return Status.ERROR, "OSError: the code wrote to a descriptor that is not its own"
        return None if now < self.judge_at else self._judge_clocks(limits, now, cores)

    def _judge_clocks(self, limits: Limits, now: float, cores: int) -> tuple[Status, str] | None:
        wall, before = now - self._start, self._cpu
        cpu = self.cpu_seconds()
        threads, queued = self._look_at_threads()
        if queued is not None:  # Otherwise sleeping and waiting for a core look alike: the wall limit has to do.
            passed = now - self._looked_at
            idle = max(0.0, passed - (cpu - before) - queued)
            self._idle += idle
            self.asleep = passed >= MIN_LOOK_S and idle > 0.9 * passed
        self._looked_at = now
        if cpu >= limits.time_limit_s:
            return Status.TIMEOUT, f"TimeoutError: the code ran for over {limits.time_limit_s:g} s"
        if self._idle >= limits.idle_limit_s and not self._runnable():
            return Status.TIMEOUT, f"TimeoutError: the code was idle for over {limits.idle_limit_s:g} s"
        if wall >= limits.wall_limit_s:
            return Status.TIMEOUT, f"TimeoutError: no result after {limits.wall_limit_s:g} s"
        if threads > limits.process_limit:
            return Status.PROCESS_LIMIT, f"RuntimeError: the code ran over {limits.process_limit} threads"
        left = (limits.time_limit_s - cpu) / cores, limits.idle_limit_s - self._idle, limits.wall_limit_s - wall
        self.judge_at = now + min(max(min(left), 0.01), MAX_JUDGE_PAUSE_S)
        return None

    def post_mortem(self, wait_status: int) -> tuple[Status, str]:
        """Judge a child that ended without a word, by its wait status."""
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

    def finish(self, status: Status, error: str, trace: str) -> Task | None:
        """Deliver the job's result and return the job."""
        task, self.task = self.task, None
        if task is None:
            return None
        cut = task.limits.output_limit_kb * KB
        stdout = bytes(self._output[:cut]).decode("utf-8", "replace")
        self._output.clear()
        task.finish(
            status,
            hide_addresses(error),
            stdout=hide_addresses(stdout),
            traceback=hide_addresses(trace),
            cpu_seconds=round(self.cpu_seconds(), 6),
        )
        return task

    def over_output(self) -> bool:
        """Say whether more was printed than the job may."""
        return self.task is not None and len(self._output) > self.task.limits.output_limit_kb * KB

    def cpu_seconds(self) -> float:
        """Return the CPU time of the job so far."""
        clock = self._cpu_clock()
        if clock:
            self._cpu = clock - self._cpu_start
        return max(0.0, self._cpu)

    def set_final_cpu(self, whole_life: float) -> None:
        """Take the CPU time from the exit report, since the clock of a process that was reaped is gone."""
        self._cpu = max(self._cpu, whole_life - self._cpu_start)

    def pause(self) -> None:
        """Stop the child between the blocks of a session: what it left running must not burn a core."""
        self._signal(signal.SIGSTOP)

    def kill(self) -> None:
        """Kill the child."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Kill the child and close every descriptor."""
        if self.gone:
            return
        self.gone = True
        self.kill()
        self.close_child_ends()
        self.sock.close()
        os.close(self.out)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def abandon(self) -> None:
        """Close the descriptors in a forked copy of the trainer, and leave the child alone."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            os.close(pidfd)
        self.close()

    def _discard_output(self) -> None:
        with contextlib.suppress(OSError):
            while os.read(self.out, 64 * KB):  # Until it would block, which is an OSError too.
                pass
        self._output.clear()

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _cpu_clock(self) -> float:
        """Read the process's CPU clock; its id is the kernel's MAKE_PROCESS_CPUCLOCK of the pid."""
        try:
            return time.clock_gettime(((~self.pid) << 3) | 2) if self.pid > 0 else 0.0
        except OSError:
            return 0.0

    def _look_at_threads(self) -> tuple[int, float | None]:
        """Return how many threads there are, and the seconds that they waited for a core since the last look.

        The second is None where the kernel does not say.
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
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{self.pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "R"
        return False
