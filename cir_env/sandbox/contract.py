"""What a sandbox promises: statuses, limits, results and the two protocols. No mechanism lives here."""

import enum
import math
from concurrent.futures import Future
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from cir_env.errors import OptionError

MAX_CODE_BYTES = 256 * 1024
"""Longer code is answered with `Status.ERROR` and never reaches a process."""


class Status(enum.StrEnum):
    """How the execution of a block ended.

    Everything but `INFRASTRUCTURE` is the code's own doing and can be fed back to the policy.
    """

    OK = "ok"
    """The code ran to its end, or left by `exit()` without an error."""
    ERROR = "error"
    """An exception, a syntax error or an exit code other than 0."""
    TIMEOUT = "timeout"
    """Too much CPU time, too long asleep, or the distant wall limit."""
    MEMORY = "memory"
    """An allocation beyond the memory limit that the code did not handle."""
    FILE_LIMIT = "file_limit"
    """A file over the file limit, or a full scratch folder, that the code did not handle."""
    PROCESS_LIMIT = "process_limit"
    """More threads than the process limit allows."""
    OUTPUT_LIMIT = "output_limit"
    """More printed than the output limit allows; `stdout` holds what fits."""
    KILLED = "killed"
    """A signal ended the process: a crash, `os.abort()`, or a kill from outside."""
    INFRASTRUCTURE = "infrastructure"
    """A fault of the sandbox, never of the code: the outcome says nothing about the block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one block may use. Every clock is read from outside the process that runs it.

    >>> Limits(time_limit_s=2.0).memory_limit_mb
    512
    """

    time_limit_s: float = 5.0
    """CPU time in seconds, so that a loaded machine gives no false timeout."""
    idle_limit_s: float = 5.0
    """Seconds that the block may spend neither computing nor waiting for a core (asleep, in a deadlock)."""
    wall_limit_s: float = 60.0
    """Seconds on the wall clock from the start of the block: a distant backstop."""
    memory_limit_mb: int = 512
    """Memory in MB that the block may allocate beyond what the preloaded modules hold."""
    output_limit_kb: int = 1024
    """Size in KB of what stdout and stderr may carry together; more ends the block."""
    file_limit_mb: int = 16
    """Size in MB of a file that the block may write."""
    process_limit: int = 64
    """Threads that the block may run at the same time (it can start no process)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a limit."""
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.type is int and not isinstance(value, int)
            if whole or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                kind = "a whole number" if field.type is int else "a finite number"
                raise OptionError(f"Expect `{field.name}` to be {kind} above 0, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """What the execution of one block gave."""

    status: Status
    """How it ended."""
    stdout: str
    """What it printed (stdout and stderr as they came), also before an error; '' if nothing."""
    error: str
    """The last line of the traceback, or one line on what ended the block; '' for `Status.OK`."""
    traceback: str = ""
    """The whole traceback without frames of the sandbox, clipped in its middle; '' where there is none."""
    cpu_seconds: float
    """CPU time that the block used, in seconds."""


def refuse_code(code: str) -> ExecutionResult | None:
    """Return the result of code that is too long to be run; None if it is not.

    >>> refuse_code("1 + 1") is None
    True
    """
    if len(code.encode("utf-8", "surrogatepass")) <= MAX_CODE_BYTES:
        return None
    error = f"SyntaxError: code of over {MAX_CODE_BYTES // 1024} KB"
    return ExecutionResult(status=Status.ERROR, stdout="", error=error, cpu_seconds=0.0)


@runtime_checkable
class Session(Protocol):
    """A namespace that outlives a block: what one block defines the next one sees."""

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        """Queue a block behind those already submitted to this session."""

    def run(self, code: str, limits: Limits | None = None) -> ExecutionResult:
        """Execute a block and wait for its result."""

    def close(self) -> None:
        """Forget the namespace and end its process. Calling it twice is fine."""


@runtime_checkable
class Sandbox(Protocol):
    """Runs untrusted Python blocks. Every method may be called from any thread.

    What the code does never raises: it becomes a `Status`, and a fault of the sandbox becomes
    `Status.INFRASTRUCTURE`. `SandboxUnavailable` says that no code can run at all (the sandbox cannot
    start, or is closed). For asyncio use `asyncio.wrap_future(sandbox.submit(code))`.
    """

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        """Queue a block that runs in a fresh namespace; first in, first out; waiting counts for no limit."""

    def run(self, code: str, limits: Limits | None = None) -> ExecutionResult:
        """Execute a block in a fresh namespace and wait for its result."""

    def open_session(self) -> Session:
        """Open a namespace for several blocks."""

    def close(self) -> None:
        """End every process of the sandbox; blocks in flight end as `Status.INFRASTRUCTURE`."""

    def __enter__(self) -> Self:
        """Return the sandbox itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sandbox."""
