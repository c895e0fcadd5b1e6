"""The supervisor: one thread of the trainer that hands blocks to children and judges them.

It owns every descriptor and every decision. Other threads only append to its inbox. Nothing that a child
sends is more to it than bytes.
"""

import contextlib
import itertools
import os
import selectors
import signal
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from functools import partial

from cir_env.errors import SandboxUnavailable
from cir_env.sandbox import wire
from cir_env.sandbox.contract import ExecutionResult, Limits, Status
from cir_env.sandbox.host import self_test
from cir_env.sandbox.host.launch import Settings, ZygoteHandle
from cir_env.sandbox.host.loop import log
from cir_env.sandbox.host.monitor import Lane, Task, Worker
from cir_env.sandbox.host.zygotes import Nursery

MAX_ATTEMPTS = 2
MAX_CANARIES = 3
SPARE_DELAY_S = 0.003
"""Seconds for which a block that has just begun is not disturbed by the forking of spares."""
MAX_SPAWNING = 32
MAX_ASLEEP_PER_SLOT = 8
"""Blocks that may be under way for each slot, if all but one of them sleep."""
MAX_STILLBORN = 10
"""Children in a row that may end before they can take code."""


class Supervisor(Nursery):
    """Queue, slots, children and clocks of one sandbox."""

    def __init__(self, *, slots: int, spares: int, settings: Settings) -> None:
        super().__init__(slots=slots, settings=settings)
        self.slots, self.spares = slots, spares
        self.layers: dict[str, str] = {}
        self._open_tasks: set[Task] = set()
        self._queue: deque[Task] = deque()
        self._running: set[Worker] = set()
        self._spare: deque[Worker] = deque()
        self._spawning: dict[int, Worker] = {}
        self._workers: dict[int, Worker] = {}
        self._numbers = itertools.count()
        self._stillborn = 0
        self._gate: Task | None = None
        self._canaries = 0
        self._spares_at = 0.0

    def submit(self, task: Task) -> None:
        """Queue a block."""
        self.call(partial(self._enqueue, task))

    def start(self) -> None:
        """Start the zygote ahead of the first block."""
        self.call(lambda: None)

    def end_lane(self, lane: Lane) -> None:
        """Close a session."""
        with contextlib.suppress(SandboxUnavailable):
            self.call(partial(self._close_lane, lane))

    def forked(self) -> None:
        """Drop the descriptors in a forked trainer, and leave the children alone."""
        super().forked()
        for worker in self._workers.values():
            worker.abandon()

    def deadline(self) -> float | None:
        """Return when a clock has to be looked at."""
        looks = [worker.judge_at for worker in self._running]
        if self._running and len(self._spare) + len(self._spawning) < self.spares:
            looks.append(self._spares_at)
        if (patience := super().deadline()) is not None:
            looks.append(patience)
        return min(looks, default=None)

    def act(self) -> None:
        """Judge what runs, and begin what waits."""
        now = time.monotonic()
        for worker in list(self._running):
            if (verdict := worker.judge(now, self.slots)) is not None:
                self._conclude(worker, *verdict, dead=True)
        if self.failure is None:
            self._dispatch()
            self._breed()

    def fail(self, why: str) -> None:
        """Tell all who wait, and refuse those who come."""
        with self._lock:
            self.failure = why
        self.do_inbox()
        for task in list(self._open_tasks):
            with contextlib.suppress(InvalidStateError):
                task.future.set_exception(SandboxUnavailable(f"The sandbox cannot run code: {why}"))

    def shut(self) -> None:
        """Answer what is open, and end every process."""
        for task in list(self._open_tasks):
            task.finish(Status.INFRASTRUCTURE, "the sandbox was closed")
        for worker in list(self._workers.values()):
            self._drop(worker)
        super().shut()

    def owed_children(self, zygote: ZygoteHandle) -> int:
        """Return how many children were ordered from a zygote and have not come yet."""
        return sum(worker.zygote is zygote for worker in self._spawning.values())

    def welcome(self, zygote: ZygoteHandle) -> None:
        """Look at the layers that are on; refuse to run code where they do not suffice."""
        if self.trusted:
            return
        self.layers = {**zygote.layers, "group": self.group_report}
        if self.settings.isolation == "unsafe":
            self.trusted = True
            return
        missing = "; ".join(f"{name} {why}" for name, why in zygote.layers.items() if why != "on")
        if not zygote.contained:
            self.fail(
                f"expect seccomp with namespaces or Landlock, got {missing}. To run code with resource limits "
                "alone, ask for it by name: sandbox='unsafe', or LocalSandbox(isolation='unsafe')"
            )
            return
        if missing and self.settings.isolation == "auto":
            log.warning("The sandbox runs with fewer layers than it knows: %s", missing)
        self._send_canary()

    def _send_canary(self) -> None:
        self._gate = Task(code=self_test.CODE.encode(), limits=Limits(), future=Future())
        self._gate.future.add_done_callback(self._judge_canary)
        self._queue.appendleft(self._gate)
        self._canaries += 1

    def _judge_canary(self, future: "Future[ExecutionResult]") -> None:
        """Open the gate to other blocks if the layers hold in fact."""
        result = future.result()
        self._gate = None
        silent = result.status in (Status.KILLED, Status.TIMEOUT, Status.INFRASTRUCTURE)
        if silent and self._canaries < MAX_CANARIES:
            self._send_canary()
            return
        self.trusted = (result.status, result.stdout) == (Status.OK, self_test.HELD)
        if not self.trusted:
            self.fail(f"its layers do not hold what they should: {result.stdout.strip()} {result.error}".rstrip())

    def hear_report(self, report: wire.Report, fds: list[int]) -> None:
        """Take what a zygote reports about a child."""
        worker = self._workers.get(report.worker)
        if report.kind == b"S":
            self._on_born(worker, fds)
        elif worker is not None and report.kind == b"X":
            worker.set_final_cpu(report.cpu_s)
            self._on_exit(worker, report.code)
        elif worker is not None:
            log.warning("The sandbox could not fork a child: %s", os.strerror(report.code))
            self._drop(worker)
            self._give_up_one(f"no child could be forked: {os.strerror(report.code)}")

    def _on_born(self, worker: Worker | None, fds: list[int]) -> None:
        if worker is None:
            for fd in fds:
                os.close(fd)
            return
        worker.born(fds[0])
        self.watch(worker.sock, partial(self._on_sock, worker))
        self.watch(worker.out, partial(self._on_out, worker))

    def _greet(self, worker: Worker) -> None:
        complaint = worker.read_greeting()
        if complaint == "":
            self._stillborn = 0
            self._spawning.pop(worker.number, None)
            self._spare.append(worker)
        elif complaint is not None:
            self._drop(worker)
            self._stillborn += 1
            if self._stillborn >= MAX_STILLBORN:
                self.fail(f"its processes end before they can take code: {complaint}")

    def bury(self, zygote: ZygoteHandle) -> None:
        """Give the work of a zygote that has ended one more chance."""
        orphans = [worker for worker in self._workers.values() if worker.zygote is zygote]
        for worker in sorted(orphans, key=lambda w: w.number, reverse=True):
            self._rescue(worker)

    def _rescue(self, worker: Worker) -> None:
        """Drop a child that ended through no fault of its block, and run the block again."""
        task, worker.task = worker.task, None
        if worker.lane is not None:
            worker.lane.lost = worker.lane.blocks > (task is not None)
            worker.lane.blocks = 0
        self._drop(worker)
        if task is not None:
            self._retry(task)

    def _retry(self, task: Task) -> None:
        if task.attempts < MAX_ATTEMPTS and not (task.lane and task.lane.lost):
            self._queue.appendleft(task)
        else:
            task.finish(Status.INFRASTRUCTURE, "the sandbox's process ended while the code ran")
            self._free_lane(task)

    def _give_up_one(self, why: str) -> None:
        """Answer one block for which no child could be made, so that the queue never stands still."""
        if self._queue and not self._running and not self._spawning and not self._spare:
            task = self._queue.popleft()
            task.finish(Status.INFRASTRUCTURE, f"the sandbox failed: {why}")
            self._free_lane(task)

    def _enqueue(self, task: Task) -> None:
        if self.failure is not None:
            task.future.set_exception(SandboxUnavailable(f"The sandbox cannot run code: {self.failure}"))
            return
        self._open_tasks.add(task)
        task.future.add_done_callback(lambda _: self._open_tasks.discard(task))
        lane = task.lane
        if lane is None:
            self._queue.append(task)
        elif lane.lost or lane.closed:
            why = "the session was closed" if lane.closed else "the sandbox lost the session's process"
            task.finish(Status.INFRASTRUCTURE, why)
        elif lane.active:
            lane.waiting.append(task)
        else:
            lane.active = True
            self._queue.append(task)

    def _dispatch(self) -> None:
        """Give blocks to children while slots are free."""
        while self._queue and self._free_slots() > 0:
            task = self._queue[0]
            if self._gate is not None and task is not self._gate:
                break
            worker = task.lane.worker if task.lane else None
            if worker is None and not self._spare:
                break
            self._queue.popleft()
            if not task.attempts and not task.future.set_running_or_notify_cancel():
                self._free_lane(task)
                continue
            self._begin(task, worker or self._spare.popleft())

    def _free_slots(self) -> int:
        """Return how many blocks may begin: one that sleeps needs no core, and holds nobody up for long."""
        awake = sum(not worker.asleep for worker in self._running)
        return min(self.slots - awake, self.slots * MAX_ASLEEP_PER_SLOT - len(self._running))

    def _breed(self) -> None:
        """Order the children that blocks wait for, and spares while no block has just begun."""
        missing = min(len(self._queue), self._free_slots())
        ahead = 0 if self._running and time.monotonic() < self._spares_at else self.spares
        wanted = missing + ahead - len(self._spare) - len(self._spawning)
        for _ in range(min(wanted, MAX_SPAWNING - len(self._spawning))):
            if (zygote := self.readiest()) is not None:
                self._spawn(zygote)

    def _spawn(self, zygote: ZygoteHandle) -> None:
        try:
            worker = Worker(next(self._numbers), zygote)
        except OSError as error:
            self._give_up_one(f"no child could be made: {os.strerror(error.errno or 0)}")
            return
        self._workers[worker.number] = self._spawning[worker.number] = worker
        self.be_patient(zygote)
        with contextlib.suppress(OSError):  # A zygote that has gone is noticed by the end of its socket.
            idle = not self._running and not self._queue
            zygote.spawn(worker.number, worker.child_sock.fileno(), worker.child_out, rehearse=idle)

    def _begin(self, task: Task, worker: Worker) -> None:
        self._running.add(worker)
        self._spares_at = time.monotonic() + SPARE_DELAY_S
        if task.lane is not None:
            task.lane.worker = worker
            task.lane.blocks += 1
        worker.assign(task)
        self._watch_sending(worker, worker.send())

    def _watch_sending(self, worker: Worker, more: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if more else 0)
        with contextlib.suppress(KeyError):
            self._selector.modify(worker.sock, events, partial(self._on_sock, worker))

    def _on_sock(self, worker: Worker) -> None:
        if worker.gone:
            return
        if not worker.ready:
            self._greet(worker)
            return
        self._watch_sending(worker, worker.send())
        if (said := worker.read_status()) is not None:
            worker.read_output()
            self._conclude(worker, *said)
        elif worker.hung_up():
            self.unwatch(worker.sock)  # Its exit, which is still to come, decides.
        elif worker.task is None and worker in self._spare:
            self._drop(worker)

    def _on_out(self, worker: Worker) -> None:
        if not worker.gone and not worker.read_output():
            self.unwatch(worker.out)

    def _on_exit(self, worker: Worker, wait_status: int) -> None:
        if not worker.ready:
            self._greet(worker)
        if worker.gone:
            return
        killed = os.WIFSIGNALED(wait_status) and os.WTERMSIG(wait_status) == signal.SIGKILL
        if killed and self.group is not None and self.group.killed_since_last_asked():
            log.warning("The kernel ended a block since all blocks together held too much memory")
            self._rescue(worker)
            return
        said = worker.read_status()
        worker.read_output()
        self._conclude(worker, *(said or worker.post_mortem(wait_status)), dead=True)

    def _conclude(self, worker: Worker, status: Status, error: str, trace: str = "", *, dead: bool = False) -> None:
        """Deliver a result; keep the child only for the next block of its session."""
        if worker.over_output() and status in (Status.OK, Status.ERROR, Status.KILLED):
            verdict = worker.judge(time.monotonic(), self.slots)
            if verdict is not None:
                (status, error), trace = verdict, ""
            dead = True
        self._running.discard(worker)
        lane = worker.task.lane if worker.task else None
        keep = lane is not None and not dead and not lane.closed
        if keep:
            worker.pause()
        task = worker.finish(status, error, trace)
        if not keep:
            self._drop(worker)
        if task is not None:
            self._free_lane(task)

    def _drop(self, worker: Worker) -> None:
        for holder in (worker.sock, worker.out):
            self.unwatch(holder)
        worker.close()
        self._running.discard(worker)
        self._spawning.pop(worker.number, None)
        self._workers.pop(worker.number, None)
        if worker.lane is not None and worker.lane.worker is worker:
            worker.lane.worker = None
        with contextlib.suppress(ValueError):
            self._spare.remove(worker)

    def _free_lane(self, task: Task) -> None:
        lane = task.lane
        if lane is None:
            return
        lane.active = False
        if lane.waiting:
            self._enqueue(lane.waiting.popleft())

    def _close_lane(self, lane: Lane) -> None:
        lane.closed = True
        while lane.waiting:
            lane.waiting.popleft().finish(Status.INFRASTRUCTURE, "the session was closed")
        if lane.worker is not None and lane.worker.task is None:
            self._drop(lane.worker)
