r"""Grading: is an answer the same as the gold answer, in bounded time and memory, whatever the policy wrote?

Most answers are decided by their text in this process (`cir_env.grading.judge`). The others are compared by algebra
(math-verify, gold first), or by a user's verifier, in a process of its own, which is started when it is first needed:
`worker`. What a problem's answer type means is said in `cir_env.grading.answer_types`.
"""

import atexit
import io
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self

from cir_env.errors import GraderUnavailable, OptionError
from cir_env.grading.answer_types import AnswerType, find_answer_type
from cir_env.grading.latex import for_algebra

GRADER_VERSION: Final = 2
"""Goes up with every change of a verdict; accuracies compare within one version. CHANGELOG.md says what changed."""

_CACHE_SIZE = 10_000
_STOP_S = 5.0
_WORKER = Path(__file__).with_name("worker.py")
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What grading found."""

    correct: bool
    """Whether the answer is right. What cannot be read, or not be compared within the limits, is wrong."""
    reason: str
    """Why, in a few words."""
    valid: bool = True
    """False if the fault is ours (the gold answer or the grader is broken): then `correct` means nothing."""


_Key = tuple[str, str, str]  # how to compare, gold, answer


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    id: int
    key: _Key
    futures: list[Future[Verdict]] = field(default_factory=list)
    tries: int = 0

    def line(self) -> bytes:
        request = dict(zip(("compare", "gold", "answer"), self.key, strict=True), id=self.id)
        if ":" in self.key[0]:
            request["path"] = _path()
        return json.dumps(request).encode() + b"\n"


class AnswerGrader(Protocol):
    """Says whether an answer is right; `Grader` does."""

    def submit(self, gold: str, answer: str, answer_type: str = "math") -> Future[Verdict]:
        """Begin to compare an answer with the right one, as `cir_env.grading.answer_types` says."""


class Grader:
    r"""Grades answers; may be used from any thread, and by any number of them at once.

    Args:
        time_limit_s: CPU seconds that one comparison may take. One that takes longer is wrong; a verifier that does, or
            that takes 12 times as long by the clock, is a fault of ours.
        memory_limit_mb: Memory that one comparison may take on top of sympy and of what a verifier imports.
        max_parallel: How many comparisons run side by side.

    Raises:
        OptionError: An argument is out of its range.

    >>> with Grader() as grader:
    ...     grader.grade("1{,}234", "1234")
    Verdict(correct=True, reason='equal numbers', valid=True)
    """

    def __init__(
        self, *, time_limit_s: float = 2.0, memory_limit_mb: float = 256, max_parallel: int | None = None
    ) -> None:
        if not time_limit_s > 0 or not memory_limit_mb > 0:
            raise OptionError(
                f"Expect `time_limit_s` and `memory_limit_mb` to be positive, got {time_limit_s} and {memory_limit_mb}."
            )
        if max_parallel is not None and max_parallel < 2:
            raise OptionError(f"Expect `max_parallel` of at least 2, got {max_parallel}.")
        self._configuration = {
            "time_limit_s": time_limit_s,
            "memory_limit_mb": memory_limit_mb,
            "slots": max_parallel or max(4, os.cpu_count() or 1),
        }
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards all that follows; never held while something blocks
        self._write_lock = threading.Lock()  # keeps lines whole
        self._jobs: dict[int, _Job] = {}
        self._by_key: dict[_Key, _Job] = {}
        self._cache: dict[_Key, Verdict] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._unavailable = ""
        self._next_id = 0

    def __deepcopy__(self, memo: object) -> "Grader":
        """Return the grader itself: Gymnasium copies the arguments of `make` and means the same processes."""
        return self

    def submit(self, gold: str, answer: str | None, answer_type: str = "math") -> Future[Verdict]:
        """Begin to grade an answer.

        Args:
            gold: The right answer, LaTeX or plain.
            answer: The policy's; None if it gave none.
            answer_type: How to compare them; see `cir_env.grading.answer_types`.

        Returns:
            The verdict to come. It never holds an exception but `GraderUnavailable`.

        Raises:
            GraderUnavailable: The grader is closed, belongs to another process, or cannot start.
            OptionError: An argument is not text, or there is no such answer type.
        """
        if not isinstance(gold, str) or not isinstance(answer, str | None):
            raise OptionError(
                f"Expect `gold` and `answer` to be text, got {type(gold).__name__} and {type(answer).__name__}."
            )
        self._check_available()
        kind = find_answer_type(answer_type)
        future: Future[Verdict] = Future()
        future.set_running_or_notify_cancel()  # a verdict on its way cannot be called back
        decided = self._decide(kind, gold, answer)
        if decided is not None:
            future.set_result(decided)
        elif kind.compare == "math":
            self._enqueue(("math", for_algebra(gold), for_algebra(answer or "")), future)
        else:
            self._enqueue((kind.compare, gold, answer or ""), future)
        return future

    def grade(self, gold: str, answer: str | None, answer_type: str = "math") -> Verdict:
        """Grade an answer and wait for the verdict; arguments and errors as in `submit`."""
        return self.submit(gold, answer, answer_type).result()

    def close(self) -> None:
        """End the grading process; verdicts that are still to come say that they are not valid."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._unavailable = "This grader is closed: make a new one, or use shared_grader()."
            process, reader, self._process, self._reader = self._process, self._reader, None, None
            jobs = self._take_all_jobs()
        if process:
            self._stop(process)
            atexit.unregister(self.close)
        if reader and reader is not threading.current_thread():
            reader.join()
        _resolve(jobs, Verdict(correct=False, reason="the grader was closed", valid=False))

    @property
    def is_usable(self) -> bool:
        """Whether `submit` may be called: not closed, and in the process that made it."""
        return not self._unavailable and os.getpid() == self._pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_available(self) -> None:
        if os.getpid() != self._pid:
            raise GraderUnavailable(
                f"This grader belongs to process {self._pid}: make one in this process, or use shared_grader()."
            )
        if self._unavailable:
            raise GraderUnavailable(self._unavailable)

    @staticmethod
    def _decide(kind: AnswerType, gold: str, answer: str | None) -> Verdict | None:
        """The verdict, if it can be had in this process."""
        if not gold.strip():
            return Verdict(correct=False, reason="the gold answer is blank", valid=False)
        if answer is None:
            return Verdict(correct=False, reason="no answer")
        if not kind.can_read(gold):
            return Verdict(correct=False, reason="the gold answer is not of its type", valid=False)
        judged = kind.judge(gold, answer)
        return Verdict(correct=judged[0], reason=judged[1]) if judged else None

    def _enqueue(self, key: _Key, future: Future[Verdict]) -> None:
        with self._lock:
            self._check_available()
            cached = self._cache.get(key)
            if cached is None:
                if key in self._by_key:  # the same comparison is under way
                    self._by_key[key].futures.append(future)
                    return
                process = self._process or self._start()
                job = _Job(id=self._next_id, key=key, futures=[future], tries=1)
                self._next_id += 1
                self._jobs[job.id] = self._by_key[key] = job
        if cached is not None:
            future.set_result(cached)
        else:
            self._send(process, [job])

    def _start(self) -> "subprocess.Popen[bytes]":
        """Start the worker and its reader; the caller holds the lock."""
        configuration = {**self._configuration, "path": _path()}
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", str(_WORKER), json.dumps(configuration)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,  # Ctrl-C is for the trainer, which may still want verdicts
            )
        except OSError as error:
            raise GraderUnavailable(f"Expect to start a process for grading, got: {error}.") from None
        if self._process is None:
            atexit.register(self.close)
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process,), name="grader", daemon=True)
        self._reader.start()
        return process

    def _send(self, process: "subprocess.Popen[bytes]", jobs: list[_Job]) -> None:
        with self._write_lock:
            try:
                for job in jobs:
                    _write(process, job.line())
            except (OSError, ValueError):  # it is gone; the reader sees that too, and takes care of its jobs
                pass

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        """Pass on what one worker says, until it ends; runs in a thread."""
        assert isinstance(process.stdout, io.FileIO)
        with io.BufferedReader(process.stdout) as replies:
            for line in replies:
                if line.endswith(b"\n"):  # else it died while writing
                    self._receive(json.loads(line))
        self._stop(process)
        self._replace(process)

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        """End a worker, which ends by itself at the end of its input."""
        assert process.stdin is not None
        if not self._write_lock.acquire(timeout=_STOP_S):  # a writer hangs, because the worker does
            process.kill()
            self._write_lock.acquire()
        process.stdin.close()
        self._write_lock.release()
        try:
            process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _receive(self, reply: dict[str, Any]) -> None:
        if "fatal" in reply:
            with self._lock:
                self._unavailable = (
                    f"Expect math-verify to work in a fresh process, got {reply['fatal']}. "
                    'Install it: pip install "math-verify[antlr4_13_2]>=0.9,<1".'
                )
            return
        verdict = Verdict(correct=reply["correct"], reason=reply["reason"], valid=reply["valid"])
        with self._lock:
            job = self._jobs.pop(reply["id"], None)
            if job is None:
                return
            del self._by_key[job.key]
            if verdict.valid:
                self._cache[job.key] = verdict
                if len(self._cache) > _CACHE_SIZE:
                    del self._cache[next(iter(self._cache))]
        _resolve([job], verdict)

    def _replace(self, process: "subprocess.Popen[bytes]") -> None:
        """After a worker's end: try its jobs once more in a new one, unless that was asked for or is in vain."""
        with self._lock:
            if self._process is not process:
                return
            self._process = None
            given_up = [job for job in self._jobs.values() if job.tries >= 2]
            retried = [job for job in self._jobs.values() if job.tries < 2]
            failure = GraderUnavailable(self._unavailable) if self._unavailable else None
            if failure is None and retried:
                try:
                    process = self._start()
                except GraderUnavailable as error:
                    failure = error
            if failure is not None:
                given_up, retried = self._take_all_jobs(), []
            for job in given_up:
                self._jobs.pop(job.id, None)
                self._by_key.pop(job.key, None)
            for job in retried:
                job.tries += 1
        if retried:
            self._send(process, retried)
        _resolve(given_up, failure or _DIED_TWICE)

    def _take_all_jobs(self) -> list[_Job]:
        jobs = list(self._jobs.values())
        self._jobs.clear()
        self._by_key.clear()
        return jobs


def _path() -> list[str]:
    return [path or os.getcwd() for path in sys.path]


_DIED_TWICE = Verdict(correct=False, reason="the grading process died twice", valid=False)


def _resolve(jobs: list[_Job], outcome: Verdict | GraderUnavailable) -> None:
    for job in jobs:
        for future in job.futures:
            if isinstance(outcome, Verdict):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)


def _write(process: "subprocess.Popen[bytes]", data: bytes) -> None:
    assert process.stdin is not None
    while data:
        data = data[os.write(process.stdin.fileno(), data) :]


_shared: Grader | None = None
_shared_lock = threading.Lock()


def shared_grader() -> Grader:
    """The grader of this process, made when it is first asked for, and closed at exit.

    A forked process gets its own.
    """
    global _shared  # noqa: PLW0603
    with _shared_lock:
        if _shared is None or not _shared.is_usable:
            _shared = Grader()
        return _shared


def _renew_lock() -> None:
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.Lock()  # another thread may have held the old one at the fork


os.register_at_fork(after_in_child=_renew_lock)
