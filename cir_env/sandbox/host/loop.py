"""`Loop`, an event loop in a background thread: it waits on descriptors and runs actions from other threads."""

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from cir_env.errors import SandboxUnavailable

log = logging.getLogger("cir_env.sandbox")


class Loop(ABC):
    """Starts with the first `call` and ends with `stop`. Only its own thread accesses the state of subclasses."""

    def __init__(self) -> None:
        self.failure: str | None = None
        """Why no work will ever be done again."""
        self.closed = False
        self._lock = threading.RLock()  # Reentrant: a session may be garbage-collected, and call, within `call`.
        self._thread: threading.Thread | None = None
        self._inbox: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._pid = os.getpid()
        self._wake = -1

    @abstractmethod
    def on_open(self) -> None:
        """Prepare this process, before the thread starts."""

    @abstractmethod
    def prepare(self) -> None:
        """Prepare for waiting."""

    @abstractmethod
    def deadline(self) -> float | None:
        """Return the monotonic time at which to stop waiting; None for never."""

    @abstractmethod
    def act(self) -> None:
        """React to what has happened."""

    @abstractmethod
    def recover(self, error: BaseException) -> None:
        """Restore a valid state after an unexpected error, so that later work is done."""

    @abstractmethod
    def shut_down(self) -> None:
        """Release everything."""

    def call(self, action: Callable[[], None]) -> None:
        """Schedule an action. Thread-safe.

        Raises:
            SandboxUnavailable: The loop has failed or was stopped.
        """
        with self._lock:
            if self.failure is not None:
                raise SandboxUnavailable(f"The sandbox cannot run code: {self.failure}")
            if self.closed:
                raise SandboxUnavailable("Expect an open sandbox, got one that is closed. Make a new one.")
            if self._thread is None:
                try:
                    self._open()
                except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started.
                    raise SandboxUnavailable(f"The sandbox cannot run code: {error}") from error
            self._inbox.append(action)
            os.eventfd_write(self._wake, 1)

    @property
    def has_begun(self) -> bool:
        """Whether anything was ever scheduled."""
        return self._thread is not None

    @property
    def is_own_thread(self) -> bool:
        """Whether the caller runs in the thread of the loop, which must not wait for it."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """Stop the loop; safe to call twice and from an exit handler."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self.closed = True
            thread, self._thread = self._thread, None
            if self._wake >= 0:
                self._inbox.append(self._request_stop)
                os.eventfd_write(self._wake, 1)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def forked(self) -> None:
        """Reject all work, in a forked copy of the process."""
        self.failure = "it belongs to the process that this one was forked from; make a new one here"
        self._lock = threading.RLock()

    def run_inbox(self) -> None:
        """Run the scheduled actions."""
        for _ in range(len(self._inbox)):  # An action may add others: they have to wait for their turn.
            self._inbox.popleft()()

    def watch(self, what: int | socket.socket, react: Callable[[], None]) -> None:
        """Call `react` whenever a descriptor is readable."""
        self._selector.register(what, selectors.EVENT_READ, react)

    def unwatch(self, what: int | socket.socket) -> None:
        """Stop watching a descriptor; it need not be watched."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(what)

    def _open(self) -> None:
        self.on_open()
        self._selector = selectors.DefaultSelector()
        thread = threading.Thread(target=self._run, name="cir-env-sandbox", daemon=True)
        with contextlib.ExitStack() as undo:
            undo.callback(self._selector.close)
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            undo.callback(self._close_wake)
            self.watch(self._wake, self._on_wake)
            thread.start()
            undo.pop_all()
        self._thread = thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    self._turn()
                except BaseException as error:
                    with contextlib.suppress(BaseException):
                        self.recover(error)
        finally:
            self.shut_down()
            with self._lock:
                self.closed = True
                self._selector.close()
                self._close_wake()

    def _turn(self) -> None:
        self.prepare()
        end = self.deadline()
        pause = None if end is None else max(0.0, end - time.monotonic())
        for key, _ in self._selector.select(pause):
            key.data()
        self.run_inbox()
        self.act()

    def _close_wake(self) -> None:
        os.close(self._wake)
        self._wake = -1

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _request_stop(self) -> None:
        self._stopping = True
