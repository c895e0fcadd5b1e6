r"""`Grader`: compares answers with gold answers, in bounded time and memory, whatever the policy wrote.

Most answers are decided by their text in this process (`cir_env.grading.judge`). A separate process (`worker`), started
on first use, compares the others by algebra (math-verify, gold answer first) or with a user's verifier.
`cir_env.grading.answer_types` describes the answer types.
"""

import atexit
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self

from cir_env.errors import GraderUnavailable, OptionError
from cir_env.grading.answer_types import AnswerType, find_answer_type

GRADER_VERSION: Final = 3
"""Increases with every change of a verdict; only accuracies of the same version compare. See CHANGELOG.md."""

_CACHE_SIZE = 10_000
_STOP_S = 5.0
_WORKER = Path(__file__).with_name("worker.py")
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The result of grading an answer."""

    correct: bool
    """Whether the answer is right. Answers that cannot be parsed, or compared within the limits, are wrong."""
    reason: str
    """Short reason."""
    valid: bool = True
    """False after an infrastructure error (a broken gold answer, verifier or grader): `correct` is then meaningless."""


_Key = tuple[str, str, str, str, str]  # how to compare, gold, answer, statement, metadata as JSON or ""


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    id: int
    key: _Key
    futures: list[Future[Verdict]] = field(default_factory=list)
    tries: int = 0

    def line(self) -> bytes:
        compare, gold, answer, statement, metadata = self.key
        request: dict[str, Any] = {"id": self.id, "compare": compare, "gold": gold, "answer": answer}
        if statement:
            request["statement"] = statement
        if ":" in compare:
            request["path"] = _path()
        if metadata:
            request["metadata"] = json.loads(metadata)
        return json.dumps(request).encode() + b"\n"


class AnswerGrader(Protocol):
    """What an environment needs of a grader; `Grader` implements it."""

    def submit(
        self,
        gold: str,
        answer: str,
        answer_type: str = "math",
        *,
        statement: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Future[Verdict]:
        """Begin to grade an answer; see `Grader.submit`."""


class Grader:
    r"""Grades answers. Thread-safe; any number of threads may use it at once.

    Args:
        time_limit_s: CPU time limit of one comparison, in seconds. An answer that takes longer is wrong; a verifier
            that takes longer, or 12 times as long by the clock, makes the verdict invalid.
        memory_limit_mb: Memory limit of one comparison in MB, in addition to sympy and the imports of a verifier.
        max_parallel: Number of concurrent comparisons, at least 2; by default the number of CPUs, at least 4.

    Raises:
        OptionError: An argument is out of range.

    >>> with Grader() as grader:
    ...     grader.grade("1{,}234", "1234")
    Verdict(correct=True, reason='equal numbers', valid=True)
    """

    def __init__(
        self, *, time_limit_s: float = 1.5, memory_limit_mb: float = 256, max_parallel: int | None = None
    ) -> None:
        if not time_limit_s > 0 or not memory_limit_mb > 0:
            raise OptionError(
                f"Expect `time_limit_s` and `memory_limit_mb` to be positive, got {time_limit_s} and {memory_limit_mb}."
            )
        if max_parallel is not None and max_parallel < 2:
            raise OptionError(f"Expect `max_parallel` to be at least 2, got {max_parallel}.")
        self._configuration = {
            "time_limit_s": time_limit_s,
            "memory_limit_mb": memory_limit_mb,
            "slots": max_parallel or max(4, os.cpu_count() or 1),
        }
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards the attributes below; never held during blocking calls
        self._write_lock = threading.Lock()  # keeps request lines intact
        self._jobs: dict[int, _Job] = {}
        self._by_key: dict[_Key, _Job] = {}
        self._cache: dict[_Key, Verdict] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._unavailable = ""
        self._next_id = 0

    def __deepcopy__(self, memo: object) -> "Grader":
        """Return the grader itself: Gymnasium deep-copies the arguments of `make`, which must share the process."""
        return self

    def submit(
        self,
        gold: str,
        answer: str | None,
        answer_type: str = "math",
        *,
        statement: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Future[Verdict]:
        """Begin to grade an answer.

        Args:
            gold: The right answer, LaTeX or plain text.
            answer: The policy's answer; None if it gave none.
            answer_type: How to compare them; see `cir_env.grading.answer_types`.
            statement: The problem. For the type "math", an answer that copies one of its formulas is wrong.
            metadata: The metadata of the problem, JSON values, for a verifier that takes it.

        Returns:
            A future of the verdict. The only exception it can hold is `GraderUnavailable`.

        Raises:
            GraderUnavailable: The grader is closed, belongs to another process, or cannot start.
            OptionError: An argument is not a string, the answer type is unknown, or the metadata is not JSON.
        """
        if not isinstance(gold, str) or not isinstance(answer, str | None):
            raise OptionError(
                f"Expect `gold` and `answer` to be text, got {type(gold).__name__} and {type(answer).__name__}."
            )
        self._check_available()
        kind = find_answer_type(answer_type)
        future: Future[Verdict] = Future()
        future.set_running_or_notify_cancel()  # pending verdicts cannot be cancelled
        statement = statement if kind.reads_statement else ""
        decided = self._decide(kind, gold, answer, statement)
        if decided is not None:
            future.set_result(decided)
        else:
            more = _as_json(metadata) if kind.takes_metadata else ""
            self._enqueue((kind.compare, gold, answer or "", statement, more), future)
        return future

    def grade(
        self,
        gold: str,
        answer: str | None,
        answer_type: str = "math",
        *,
        statement: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> Verdict:
        """Grade an answer and wait for the verdict; arguments and errors as in `submit`."""
        return self.submit(gold, answer, answer_type, statement=statement, metadata=metadata).result()

    def can_read(self, expression: str) -> bool:
        """Whether the grading process can read an expression of normal layout as mathematics.

        Raises:
            GraderUnavailable: As in `submit`.
        """
        self._check_available()
        future: Future[Verdict] = Future()
        future.set_running_or_notify_cancel()
        self._enqueue(("reading", expression, "", "", ""), future)
        return future.result().correct

    def close(self) -> None:
        """Stop the grading process. Pending verdicts become invalid. Closing twice is fine."""
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
        """Whether `submit` may be called: the grader is open, and was created in this process."""
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
    def _decide(kind: AnswerType, gold: str, answer: str | None, statement: str) -> Verdict | None:
        """Return the verdict if the text decides it, else None."""
        if not gold.strip():
            return Verdict(correct=False, reason="the gold answer is blank", valid=False)
        if answer is None:
            return Verdict(correct=False, reason="no answer")
        if not kind.can_read(gold):
            return Verdict(correct=False, reason="the gold answer is not of its type", valid=False)
        judged = kind.judge(gold, answer, statement) if statement else kind.judge(gold, answer)
        return Verdict(correct=judged[0], reason=judged[1]) if judged else None

    def _enqueue(self, key: _Key, future: Future[Verdict]) -> None:
        with self._lock:
            self._check_available()
            cached = self._cache.get(key)
            if cached is None:
                if key in self._by_key:  # the same comparison is in progress
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
        """Start the worker process and its reader thread; the caller holds the lock."""
        configuration = {**self._configuration, "path": _path()}
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", str(_WORKER), json.dumps(configuration)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,  # Ctrl-C must only reach the trainer, which may still need verdicts
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
            except (OSError, ValueError):  # the process has ended: the reader notices, and handles its jobs
                pass

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        """Receive the replies of a worker process until it ends; runs in a thread."""
        assert isinstance(process.stdout, io.FileIO)
        with io.BufferedReader(process.stdout) as replies:
            for line in replies:
                if line.endswith(b"\n"):  # otherwise the process died while writing
                    self._receive(json.loads(line))
        self._stop(process)
        self._replace(process)

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        """Stop a worker process, which exits at the end of its input."""
        assert process.stdin is not None
        if not self._write_lock.acquire(timeout=_STOP_S):  # a writer is blocked because the process hangs
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
        """After a worker process ended: retry its jobs once in a new one, unless the grader is closed or unusable."""
        with self._lock:
            if self._process is not process:
                return
            self._process = None
            failed = [job for job in self._jobs.values() if job.tries >= 2]
            retried = [job for job in self._jobs.values() if job.tries < 2]
            failure = GraderUnavailable(self._unavailable) if self._unavailable else None
            if failure is None and retried:
                try:
                    process = self._start()
                except GraderUnavailable as error:
                    failure = error
            if failure is not None:
                failed, retried = self._take_all_jobs(), []
            for job in failed:
                self._jobs.pop(job.id, None)
                self._by_key.pop(job.key, None)
            for job in retried:
                job.tries += 1
        if retried:
            self._send(process, retried)
        _resolve(failed, failure or _DIED_TWICE)

    def _take_all_jobs(self) -> list[_Job]:
        jobs = list(self._jobs.values())
        self._jobs.clear()
        self._by_key.clear()
        return jobs


def _as_json(metadata: Mapping[str, Any] | None) -> str:
    try:
        return json.dumps(dict(metadata or {}), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise OptionError(f"Expect `metadata` as a JSON object, got: {error}.") from None


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
    """Return the grader that this process shares. It is created on first use and closed at exit.

    A forked process gets its own.
    """
    global _shared  # noqa: PLW0603
    with _shared_lock:
        if _shared is None or not _shared.is_usable:
            _shared = Grader()
        return _shared


def _renew_lock() -> None:
    global _shared_lock  # noqa: PLW0603
    _shared_lock = threading.Lock()  # another thread may have held the old one during the fork


os.register_at_fork(after_in_child=_renew_lock)
