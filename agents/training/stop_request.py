"""Requests to stop a run, by Ctrl-C, SIGTERM or a call."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from agents.core import distributed

_ONE_REQUEST_S = 1.0  # a launcher forwards signals that its processes have also received directly


class StopRequest:
    """Records whether a run was asked to stop.

    Args:
        log: Receives a line for the user.

    Attributes:
        asked: Whether this process was asked to stop.
        signal: The first signal that asked; None if there was none.
        may_abandon: Whether the step in progress may be abandoned: it has changed no weight yet.
    """

    def __init__(self, log: Callable[[str], Any]) -> None:
        self.asked = False
        self.may_abandon = True
        self.signal: signal.Signals | None = None
        self._asked_at = 0.0
        self._log = log

    def ask(self) -> None:
        """Ask the run to stop."""
        self.asked = True

    def anywhere(self) -> bool:
        """Return whether any process was asked, and ask this one, too; all processes must call it."""
        self.asked = distributed.any_of(self.asked)
        return self.asked

    def together(self) -> bool:
        """Return whether to abandon the step now, the same in all processes; all processes must call it."""
        return self.anywhere() and self.may_abandon

    def alone(self) -> bool:
        """Return whether this process is to abandon the step, where each works by itself."""
        return self.asked and self.may_abandon

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Handle Ctrl-C and SIGTERM as requests to stop; a second signal raises KeyboardInterrupt."""
        try:
            before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, whose owner handles signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if time.monotonic() - self._asked_at >= _ONE_REQUEST_S:
                raise KeyboardInterrupt
            return
        self._asked_at = time.monotonic()
        self.asked, self.signal = True, signal.Signals(number)
        self._log("Stopping after saving the last completed step. Repeat to stop at once, without a checkpoint.")
