"""Keeps the zygotes of one sandbox alive: starts them, waits for their answers, replaces those that end."""

import time
from abc import abstractmethod
from functools import partial

from cir_env.sandbox import wire
from cir_env.sandbox.control_group import ControlGroup
from cir_env.sandbox.host.launch import Settings, ZygoteHandle
from cir_env.sandbox.host.loop import Loop

MAX_STARTS = 3
"""Zygotes in a row that may end before they are ready."""
ZYGOTE_PATIENCE_S = 60.0
"""Seconds after which a zygote that owes an answer is replaced."""
SLOTS_PER_ZYGOTE = 4
"""A fork takes a zygote 1 to 2 ms, one at a time: more cores than this would wait for each other."""


class Nursery(Loop):
    """The first zygote alone until it has proven that its layers hold, then one for every few slots."""

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
    def owed_children(self, zygote: ZygoteHandle) -> int:
        """Return how many children were ordered from a zygote and have not come yet."""

    @abstractmethod
    def welcome(self, zygote: ZygoteHandle) -> None:
        """Look at a zygote that says it is ready."""

    @abstractmethod
    def hear_report(self, report: wire.Report, fds: list[int]) -> None:
        """Take what a zygote reports about a child."""

    @abstractmethod
    def bury(self, zygote: ZygoteHandle) -> None:
        """Deal with the children of a zygote that has ended."""

    def prepare(self) -> None:
        """See to it that there are zygotes."""
        now = time.monotonic()
        for zygote in list(self.zygotes):
            if self._owes(zygote) and now > zygote.patience_ends:
                self._lose(zygote)
        while self.failure is None and len(self.zygotes) < (self.wanted if self.trusted else 1):
            self._start()

    def deadline(self) -> float | None:
        """Return when the patience with a zygote ends."""
        return min((zygote.patience_ends for zygote in self.zygotes if self._owes(zygote)), default=None)

    def forked(self) -> None:
        """Drop the descriptors in a forked trainer, so that the zygotes hear when the original dies."""
        super().forked()
        for zygote in self.zygotes:
            zygote.abandon()

    def shut(self) -> None:
        """End the zygotes, and what held them."""
        for zygote in self.zygotes:
            zygote.hang_up()
        for zygote in self.zygotes:
            zygote.close()
        if self.group is not None:
            self.group.remove()

    def readiest(self) -> ZygoteHandle | None:
        """Return the ready zygote that owes the fewest children; None if there is none."""
        return min((zygote for zygote in self.zygotes if zygote.ready), key=self.owed_children, default=None)

    def be_patient(self, zygote: ZygoteHandle) -> None:
        """Give a zygote its time anew."""
        zygote.patience_ends = time.monotonic() + ZYGOTE_PATIENCE_S

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
            zygote = ZygoteHandle(self.settings, self.group.places if self.group else [])
        except OSError as error:
            self.fail(f"the interpreter could not be started: {error}")
            return
        self.zygotes.append(zygote)
        self.be_patient(zygote)
        self.watch(zygote.control, partial(self._on_control, zygote))
        self.watch(zygote.errors, partial(self._on_errors, zygote))

    def _owes(self, zygote: ZygoteHandle) -> bool:
        return not zygote.ready or self.owed_children(zygote) > 0

    def _on_errors(self, zygote: ZygoteHandle) -> None:
        if zygote in self.zygotes and not zygote.read_errors():
            self.unwatch(zygote.errors)

    def _on_control(self, zygote: ZygoteHandle) -> None:
        while zygote in self.zygotes and (message := zygote.receive()) is not None:
            data, fds = message
            if not data:
                self._lose(zygote)
            elif not zygote.ready:
                zygote.hear(data)
                self._failed_starts = 0
                self.welcome(zygote)
            else:
                self.be_patient(zygote)
                self.hear_report(wire.Report.unpack(data), fds)

    def _lose(self, zygote: ZygoteHandle) -> None:
        self.zygotes.remove(zygote)
        self.unwatch(zygote.control)
        self.unwatch(zygote.errors)
        complaint = zygote.complaint()
        zygote.close()
        self.bury(zygote)
        if not zygote.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_STARTS:
                self.fail(f"its process ended {MAX_STARTS} times before it was ready: {complaint}")
