"""`ZygotePool`: starts the zygotes of a sandbox, waits for their answers, and replaces those that end."""

import time
from abc import abstractmethod
from functools import partial

from cir_env.sandbox import wire
from cir_env.sandbox.control_group import ControlGroup
from cir_env.sandbox.host.launch import Settings, ZygoteHandle
from cir_env.sandbox.host.loop import Loop

MAX_STARTS = 3
"""How many zygotes in a row may end before they are ready."""
ZYGOTE_TIMEOUT_S = 60.0
"""Seconds after which a zygote that does not answer is replaced."""
SLOTS_PER_ZYGOTE = 4
"""A zygote forks one child at a time, in 1 to 2 ms: more slots than this would wait for each other."""


class ZygotePool(Loop):
    """Runs one zygote until its layers have passed the self-test, then one for every few slots."""

    def __init__(self, *, slots: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.wanted = -(-slots // SLOTS_PER_ZYGOTE)
        self.trusted = False
        self.zygotes: list[ZygoteHandle] = []
        self.group: ControlGroup | None = None
        self.group_report = ""
        self._failed_starts = 0

    @abstractmethod
    def pending_children(self, zygote: ZygoteHandle) -> int:
        """Return how many children were ordered from a zygote and are not ready yet."""

    @abstractmethod
    def on_zygote_ready(self, zygote: ZygoteHandle) -> None:
        """Check a zygote that has become ready."""

    @abstractmethod
    def on_report(self, report: wire.Report, fds: list[int]) -> None:
        """Process a report about a child."""

    @abstractmethod
    def on_zygote_exit(self, zygote: ZygoteHandle) -> None:
        """Handle the children of a zygote that has ended."""

    def prepare(self) -> None:
        """Replace zygotes that do not answer, and start missing ones."""
        now = time.monotonic()
        for zygote in list(self.zygotes):
            if self._must_answer(zygote) and now > zygote.answer_deadline:
                self._remove_zygote(zygote)
        while self.failure is None and len(self.zygotes) < (self.wanted if self.trusted else 1):
            self._start()

    def deadline(self) -> float | None:
        """Return when the next zygote has to answer."""
        return min((zygote.answer_deadline for zygote in self.zygotes if self._must_answer(zygote)), default=None)

    def forked(self) -> None:
        """Close the descriptors in a forked trainer, so that the zygotes notice when the original ends."""
        super().forked()
        for zygote in self.zygotes:
            zygote.abandon()

    def shut_down(self) -> None:
        """End the zygotes and remove the control group."""
        for zygote in self.zygotes:
            zygote.close_control()
        for zygote in self.zygotes:
            zygote.close()
        if self.group is not None:
            self.group.remove()

    def least_busy_zygote(self) -> ZygoteHandle | None:
        """Return the ready zygote with the fewest pending children; None if none is ready."""
        return min((zygote for zygote in self.zygotes if zygote.ready), key=self.pending_children, default=None)

    def extend_deadline(self, zygote: ZygoteHandle) -> None:
        """Restart the time in which a zygote has to answer."""
        zygote.answer_deadline = time.monotonic() + ZYGOTE_TIMEOUT_S

    def _open_group(self) -> None:
        try:
            if self.group is None:
                self.group = ControlGroup.delegated()
            self.group.ensure()
            self.group_report = "on"
        except OSError as error:
            self.group, self.group_report = None, f"missing: {error}"

    def _start(self) -> None:
        if self.group is not None or not self.group_report:
            self._open_group()
        try:
            zygote = ZygoteHandle(self.settings, self.group.folders if self.group else [])
        except OSError as error:
            self.fail(f"the interpreter could not be started: {error}")
            return
        self.zygotes.append(zygote)
        self.extend_deadline(zygote)
        self.watch(zygote.control, partial(self._on_control, zygote))
        self.watch(zygote.stderr, partial(self._on_stderr, zygote))

    def _must_answer(self, zygote: ZygoteHandle) -> bool:
        return not zygote.ready or self.pending_children(zygote) > 0

    def _on_stderr(self, zygote: ZygoteHandle) -> None:
        if zygote in self.zygotes and not zygote.read_stderr():
            self.unwatch(zygote.stderr)

    def _on_control(self, zygote: ZygoteHandle) -> None:
        while zygote in self.zygotes and (message := zygote.receive()) is not None:
            data, fds = message
            if not data:
                self._remove_zygote(zygote)
            elif not zygote.ready:
                zygote.read_ready(data)
                self._failed_starts = 0
                self.on_zygote_ready(zygote)
            else:
                self.extend_deadline(zygote)
                self.on_report(wire.Report.unpack(data), fds)

    def _remove_zygote(self, zygote: ZygoteHandle) -> None:
        self.zygotes.remove(zygote)
        self.unwatch(zygote.control)
        self.unwatch(zygote.stderr)
        error = zygote.last_error_line()
        zygote.close()
        self.on_zygote_exit(zygote)
        if not zygote.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_STARTS:
                self.fail(f"its process ended {MAX_STARTS} times before it was ready: {error}")
