"""The supervisor: one thread of the trainer that assigns blocks to children and monitors them.

It owns all descriptors and makes all decisions; other threads only append to its inbox. It treats everything that a
child sends as untrusted bytes.
"""

import contextlib
import errno
import itertools
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from cir_env.errors import SandboxUnavailable
from cir_env.sandbox import wire
from cir_env.sandbox.contract import ExecutionResult, Limits, Status
from cir_env.sandbox.host import self_test
from cir_env.sandbox.host.launch import Settings, ZygoteHandle
from cir_env.sandbox.host.loop import log
from cir_env.sandbox.host.monitor import CLOSED_SESSION, SessionState, Task, Worker
from cir_env.sandbox.host.zygotes import DESCRIPTORS_TO_START, ZygotePool, descriptor_limit, free_descriptors
from cir_env.sandbox.inside.jail import raise_descriptor_limit

MAX_ATTEMPTS = 2
MAX_CANARIES = 3
SPARE_DELAY_S = 0.003
"""Seconds after the start of a block in which no spares are forked, so as not to slow it down."""
MAX_SPAWNING = 32
MAX_ASLEEP_PER_SLOT = 8
"""How many blocks may run per slot if all but one of them sleep."""
SPARE_PAUSE_S = 0.1
"""Seconds between two attempts to fork a spare of which the first failed."""
MAX_FAILED_CHILDREN = 10
"""How many children in a row may end before they are ready until the open blocks fail."""
MAX_RECOVERIES = 3
"""How often in a row, without the result of a block, the supervisor may start again until the open blocks fail."""
DESCRIPTORS_PER_SLOT, DESCRIPTORS_PER_SPARE = 4, 16
"""A block uses up to four descriptors of this process; a spare is forked only if the limit has room for 16."""
OUT_OF_MEMORY_S = 1.0
"""Seconds after a kill for lack of memory in which others are taken for such kills, too."""
TOO_MUCH_MEMORY = "MemoryError: all blocks together used more memory than the sandbox may use"


class Supervisor(ZygotePool):
    """The queue, slots, children and clocks of one sandbox."""

    def __init__(self, *, slots: int, spares: int, settings: Settings) -> None:
        super().__init__(slots=slots, settings=settings)
        self.slots, self.spares = slots, spares
        self.layers: dict[str, str] = {}
        self.trouble: str | None = None
        """Why open blocks have failed, until new processes are ready."""
        self._recoveries = 0
        self._out_of_memory_until = 0.0
        self._open_tasks: set[Task] = set()
        self._queue: deque[Task] = deque()
        self._running: set[Worker] = set()
        self._spare: deque[Worker] = deque()
        self._spawning: dict[int, Worker] = {}
        self._workers: dict[int, Worker] = {}
        self._numbers = itertools.count()
        self._failed_children = 0
        self._canary: Task | None = None
        self._canaries_sent = 0
        self._spares_at = 0.0

    def submit(self, task: Task) -> None:
        """Queue a block."""
        self.call(partial(self._enqueue, task))

    def start(self) -> None:
        """Start the zygote before the first block."""
        self.call(lambda: None)

    def on_open(self) -> None:
        """Raise the limit of descriptors."""
        raise_descriptor_limit()

    def end_session(self, session: SessionState) -> None:
        """Close a session."""
        if not self.has_begun:  # Nor has the session.
            session.closed = True
            return
        with contextlib.suppress(SandboxUnavailable):
            self.call(partial(self._close_session, session))

    def forked(self) -> None:
        """Close the descriptors in a forked trainer, without ending the children."""
        super().forked()
        for worker in self._workers.values():
            worker.abandon()

    def has_work(self) -> bool:
        """Return whether blocks wait or run."""
        return bool(self._queue or self._running)

    def owes_report(self, zygote: ZygoteHandle) -> bool:
        """Return whether a zygote has to report the end of a child."""
        return any(worker.zygote is zygote and worker.exited for worker in self._running)

    def deadline(self) -> float | None:
        """Return when the next clock has to be checked."""
        times = [worker.next_check for worker in self._running]
        if self._running and self._missing_spares() > 0:
            times.append(self._spares_at)
        if (answer_deadline := super().deadline()) is not None:
            times.append(answer_deadline)
        return min(times, default=None)

    def act(self) -> None:
        """Check the limits of running blocks, and start waiting ones."""
        now = time.monotonic()
        for worker in list(self._running):
            self._retry_on_error(worker, self._check_limits, worker, now)
        if self.failure is None:
            self._dispatch()
            self._order_children()

    def _check_limits(self, worker: Worker, now: float) -> None:
        exited_before = worker.exited
        if (verdict := worker.check_limits(now, self.slots)) is not None:
            self._finish_task(worker, *(worker.read_status() or verdict), dead=True)
        elif worker.exited and not exited_before:
            self.extend_deadline(worker.zygote)

    def fail(self, why: str) -> None:
        """Fail all open and later blocks."""
        with self._lock:
            self.failure = why
        self.run_inbox()
        self.fail_open_tasks(why)

    def fail_open_tasks(self, why: str) -> None:
        """Fail all open blocks, and replace all processes; later blocks may run."""
        self.trouble = why
        self._failed_children = self._canaries_sent = 0
        self._replace_all()
        failed = {*self._queue, *self._open_tasks} - {self._canary}  # The queue has cancelled ones, too.
        self._queue.clear()
        self._canary = None
        for task in failed:
            task.fail(SandboxUnavailable(f"The sandbox cannot run code: {why}"))
            if task.session is not None:
                task.session.waiting.clear()
                task.session.active = False

    def recover(self, error: BaseException) -> None:
        """Replace all processes after an unexpected error; what ran is retried."""
        log.error("The supervisor of the sandbox failed and starts again", exc_info=error)
        self._recoveries += 1
        self._replace_all()
        if self._recoveries > MAX_RECOVERIES:
            self._recoveries = 0
            self.fail_open_tasks(f"its supervisor failed with {type(error).__name__}: {error}")

    def _replace_all(self) -> None:
        """End all processes, and put their blocks back into the queue."""
        for zygote in list(self.zygotes):
            with contextlib.suppress(Exception):
                self.remove_zygote(zygote)
        for worker in list(self._workers.values()):
            with contextlib.suppress(Exception):
                self._requeue(worker)
        for left in (self.zygotes, self._workers, self._running, self._spare, self._spawning):
            left.clear()

    def _retry_on_error(self, worker: Worker, act: Callable[..., None], *args: object) -> None:
        """Act on a child; if that causes an unexpected error, retry its block. Other blocks are not affected."""
        try:
            act(*args)
        except Exception:
            log.exception("A process of the sandbox is replaced")
            self._requeue(worker)

    def shut_down(self) -> None:
        """Finish all open blocks, and end all processes."""
        self.run_inbox()
        for task in list(self._open_tasks):
            task.finish(Status.INFRASTRUCTURE, "the sandbox was closed")
        for worker in list(self._workers.values()):
            self._remove_worker(worker)
        super().shut_down()

    def pending_children(self, zygote: ZygoteHandle) -> int:
        """Return how many children were ordered from a zygote and are not ready yet."""
        return sum(worker.zygote is zygote for worker in self._spawning.values())

    def on_zygote_ready(self, zygote: ZygoteHandle) -> None:
        """Check whether the layers of the first zygote suffice; fail if they do not."""
        self.trouble = None
        if self.trusted or self._canary is not None:
            return
        self.layers = {**zygote.layers, "group": self.group_report}
        if self.settings.isolation == "unsafe":
            self.trusted = True
            return
        missing = "; ".join(f"{name} {why}" for name, why in zygote.layers.items() if why != "on")
        if not zygote.contained:
            self.fail(
                f"expect seccomp with namespaces or Landlock, got {missing}. To run code with resource limits "
                "only, pass sandbox='unsafe', or LocalSandbox(isolation='unsafe')"
            )
            return
        if missing and self.settings.isolation == "auto":
            log.warning("The sandbox runs without some of its layers: %s", missing)
        self._send_canary()

    def _send_canary(self) -> None:
        self._canary = Task(code=self_test.CODE.encode(), limits=Limits(), future=Future())
        self._canary.future.add_done_callback(self._on_canary_result)
        self._queue.appendleft(self._canary)
        self._canaries_sent += 1

    def _on_canary_result(self, future: "Future[ExecutionResult]") -> None:
        """Allow other blocks if the canary passed."""
        result = future.result()
        self._canary = None
        if result.status in (Status.KILLED, Status.TIMEOUT, Status.INFRASTRUCTURE):
            if self._canaries_sent < MAX_CANARIES:
                self._send_canary()
            else:
                self.fail_open_tasks(f"its self-test did not run to its end: {result.error}")
            return
        self.trusted = (result.status, result.stdout) == (Status.OK, self_test.EXPECTED_OUTPUT)
        if not self.trusted:
            self.fail(f"its layers failed the self-test: {result.stdout.strip()} {result.error}".rstrip())

    def on_report(self, report: wire.Report, fds: list[int]) -> None:
        """Process a report about a child."""
        worker = self._workers.get(report.worker)
        if worker is None:
            for fd in fds:
                os.close(fd)
            return
        if report.kind == b"S":
            self._retry_on_error(worker, self._on_forked, worker, fds)
        elif report.kind == b"X":
            worker.set_final_cpu(report.cpu_s)
            self._retry_on_error(worker, self._on_exit, worker, report.code)
        else:
            self._on_missing_child(worker, report.code)

    def _on_forked(self, worker: Worker, fds: list[int]) -> None:
        try:
            worker.on_forked(*fds)
        except (TypeError, OSError):  # TypeError: the kernel drops a descriptor beyond the limit.
            self._on_missing_child(worker, errno.EMFILE)
        else:
            self.watch(worker.sock, partial(self._on_sock, worker))

    def _on_missing_child(self, worker: Worker, error: int) -> None:
        log.warning("The sandbox cannot fork a child: %s", os.strerror(error))
        self._remove_worker(worker)
        self._spares_at = time.monotonic() + SPARE_PAUSE_S
        self._fail_next_task(f"it cannot fork a child: {os.strerror(error)}")

    def _on_ready(self, worker: Worker) -> None:
        error = worker.read_ready()
        if error == "":
            self._failed_children = 0
            self._spawning.pop(worker.number, None)
            self._spare.append(worker)
        elif error is not None:
            self._remove_worker(worker)
            self._failed_children += 1
            if self._failed_children >= MAX_FAILED_CHILDREN:
                self.fail_open_tasks(f"its processes end before they are ready: {error}")

    def on_zygote_exit(self, zygote: ZygoteHandle) -> None:
        """Retry the blocks of a zygote that has ended."""
        orphans = [worker for worker in self._workers.values() if worker.zygote is zygote]
        for worker in sorted(orphans, key=lambda w: w.number, reverse=True):
            self._requeue(worker)

    def _requeue(self, worker: Worker) -> None:
        """Remove a child that an infrastructure error ended, and retry its block."""
        task, worker.task = worker.task, None
        if worker.session is not None:
            worker.session.lost = worker.session.blocks > (task is not None)
        self._remove_worker(worker)
        if task is not None:
            self._retry(task)

    def _may_retry(self, task: Task) -> bool:
        return task.attempts < MAX_ATTEMPTS and (task.session is None or task.session.blocks == 1)

    def _retry(self, task: Task) -> None:
        if task.attempts < MAX_ATTEMPTS and not (task.session and task.session.lost):
            self._queue.appendleft(task)
        else:
            task.finish(Status.INFRASTRUCTURE, "the process of the sandbox ended while the code ran")
            self._advance_session(task)

    def _fail_next_task(self, why: str) -> None:
        """Fail the next block if there is no child to run it, so that the queue never stalls."""
        if self._queue and not self._running and not self._spawning and not self._spare:
            task = self._queue.popleft()
            task.finish(Status.INFRASTRUCTURE, f"the sandbox failed: {why}")
            self._advance_session(task)

    def _enqueue(self, task: Task) -> None:
        if self.failure is not None:
            task.fail(SandboxUnavailable(f"The sandbox cannot run code: {self.failure}"))
            return
        self._open_tasks.add(task)
        task.future.add_done_callback(partial(self._on_done, task))
        self._queue_or_wait(task)

    def _on_done(self, task: Task, future: "Future[ExecutionResult]") -> None:
        """End a block that was cancelled. Called by the thread that cancels it."""
        self._open_tasks.discard(task)
        if future.cancelled():
            try:
                self.call(partial(self._abandon, task))
            except SandboxUnavailable:
                future.set_running_or_notify_cancel()

    def _abandon(self, task: Task) -> None:
        task.future.set_running_or_notify_cancel()  # Those that wait for the future learn of it.
        if (worker := next((w for w in self._running if w.task is task), None)) is not None:
            self._finish_task(worker, Status.INFRASTRUCTURE, "the block was cancelled", dead=True)

    def _queue_or_wait(self, task: Task) -> None:
        session = task.session
        if session is None:
            self._queue.append(task)
        elif (why := session.why_over()) is not None:
            task.finish(Status.INFRASTRUCTURE, why)
        elif session.active:
            session.waiting.append(task)
        else:
            session.active = True
            self._queue.append(task)

    def _dispatch(self) -> None:
        """Start blocks while slots are free."""
        while self._queue and self._free_slots() > 0:
            task = self._queue[0]
            if not self.trusted and task is not self._canary:
                break
            is_cancelled = task.future.done()
            result = None if is_cancelled else self._refuse(task)
            if is_cancelled or result is not None:
                self._queue.popleft()
                if result is not None:
                    task.finish(*result)
                self._advance_session(task)
                continue
            worker = task.session.worker if task.session else None
            if worker is None and not self._spare:
                break
            self._queue.popleft()
            self._start_task(task, worker or self._spare.popleft())

    def _refuse(self, task: Task) -> tuple[Status, str] | None:
        """Return status and error of a block that cannot run."""
        if task.files and self.layers.get("scratch") != "on" and not any(zygote.folders for zygote in self.zygotes):
            return Status.INFRASTRUCTURE, "blocks have no working directory on this machine, and cannot be given files"
        return None if task.session is None else self._refuse_session(task.session)

    def _refuse_session(self, session: SessionState) -> tuple[Status, str] | None:
        if (why := session.why_over()) is not None:
            return Status.INFRASTRUCTURE, why
        if session.worker is not None:
            return None
        if session.ended is not None:
            result, session.ended = session.ended, None
            return result
        limit = descriptor_limit()
        if free_descriptors() >= min(DESCRIPTORS_PER_SLOT * self.slots + 2 * DESCRIPTORS_TO_START, limit // 3):
            return None
        why = f"each open session holds three of the {limit} descriptors of this process: raise `ulimit -n`"
        return Status.INFRASTRUCTURE, why

    def _free_slots(self) -> int:
        """Return how many blocks may start; sleeping blocks do not occupy a slot."""
        awake = sum(not worker.asleep for worker in self._running)
        return min(self.slots - awake, self.slots * MAX_ASLEEP_PER_SLOT - len(self._running))

    def _order_children(self) -> None:
        """Order the children that blocks wait for, and spares unless a block has just started."""
        missing = min(len(self._queue), self._free_slots())
        wanted = missing - len(self._spare) - len(self._spawning)
        if not self._running or time.monotonic() >= self._spares_at:
            wanted = missing + self._missing_spares()
        for _ in range(min(wanted, MAX_SPAWNING - len(self._spawning))):
            if (zygote := self.least_busy_zygote()) is not None:
                self._spawn(zygote)

    def _missing_spares(self) -> int:
        """Return how many spares are missing; negative if there are more than enough."""
        missing = self.spares - len(self._spare) - len(self._spawning)
        excess = self.spares - descriptor_limit() // DESCRIPTORS_PER_SPARE if missing > 0 else 0
        return missing - max(0, excess)

    def _spawn(self, zygote: ZygoteHandle) -> None:
        try:
            worker = Worker(next(self._numbers), zygote)
        except OSError as error:
            self._spares_at = time.monotonic() + SPARE_PAUSE_S
            self._fail_next_task(f"it cannot create a child: {os.strerror(error.errno or 0)}")
            return
        self._workers[worker.number] = self._spawning[worker.number] = worker
        self.extend_deadline(zygote)
        order = wire.Spawn(worker.number, not self.has_work(), worker.folder)
        try:
            zygote.spawn(order, worker.child_sock.fileno(), worker.out.fd)
        except (BrokenPipeError, ConnectionResetError):
            pass  # The end of its socket tells that a zygote has ended.
        except OSError as error:
            self._on_missing_child(worker, error.errno or 0)

    def _start_task(self, task: Task, worker: Worker) -> None:
        self._running.add(worker)
        self._spares_at = time.monotonic() + SPARE_DELAY_S
        if task.session is not None:
            task.session.worker = worker
            task.session.blocks += 1
        self._retry_on_error(worker, self._assign, worker, task)

    def _assign(self, worker: Worker, task: Task) -> None:
        if worker.assign(task):
            self._watch_sending(worker, worker.send())
        else:  # It has ended, or a session's earlier block has shut its socket: the block has not run.
            worker.task = None
            self._remove_worker(worker)
            self._retry(task)

    def _watch_sending(self, worker: Worker, more: bool) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if more else 0)
        try:
            self._selector.modify(worker.sock, events, partial(self._on_sock, worker))
        except KeyError:  # Between two blocks of its session it may have sent what looks like the end.
            self._selector.register(worker.sock, events, partial(self._on_sock, worker))

    def _on_sock(self, worker: Worker) -> None:
        if not worker.gone:
            self._retry_on_error(worker, self._read_sock, worker)

    def _read_sock(self, worker: Worker) -> None:
        if not worker.ready:
            self._on_ready(worker)
            return
        if worker.task is None and worker.session is not None:
            if not worker.discard_packets():
                self.unwatch(worker.sock)
            return
        self._watch_sending(worker, worker.send())
        if (said := worker.read_status()) is not None:
            self._finish_task(worker, *said)
        elif worker.socket_closed():
            self.unwatch(worker.sock)  # The exit report, which follows, decides.
        elif worker.task is None and worker in self._spare:
            self._remove_worker(worker)

    def _on_exit(self, worker: Worker, wait_status: int) -> None:
        if not worker.ready:
            self._on_ready(worker)
        if worker.gone:
            return
        killed = os.WIFSIGNALED(wait_status) and os.WTERMSIG(wait_status) == signal.SIGKILL
        if killed and self._lacks_memory():
            self._on_out_of_memory(worker)
            return
        if killed and worker.task is not None and self._may_retry(worker.task) and not worker.has_begun():
            self._requeue(worker)  # Somebody has killed an idle process.
            return
        status, error, *trace = worker.read_status() or worker.post_mortem(wait_status)
        if worker.session is not None and worker.task is None and status is not Status.OK:
            worker.session.ended = status, error
        self._finish_task(worker, status, error, *trace, dead=True)

    def _lacks_memory(self) -> bool:
        """Return whether the kernel has killed processes of the group just now. It does not say which."""
        now = time.monotonic()
        if self.group is not None and self.group.oom_killed_since_last_call():
            self._out_of_memory_until = now + OUT_OF_MEMORY_S
        return now < self._out_of_memory_until

    def _on_out_of_memory(self, worker: Worker) -> None:
        """Handle a child that the kernel killed, as the largest one, since the memory of the group is full.

        A block that may have been killed for others is retried, so that the result does not depend on them. But that
        it fills the group can never end in an infrastructure error, by which a policy could drop its episode.
        """
        log.warning("The kernel killed a block since all blocks together used too much memory")
        task, session = worker.task, worker.session
        if task is None:
            if session is not None:
                session.ended = Status.MEMORY, TOO_MUCH_MEMORY
            self._remove_worker(worker)
        elif self._may_retry(task):
            self._requeue(worker)
        else:
            self._finish_task(worker, Status.MEMORY, TOO_MUCH_MEMORY, dead=True)

    def _finish_task(self, worker: Worker, status: Status, error: str, trace: str = "", *, dead: bool = False) -> None:
        """Deliver a result; keep the child only if its session may have more blocks."""
        if dead:
            worker.kill()  # Before its output is read, so that all that it printed until then is included.
        stdout, over = worker.read_output()
        if over is not None:
            (status, error), trace, dead = over, "", True
        self._running.discard(worker)
        session = worker.task.session if worker.task else None
        keep = session is not None and not dead and not session.closed
        if keep:
            worker.pause()
        task = worker.finish(status, error, trace, stdout)
        self._recoveries = 0
        if not keep:
            self._remove_worker(worker)
        if task is not None:
            self._advance_session(task)

    def _remove_worker(self, worker: Worker) -> None:
        self.unwatch(worker.sock)
        worker.close()
        self._running.discard(worker)
        self._spawning.pop(worker.number, None)
        self._workers.pop(worker.number, None)
        if worker.session is not None and worker.session.worker is worker:
            worker.session.worker, worker.session.blocks = None, 0
        with contextlib.suppress(ValueError):
            self._spare.remove(worker)

    def _advance_session(self, task: Task) -> None:
        session = task.session
        if session is None:
            return
        session.active = False
        while session.waiting and not session.active:
            if not (following := session.waiting.popleft()).future.done():
                self._queue_or_wait(following)

    def _close_session(self, session: SessionState) -> None:
        session.closed = True
        while session.waiting:
            session.waiting.popleft().finish(Status.INFRASTRUCTURE, CLOSED_SESSION)
        if session.worker is not None:
            self._finish_task(session.worker, Status.INFRASTRUCTURE, CLOSED_SESSION, dead=True)
