"""`ZygotePool`: starts the zygotes of a sandbox, waits for their answers, and replaces those that end."""

import os
import resource
import time
from abc import abstractmethod
from functools import partial

from cir_env.sandbox import wire
from cir_env.sandbox.control_group import ControlGroup
from cir_env.sandbox.host.launch import Settings, ZygoteHandle
from cir_env.sandbox.host.loop import Loop, log

MAX_STARTS = 3
"""How many zygotes in a row may end before they are ready until waiting blocks fail."""
MAX_PAUSE_S = 10.0
"""Longest pause between two starts of which the first failed, in seconds."""
ZYGOTE_TIMEOUT_S = 60.0
"""Seconds after which a zygote that does not answer is replaced."""
LOOK_INTERVAL_S = 1.0
"""Seconds between two looks at whether somebody has stopped a zygote that is needed."""
DESCRIPTORS_TO_START = 12
"""How many descriptors this process needs to start a zygote, some of them for a moment."""
SLOTS_PER_ZYGOTE = 4
"""A zygote forks one child at a time, in 1 to 2 ms: more slots than this would wait for each other."""


def descriptor_limit() -> int:
    """Return how many descriptors this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_descriptors() -> int:
    """Return how many more descriptors this process may open."""
    try:
        return descriptor_limit() - len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


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
        self._start_at = self._look_at = 0.0

    @abstractmethod
    def pending_children(self, zygote: ZygoteHandle) -> int:
        """Return how many children were ordered from a zygote and are not ready yet."""

    @abstractmethod
    def owes_report(self, zygote: ZygoteHandle) -> bool:
        """Return whether a zygote has to report the end of a child."""

    @abstractmethod
    def has_work(self) -> bool:
        """Return whether blocks wait or run."""

    @abstractmethod
    def on_zygote_ready(self, zygote: ZygoteHandle) -> None:
        """Check a zygote that has become ready."""

    @abstractmethod
    def on_report(self, report: wire.Report, fds: list[int]) -> None:
        """Process a report about a child."""

    @abstractmethod
    def on_zygote_exit(self, zygote: ZygoteHandle) -> None:
        """Handle the children of a zygote that has ended."""

    @abstractmethod
    def fail_open_tasks(self, why: str) -> None:
        """Fail the open blocks, since no zygote can be started at present."""

    def prepare(self) -> None:
        """Continue stopped zygotes, replace those that do not answer, and start missing ones."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_INTERVAL_S
            for zygote in self.zygotes:
                if zygote.resume_if_stopped():
                    log.warning("Somebody had stopped a zygote of the sandbox; it continues")
        for zygote in list(self.zygotes):
            if now > zygote.answer_deadline and self._must_answer(zygote):
                self.remove_zygote(zygote)
        while self._is_short() and now >= self._start_at:
            self._start()

    def deadline(self) -> float | None:
        """Return when the next zygote has to answer, may be started, or has to be looked at."""
        times = [zygote.answer_deadline for zygote in self.zygotes if self._must_answer(zygote)]
        if self.zygotes and self.has_work():
            times.append(self._look_at)
        if self._is_short():
            times.append(self._start_at)
        return min(times, default=None)

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
        self.zygotes.clear()
        if self.group is not None:
            self.group.remove()

    def least_busy_zygote(self) -> ZygoteHandle | None:
        """Return the ready zygote with the fewest pending children; None if none is ready."""
        return min((zygote for zygote in self.zygotes if zygote.ready), key=self.pending_children, default=None)

    def extend_deadline(self, zygote: ZygoteHandle) -> None:
        """Restart the time in which a zygote has to answer."""
        zygote.answer_deadline = time.monotonic() + ZYGOTE_TIMEOUT_S

    def remove_zygote(self, zygote: ZygoteHandle) -> None:
        """End a zygote; its blocks are retried."""
        self.zygotes.remove(zygote)
        self.unwatch(zygote.control)
        self.unwatch(zygote.stderr)
        error = zygote.last_error_line()
        zygote.close()
        self.on_zygote_exit(zygote)
        if not zygote.ready:
            self._on_failed_start(error)

    def _is_short(self) -> bool:
        return self.failure is None and len(self.zygotes) < (self.wanted if self.trusted else 1)

    def _on_failed_start(self, why: str) -> None:
        self._failed_starts += 1
        self._start_at = time.monotonic() + min(MAX_PAUSE_S, 0.1 * 2 ** min(self._failed_starts, 10))
        if self._failed_starts >= MAX_STARTS and not any(zygote.ready for zygote in self.zygotes):
            self.fail_open_tasks(f"no process could be started in {self._failed_starts} attempts: {why}")

    def _open_group(self) -> None:
        try:
            if self.group is None:
                self.group = ControlGroup.delegated()
            self.group.ensure()
            self.group_report = "on"
        except OSError as error:
            self.group, self.group_report = None, f"missing: {error}"

    def _start(self) -> None:
        if free_descriptors() < DESCRIPTORS_TO_START:
            self._on_failed_start(f"all {descriptor_limit()} descriptors of this process are in use: raise `ulimit -n`")
            return
        if self.group is not None or not self.group_report:
            self._open_group()
        try:
            zygote = ZygoteHandle(self.settings, self.group.folders if self.group else [])
        except Exception as error:
            self._on_failed_start(f"the interpreter could not be started: {error}")
            return
        self.zygotes.append(zygote)
        self.extend_deadline(zygote)
        self.watch(zygote.control, partial(self._on_control, zygote))
        self.watch(zygote.stderr, partial(self._on_stderr, zygote))

    def _must_answer(self, zygote: ZygoteHandle) -> bool:
        return not zygote.ready or self.pending_children(zygote) > 0 or self.owes_report(zygote)

    def _on_stderr(self, zygote: ZygoteHandle) -> None:
        if zygote in self.zygotes and not zygote.read_stderr():
            self.unwatch(zygote.stderr)

    def _on_control(self, zygote: ZygoteHandle) -> None:
        while zygote in self.zygotes and (message := zygote.receive()) is not None:
            data, fds = message
            if not data:
                self.remove_zygote(zygote)
            elif not zygote.ready:
                self._on_ready_message(zygote, data, fds)
            else:
                self.extend_deadline(zygote)
                self.on_report(wire.Report.unpack(data), fds)

    def _on_ready_message(self, zygote: ZygoteHandle, data: bytes, fds: list[int]) -> None:
        try:
            zygote.read_ready(data, fds)
        except OSError as error:
            log.warning("A zygote of the sandbox is of no use: %s", error)
            self.remove_zygote(zygote)
            return
        self._failed_starts = 0
        self.on_zygote_ready(zygote)
