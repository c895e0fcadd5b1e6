"""`LocalSandbox`, the sandbox on this machine."""

import contextlib
import os
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Literal, Self

from cir_env.errors import OptionError, check_choice
from cir_env.sandbox import wire
from cir_env.sandbox.contract import ExecutionResult, Limits, encode_files, reject_code
from cir_env.sandbox.host.launch import PRELOAD, Settings
from cir_env.sandbox.host.monitor import SessionState, Task
from cir_env.sandbox.host.supervisor import Supervisor


def usable_cores() -> int:
    """Return how many cores this process may use, by its affinity and the quota of its control group.

    >>> usable_cores() >= 1
    True
    """
    cores = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


class LocalSandbox:
    r"""Runs blocks on this machine, each in its own process, forked from a warm one.

    The constructor starts no process; the first block does, which takes about a second. See the `Sandbox` protocol.

    Example:
        >>> with LocalSandbox(preload=("math",)) as sandbox:
        ...     result = sandbox.run("import math; math.comb(5, 2)")
        >>> result.status.value, result.stdout
        ('ok', '10\n')
    """

    def __init__(
        self,
        *,
        slots: int | None = None,
        spares: int | None = None,
        limits: Limits | None = None,
        preload: tuple[str, ...] = PRELOAD,
        packages: tuple[str, ...] = (),
        isolation: Literal["auto", "without-namespaces", "unsafe"] = "auto",
    ) -> None:
        """Configure the sandbox.

        Args:
            slots: Number of blocks that run concurrently; by default the number of usable cores.
            spares: Number of children forked in advance; by default the number of slots.
            limits: Default limits of `submit` and `run`.
            preload: Modules to import once, if they are installed. Blocks can import these packages and the standard
                library.
            packages: Installed packages, by import name, that are imported once as well. Blocks can import them and
                their dependencies, and no others.
            isolation: "auto" for all layers that the machine allows, with an error if they do not suffice;
                "without-namespaces" for what remains in a container that forbids namespaces; "unsafe" for resource
                limits only: blocks can access this user's files and the network.

        Raises:
            OptionError: A number is out of range, `isolation` is unknown, or a package is not installed.
        """
        slots = usable_cores() if slots is None else slots
        spares = slots if spares is None else spares
        if slots < 1 or spares < 0:
            raise OptionError(f"Expect `slots` >= 1 and `spares` >= 0, got {slots} and {spares}.")
        check_choice("isolation", isolation, ("auto", "without-namespaces", "unsafe"))
        self._limits = limits or Limits()
        self._supervisor = Supervisor(
            slots=slots,
            spares=spares,
            settings=Settings(
                preload=(*preload, *packages),
                visible=_paths_to_import(packages) if packages else (),
                isolation=isolation,
            ),
        )
        self._finalizer = weakref.finalize(self, self._supervisor.stop)
        _alive.add(self._supervisor)

    @property
    def layers(self) -> dict[str, str]:
        """Each layer with "on" or the reason why it is missing; empty before the first block."""
        return dict(self._supervisor.layers)

    @property
    def failure(self) -> str | None:
        """Why no block can run at present; None if blocks can run, or none has been tried."""
        return self._supervisor.failure or self._supervisor.trouble

    @property
    def failure_is_final(self) -> bool:
        """Whether no block can ever run, since the layers do not suffice."""
        return self._supervisor.failure is not None

    def start(self) -> None:
        """Start the processes now, in the background, so that the first block finds them warm."""
        self._supervisor.start()

    def __deepcopy__(self, memo: object) -> "LocalSandbox":
        """Return the sandbox itself: Gymnasium deep-copies the arguments of `make`, which must share the processes."""
        return self

    def submit(
        self, code: str, limits: Limits | None = None, *, files: Mapping[str, str] | None = None
    ) -> "Future[ExecutionResult]":
        """Queue a block that runs in a fresh namespace. See `Sandbox.submit`.

        Raises:
            OptionError: The files are not valid.
            SandboxUnavailable: The sandbox is closed or cannot start.
        """
        return self._submit(code, limits, wire.pack_files(encode_files(files)), None)

    def run(
        self, code: str, limits: Limits | None = None, *, files: Mapping[str, str] | None = None
    ) -> ExecutionResult:
        """Execute a block in a fresh namespace and wait for its result. See `Sandbox.run`.

        Raises:
            OptionError: The files are not valid.
            SandboxUnavailable: The sandbox is closed or cannot start.
        """
        self._check_caller()
        return self.submit(code, limits, files=files).result()

    def open_session(self, *, files: Mapping[str, str] | None = None) -> "LocalSession":
        """Open a namespace for several blocks; its process starts with the first of them.

        Raises:
            OptionError: The files are not valid.
        """
        return LocalSession(self, wire.pack_files(encode_files(files)))

    def close(self) -> None:
        """End all processes of the sandbox. Closing twice is fine."""
        self._finalizer()

    def __enter__(self) -> Self:
        """Return the sandbox itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the sandbox."""
        self.close()

    def _check_caller(self) -> None:
        if self._supervisor.is_own_thread:
            raise RuntimeError("Expect `submit` in the callback of a future, got `run`, which would wait for itself.")

    def _submit(
        self, code: str, limits: Limits | None, files: bytes, session: SessionState | None
    ) -> "Future[ExecutionResult]":
        future: Future[ExecutionResult] = Future()
        if (rejection := reject_code(code)) is not None:
            future.set_result(rejection)
        else:
            data = code.encode("utf-8", "surrogatepass")
            limits = limits or self._limits
            self._supervisor.submit(Task(code=data, limits=limits, future=future, files=files, session=session))
        return future


def _paths_to_import(packages: tuple[str, ...]) -> tuple[str, ...]:
    from cir_env.sandbox.packages import check_package, paths_to_import

    for package in packages:
        check_package(package)
    return paths_to_import(packages)


class LocalSession:
    """A session of a `LocalSandbox`. See the `Session` protocol.

    A block that ends its process (a timeout, a crash, too much output) also ends the namespace: the next block starts
    with an empty one. If an infrastructure error ends it, all later blocks of the session end with
    `Status.INFRASTRUCTURE`.
    """

    def __init__(self, sandbox: LocalSandbox, files: bytes = b"") -> None:
        self._sandbox = sandbox
        self._state = SessionState(files=files)
        self._finalizer = weakref.finalize(self, sandbox._supervisor.end_session, self._state)

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        """Queue a block; the blocks of a session run in order."""
        return self._sandbox._submit(code, limits, self._state.files, self._state)

    def run(self, code: str, limits: Limits | None = None) -> ExecutionResult:
        """Execute a block and wait for its result."""
        self._sandbox._check_caller()
        return self.submit(code, limits).result()

    def close(self) -> None:
        """Discard the namespace and end its process. Closing twice is fine."""
        self._finalizer()


_alive: "weakref.WeakSet[Supervisor]" = weakref.WeakSet()


def _after_fork() -> None:
    for supervisor in list(_alive):
        with contextlib.suppress(OSError):
            supervisor.forked()


os.register_at_fork(after_in_child=_after_fork)
