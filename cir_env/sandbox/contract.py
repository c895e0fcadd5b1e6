"""The API of a sandbox: statuses, limits, results and the two protocols."""

import enum
import re
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from cir_env.errors import OptionError

MAX_CODE_BYTES = 256 * 1024
"""Longer code gives `Status.ERROR` without being run."""
MAX_FILES = 32
"""Number of files that a block can be given."""
MAX_FILES_BYTES = 4 * 1024 * 1024
"""Size of these files together, in UTF-8."""
_FILE_NAME = re.compile(r"\w[\w.+ -]{0,99}")


class Status(enum.StrEnum):
    """How the execution of a block ended.

    Every status except `INFRASTRUCTURE` is caused by the code and can be fed back to the policy.
    """

    OK = "ok"
    """The code ran to its end, or called `exit()` without an error."""
    ERROR = "error"
    """An exception, a syntax error or an exit code other than 0."""
    TIMEOUT = "timeout"
    """The CPU, idle or wall-clock limit."""
    MEMORY = "memory"
    """An unhandled allocation beyond the memory limit."""
    FILE_LIMIT = "file_limit"
    """An unhandled write beyond the file limit or to a full scratch folder."""
    PROCESS_LIMIT = "process_limit"
    """More threads than the process limit."""
    OUTPUT_LIMIT = "output_limit"
    """More output than the output limit; `stdout` contains what fits."""
    KILLED = "killed"
    """A signal ended the process: a crash, `os.abort()`, or a kill from outside."""
    INFRASTRUCTURE = "infrastructure"
    """The sandbox failed; the result says nothing about the block."""


MAX_LIMITS = {
    "time_limit_s": 86_400,
    "idle_limit_s": 86_400,
    "wall_limit_s": 1_209_600,
    "memory_limit_mb": 1_048_576,
    "output_limit_kb": 1_048_576,
    "file_limit_mb": 1_048_576,
    "process_limit": 4_096,
}
"""The largest value of each limit: a day (wall clock: two weeks), a terabyte (of output, a gigabyte), 4,096 threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits of one block. All clocks are read from outside the process that runs it.

    >>> Limits(time_limit_s=2.0).memory_limit_mb
    512
    """

    time_limit_s: float = 5.0
    """CPU time in seconds; CPU time, so that a loaded machine does not cause timeouts."""
    idle_limit_s: float = 5.0
    """Time in seconds spent neither computing nor waiting for a core (asleep, in a deadlock)."""
    wall_limit_s: float = 60.0
    """Wall-clock time in seconds since the start of the block, as a backstop."""
    memory_limit_mb: int = 512
    """Memory in MB that the block may allocate, in addition to that of the preloaded modules."""
    output_limit_kb: int = 1024
    """Size of stdout and stderr together, in KB; more ends the block, and what exceeds the limit is cut off."""
    file_limit_mb: int = 16
    """Size of a file that the block writes, in MB. A file may be twice as large as the output limit in any case."""
    process_limit: int = 64
    """Number of concurrent threads (a block cannot start processes)."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            OptionError: A limit is not a positive number, too large (`MAX_LIMITS`), or not an integer where it must be.
        """
        for field in fields(self):
            value, most = getattr(self, field.name), MAX_LIMITS[field.name]
            kinds = int if field.type is int else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= most:
                kind = "a whole number" if field.type is int else "a number"
                raise OptionError(f"Expect `{field.name}` to be {kind} above 0 and at most {most:,}, got {value!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """The result of executing one block."""

    status: Status
    """How it ended."""
    stdout: str
    """All that it printed until it ended or was stopped, stdout and stderr in the order in which they were written."""
    error: str
    """The last line of the traceback, or one line about what ended the block; '' for `Status.OK`."""
    traceback: str = ""
    """The traceback without frames of the sandbox, shortened in the middle; '' without one."""
    cpu_seconds: float
    """CPU time that the block used, in seconds."""


def reject_code(code: str) -> ExecutionResult | None:
    """Return the result of code that is too long to run; None for other code.

    >>> reject_code("1 + 1") is None
    True
    """
    if len(code.encode("utf-8", "surrogatepass")) <= MAX_CODE_BYTES:
        return None
    error = f"SyntaxError: code of over {MAX_CODE_BYTES // 1024} KB"
    return ExecutionResult(status=Status.ERROR, stdout="", error=error, cpu_seconds=0.0)


def encode_files(files: Mapping[str, str] | None) -> dict[str, bytes]:
    """Return the content of files for a block, in UTF-8, by name; {} for None.

    Raises:
        OptionError: A name is not a plain file name, a text is not Unicode, or there are too many files or bytes.

    >>> encode_files({"data.csv": "x,y"}), encode_files(None)
    ({'data.csv': b'x,y'}, {})
    >>> encode_files({"../data.csv": "x,y"})
    Traceback (most recent call last):
    cir_env.errors.OptionError: Expect the names in `files` to be plain file names like 'data.csv', got '../data.csv'.
    """
    if files is None:
        return {}
    if not isinstance(files, Mapping):
        raise OptionError(f"Expect `files` to map names to texts, got {type(files).__name__}.")
    if len(files) > MAX_FILES:
        raise OptionError(f"Expect at most {MAX_FILES} `files`, got {len(files)}.")
    encoded = {}
    for name, text in files.items():
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name) or len(name.encode()) > 255:
            raise OptionError(f"Expect the names in `files` to be plain file names like 'data.csv', got {name!r}.")
        if not isinstance(text, str):
            raise OptionError(f"Expect the content of {name!r} in `files` to be text, got {type(text).__name__}.")
        try:
            encoded[name] = text.encode()
        except UnicodeEncodeError:
            raise OptionError(
                f"Expect the content of {name!r} in `files` to be Unicode, got a lone surrogate."
            ) from None
    if (size := sum(map(len, encoded.values()))) > MAX_FILES_BYTES:
        raise OptionError(f"Expect at most {MAX_FILES_BYTES:,} bytes in `files`, got {size:,}.")
    return encoded


@runtime_checkable
class Session(Protocol):
    """A namespace for several blocks: each block sees what earlier ones defined."""

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        """Queue a block; the blocks of a session run in order."""

    def run(self, code: str, limits: Limits | None = None) -> ExecutionResult:
        """Execute a block and wait for its result."""

    def close(self) -> None:
        """Discard the namespace and end its process. Closing twice is fine."""


@runtime_checkable
class Sandbox(Protocol):
    """Runs untrusted Python blocks. Thread-safe.

    Whatever the code does becomes a `Status` and never raises; an infrastructure error becomes
    `Status.INFRASTRUCTURE`. `SandboxUnavailable` means that no code can run at all (the sandbox cannot start, or is
    closed). For asyncio, use `asyncio.wrap_future(sandbox.submit(code))`.
    """

    def submit(
        self, code: str, limits: Limits | None = None, *, files: Mapping[str, str] | None = None
    ) -> "Future[ExecutionResult]":
        """Queue a block that runs in a fresh namespace; first in, first out. Waiting counts towards no limit.

        Args:
            code: The block.
            limits: Its limits; None: those of the sandbox.
            files: Texts by file name (see `encode_files`) that the block finds in its working directory, read-only.
                Where blocks have none, the result is `Status.INFRASTRUCTURE`.

        Raises:
            OptionError: The files are not valid.
        """

    def run(
        self, code: str, limits: Limits | None = None, *, files: Mapping[str, str] | None = None
    ) -> ExecutionResult:
        """Execute a block in a fresh namespace and wait for its result; arguments as for `submit`."""

    def open_session(self, *, files: Mapping[str, str] | None = None) -> Session:
        """Open a namespace for several blocks, with files as for `submit`."""

    def close(self) -> None:
        """End all processes of the sandbox; blocks in flight end with `Status.INFRASTRUCTURE`."""

    def __enter__(self) -> Self:
        """Return the sandbox itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sandbox."""
