"""The supervisor: one thread of the trainer that hands blocks to children and judges them.

It owns every descriptor and every decision. Other threads only append to its inbox. Nothing that a child
sends is more to it than bytes.
"""

import contextlib
import itertools
import logging
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from functools import partial

from cir_env.errors import SandboxUnavailable
from cir_env.sandbox import wire
from cir_env.sandbox.launch import Settings, ZygoteHandle
from cir_env.sandbox.policy import Status
from cir_env.sandbox.worker import Lane, Task, Worker

log = logging.getLogger("cir_env.sandbox")

MAX_STARTS = 3
"""Zygotes in a row that may end before they are ready."""
MAX_ATTEMPTS = 2
MAX_SPAWNING = 32
MAX_STILLBORN = 10
"""Children in a row that may end before they can take code."""
ZYGOTE_PATIENCE_S = 60.0
"""Seconds after which a zygote that owes an answer is replaced."""


class Supervisor:
    """Queue, slots, children and clocks of one sandbox."""

    def __init__(self, *, slots: int, spares: int, full_traceback: bool, settings: Settings) -> None:
        self.slots, self.spares, self.full_traceback = slots, spares, full_traceback
        self.settings = settings
        self.failure: str | None = None
        self.closed = False
        self.layers: dict[str, str] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._inbox: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._open_tasks: set[Task] = set()
        self._queue: deque[Task] = deque()
        self._running: set[Worker] = set()
        self._spare: deque[Worker] = deque()
        self._spawning: dict[int, Worker] = {}
        self._workers: dict[int, Worker] = {}
        self._numbers = itertools.count()
        self._zygote: ZygoteHandle | None = None
        self._failed_starts = 0
        self._stillborn = 0
        self._patience_ends = 0.0
        self._pid = os.getpid()
        self._mask: Callable[[str], str] = str

    # -- called from any thread ---------------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Queue a block."""
        self._call(partial(self._enqueue, task))

    def start(self) -> None:
        """Start the zygote ahead of the first block."""
        self._call(lambda: None)

    def end_lane(self, lane: Lane) -> None:
        """Close a session."""
        with contextlib.suppress(SandboxUnavailable):
            self._call(partial(self._close_lane, lane))

    def stop(self) -> None:
        """End everything; safe to call twice and from an exit handler."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self.closed = True
            thread, self._thread = self._thread, None
            if thread is not None and self._wake >= 0:
                self._inbox.append(self._order_stop)
                os.eventfd_write(self._wake, 1)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def forked(self) -> None:
        """Drop the descriptors in a forked trainer, so that the zygote hears when the original dies."""
        self.failure = "it belongs to the process that this one was forked from; make a new one here"
        self._lock = threading.Lock()
        zygote, workers = self._zygote, list(self._workers.values())
        fds = [zygote.control.fileno(), zygote.errors] if zygote else []
        fds += [fd for worker in workers if not worker.gone for fd in (worker.sock.fileno(), worker.out)]
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        if zygote is not None:
            zygote.abandon()
        for worker in workers:
            worker.sock.detach()

    def _call(self, action: Callable[[], None]) -> None:
        with self._lock:
            if self.failure is not None:
                raise SandboxUnavailable(f"The sandbox can not run code: {self.failure}")
            if self.closed:
                raise SandboxUnavailable("Expect an open sandbox, got one that was closed; make a new one")
            if self._thread is None:
                self._open()
            self._inbox.append(action)
            os.eventfd_write(self._wake, 1)

    def _open(self) -> None:
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_wake)
        self._thread = threading.Thread(target=self._run, name="cir-env-sandbox", daemon=True)
        self._thread.start()

    # -- the loop -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._keep_zygote()
                for key, _ in self._selector.select(self._pause()):
                    key.data()
                while self._inbox:
                    self._inbox.popleft()()
                self._judge()
                self._dispatch()
        except Exception as error:
            log.exception("The sandbox's supervisor failed")
            self._fail(f"its supervisor failed with {type(error).__name__}: {error}")
        finally:
            self._shut()

    def _pause(self) -> float | None:
        looks = [worker.judge_at for worker in self._running]
        if self._owes():
            looks.append(self._patience_ends)
        return max(0.0, min(looks) - time.monotonic()) if looks else None

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _order_stop(self) -> None:
        self._stopping = True

    # -- the zygote ---------------------------------------------------------------------------------------

    def _keep_zygote(self) -> None:
        if self.failure is not None:
            return
        if self._zygote is not None and self._owes() and time.monotonic() > self._patience_ends:
            self._lose_zygote()
        if self._zygote is None:
            try:
                zygote = ZygoteHandle(self.settings)
            except OSError as error:
                self._fail(f"the interpreter could not be started: {error}")
                return
            self._zygote = zygote
            self._patience_ends = time.monotonic() + ZYGOTE_PATIENCE_S
            self._selector.register(zygote.control, selectors.EVENT_READ, partial(self._on_control, zygote))
            self._selector.register(zygote.errors, selectors.EVENT_READ, partial(self._on_errors, zygote))

    def _owes(self) -> bool:
        return self._zygote is not None and (not self._zygote.ready or bool(self._spawning))

    def _on_errors(self, zygote: ZygoteHandle) -> None:
        if zygote is self._zygote and not zygote.read_errors():
            self._selector.unregister(zygote.errors)

    def _on_control(self, zygote: ZygoteHandle) -> None:
        while zygote is self._zygote and (message := zygote.receive()) is not None:
            data, fds = message
            if not data:
                self._lose_zygote()
            elif not zygote.ready:
                zygote.hear(data)
                self._failed_starts = 0
                self._accept(zygote)
            else:
                self._on_report(wire.Report.unpack(data), fds)

    def _accept(self, zygote: ZygoteHandle) -> None:
        """Look at the layers that are on; refuse to run code where they do not suffice."""
        known, self.layers = bool(self.layers), zygote.layers
        if self.settings.isolation == "unsafe" or known:
            return
        missing = "; ".join(f"{name} {why}" for name, why in zygote.layers.items() if why != "on")
        if not zygote.contained:
            self._fail(
                f"expect seccomp with namespaces or Landlock, got {missing}. To run code with resource limits "
                "alone, ask for LocalSandbox(isolation='unsafe') by name"
            )
        elif missing and self.settings.isolation == "auto":
            log.warning("The sandbox runs with fewer layers than it knows: %s", missing)

    def _on_report(self, report: wire.Report, fds: list[int]) -> None:
        self._patience_ends = time.monotonic() + ZYGOTE_PATIENCE_S
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
        self._selector.register(worker.sock, selectors.EVENT_READ, partial(self._on_sock, worker))
        self._selector.register(worker.out, selectors.EVENT_READ, partial(self._on_out, worker))

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
                self._fail(f"its processes end before they can take code: {complaint}")

    def _lose_zygote(self) -> None:
        """Replace a zygote that has ended; give its work in flight one more chance."""
        zygote, self._zygote = self._zygote, None
        if zygote is None:
            return
        self._selector.unregister(zygote.control)
        with contextlib.suppress(KeyError):
            self._selector.unregister(zygote.errors)
        complaint = zygote.complaint()
        zygote.close()
        for worker in sorted(self._workers.values(), key=lambda w: w.number, reverse=True):
            task, worker.task = worker.task, None
            if worker.lane is not None:
                worker.lane.lost = worker.lane.blocks > (task is not None)
                worker.lane.blocks = 0
            self._drop(worker)
            if task is not None:
                self._retry(task)
        if not zygote.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_STARTS:
                self._fail(f"its process ended {MAX_STARTS} times before it was ready: {complaint}")

    def _retry(self, task: Task) -> None:
        if task.attempts < MAX_ATTEMPTS and not (task.lane and task.lane.lost):
            self._queue.appendleft(task)
        else:
            task.finish(Status.INFRASTRUCTURE, error="the sandbox's process ended while the code ran")
            self._free_lane(task)

    def _give_up_one(self, why: str) -> None:
        """Answer one block for which no child could be made, so that the queue never stands still."""
        if self._queue and not self._running and not self._spawning and not self._spare:
            task = self._queue.popleft()
            task.finish(Status.INFRASTRUCTURE, error=f"the sandbox failed: {why}")
            self._free_lane(task)

    def _fail(self, why: str) -> None:
        with self._lock:
            self.failure = why
        error = SandboxUnavailable(f"The sandbox can not run code: {why}")
        while self._inbox:
            self._inbox.popleft()()
        for task in list(self._open_tasks):
            with contextlib.suppress(InvalidStateError):
                task.future.set_exception(error)
        self._open_tasks.clear()

    # -- blocks -------------------------------------------------------------------------------------------

    def _enqueue(self, task: Task) -> None:
        if self.failure is not None:
            task.future.set_exception(SandboxUnavailable(f"The sandbox can not run code: {self.failure}"))
            return
        self._open_tasks.add(task)
        task.future.add_done_callback(lambda _: self._open_tasks.discard(task))
        lane = task.lane
        if lane is None:
            self._queue.append(task)
        elif lane.lost or lane.closed:
            why = "the session was closed" if lane.closed else "the sandbox lost the session's process"
            task.finish(Status.INFRASTRUCTURE, error=why)
        elif lane.active:
            lane.waiting.append(task)
        else:
            lane.active = True
            self._queue.append(task)

    def _dispatch(self) -> None:
        """Give blocks to children while slots are free, and order the children that are missing."""
        if self.failure is not None:
            return
        missing = 0
        while self._queue and len(self._running) < self.slots:
            task = self._queue[0]
            worker = task.lane.worker if task.lane else None
            if worker is None and not self._spare:
                missing = min(len(self._queue), self.slots - len(self._running))
                break
            self._queue.popleft()
            if not task.attempts and not task.future.set_running_or_notify_cancel():
                self._free_lane(task)
                continue
            self._begin(task, worker or self._spare.popleft())
        if self._zygote is not None and self._zygote.ready:
            wanted = missing + self.spares - len(self._spare) - len(self._spawning)
            for _ in range(min(wanted, MAX_SPAWNING - len(self._spawning))):
                self._spawn(self._zygote)

    def _spawn(self, zygote: ZygoteHandle) -> None:
        worker = Worker(next(self._numbers) % 2**32)
        self._workers[worker.number] = self._spawning[worker.number] = worker
        self._patience_ends = time.monotonic() + ZYGOTE_PATIENCE_S
        with contextlib.suppress(OSError):  # A zygote that has gone is noticed by the end of its socket.
            zygote.spawn(worker.number, worker.child_sock.fileno(), worker.child_out)

    def _begin(self, task: Task, worker: Worker) -> None:
        self._running.add(worker)
        if task.lane is not None:
            task.lane.worker = worker
            task.lane.blocks += 1
        worker.assign(task, full_traceback=self.full_traceback)
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
            with contextlib.suppress(KeyError):
                self._selector.unregister(worker.sock)  # Its exit, which is still to come, decides.
        elif worker.task is None and worker in self._spare:
            self._drop(worker)

    def _on_out(self, worker: Worker) -> None:
        if not worker.gone and not worker.read_output():
            with contextlib.suppress(KeyError):
                self._selector.unregister(worker.out)

    def _on_exit(self, worker: Worker, wait_status: int) -> None:
        if not worker.ready:
            self._greet(worker)
        if worker.gone:
            return
        said = worker.read_status()
        worker.read_output()
        self._conclude(worker, *(said or worker.post_mortem(wait_status)), dead=True)

    def _judge(self) -> None:
        now = time.monotonic()
        for worker in list(self._running):
            if (verdict := worker.judge(now, self.slots)) is not None:
                self._conclude(worker, *verdict, dead=True)

    def _conclude(self, worker: Worker, status: Status, error: str, *, dead: bool = False) -> None:
        """Deliver a result; keep the child only for the next block of its session."""
        if worker.over_output() and status in (Status.OK, Status.ERROR, Status.KILLED):
            verdict = worker.judge(time.monotonic(), self.slots)
            status, error = verdict or (status, error)
            dead = True
        self._running.discard(worker)
        lane = worker.task.lane if worker.task else None
        keep = lane is not None and not dead and not lane.closed
        if keep:
            worker.pause()
        task = worker.finish(status, error, self._mask)
        if not keep:
            self._drop(worker)
        if task is not None:
            self._free_lane(task)

    def _drop(self, worker: Worker) -> None:
        for holder in (worker.sock, worker.out):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(holder)
        worker.close()
        self._running.discard(worker)
        self._spawning.pop(worker.number, None)
        self._workers.pop(worker.number, None)
        if worker.lane is not None and worker.lane.worker is worker:
            worker.lane.worker = None
        with contextlib.suppress(ValueError):
            self._spare.remove(worker)

    # -- sessions -----------------------------------------------------------------------------------------

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
            lane.waiting.popleft().finish(Status.INFRASTRUCTURE, error="the session was closed")
        if lane.worker is not None and lane.worker.task is None:
            self._drop(lane.worker)

    # -- the end ------------------------------------------------------------------------------------------

    def _shut(self) -> None:
        for task in list(self._open_tasks):
            task.finish(Status.INFRASTRUCTURE, error="the sandbox was closed")
        for worker in list(self._workers.values()):
            self._drop(worker)
        if self._zygote is not None:
            self._zygote.close()
        with self._lock:
            self.closed = True
            self._selector.close()
            os.close(self._wake)
            self._wake = -1
