"""The grading process: compares each answer in a forked child that can be killed on its own.

`cir_env.grading.grader` runs this file as a program, ``python -I worker.py CONFIGURATION``, and never imports it. The
program reads JSON lines from stdin, ``{"id", "compare", "gold", "answer", "statement"}``, and writes JSON lines to
stdout, in any order: ``{"id", "correct", "reason", "valid"}``, or ``{"fatal"}`` if it cannot work at all. It exits at
the end of stdin, or when its parent has ended. Answers are compared by algebra ("math"), part by part ("set",
"interval"), or by a user's verifier ("module:function", with the "path" to import it from, and the "metadata" that it
takes). "reading" tells whether the gold answer can be read at all.

Importing sympy takes half a second, so sympy and verifiers are imported only once, here; a fork per answer then takes a
millisecond. A child first runs for at most an eighth of the time limit. Those that need longer are requeued behind all
others for a run with the full limit, and never occupy every slot, so that runaway answers (``9^{9^{9}}``) do not starve
the others.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import resource
import selectors
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

_WALL_LIMIT_S = 60.0  # for a child that neither ends nor uses CPU time
_WALL_PER_CPU_SECOND = 12.0  # for a verifier, which may sleep
_IMPORT_LIMIT_S = 60
_POLL_S = 2.0
_WARM_UP = (  # triggers the lazy imports and caches of sympy
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    ("(1,2)", "1,2"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"x \le 2", r"(-\infty,2]"),
    (r"5\sqrt{2}", "7.0710678"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
)
_MORE_WARM_UP = (  # the parser learns the grammar of LaTeX as it goes; what it learns here, no child has to
    (r"\pi - \arccos\frac{7}{18}", r"\arccos(-7/18)"),
    (r"\frac{19\sqrt{2}+11}{3}", r"11/3 + 19 \sqrt{2}/3"),
    (r"6r^2-4r-24", r"2 (3 r^{2} - 2 r - 12)"),
    (r"1 - 12i", r"z = -12 i + 1"),
    (r"\frac{2^{n+1}-1}{n!}", r"\frac{2 \cdot 2^n - 1}{n!}"),
    (r"\cot x + \ln(2x) - e^{x}", r"1/\tan(x) + \ln 2 + \ln x - e^x"),
    (r"\sqrt[3]{2} - \tan 15^\circ", r"2^{\frac{1}{3}} - 2 + \sqrt{3}"),
    (r"\binom{n+1}{2}", r"\frac{n(n+1)}{2}"),
    (r"\log_2 3 + |x-1|", r"\frac{\ln 3}{\ln 2} + |1-x|"),
    (r"x_1 \cdot \alpha", r"\alpha x_1"),
    (r"\left[\frac{2\sqrt{13}+4}{3}, \frac{16}{3}\right)", r"\frac{4+2\sqrt{13}}{3} \le x < 16/3"),
    (r"y = 2x + 3", r"2y - 4x = 6"),
    (r"\lfloor n/2 \rfloor", r"\lceil n/2 \rceil"),
    (r"\frac{1}{1-x}", r"-\frac{1}{x-1}"),
    (r"\sin^2 x + \cos^{-1} y", r"1 - \cos^2 x + \arccos(y)"),
    (r"2^{2019} - 2020", r"-2020 + 2^{2019}"),
    (r"(a+5)(b+2)", r"ab + 2a + 5b + 10"),
    (r"-5 - \frac{10\sqrt{3}}{3}", r"-10 \sqrt{3}/3 - 5.0"),
)


def judge_by_algebra(gold: str, answer: str, statement: str = "") -> dict[str, Any]:
    """Compare two answers, with algebra where text does not decide; time and memory are unbounded."""
    from cir_env.grading.algebra import SympyAlgebra, Unreadable
    from cir_env.grading.judge import UnreadableGold, judge

    try:
        correct, reason = judge(gold, answer, SympyAlgebra(), statement)
    except UnreadableGold as error:
        return {"correct": False, "reason": str(error), "valid": False}
    except Unreadable as error:
        correct, reason = False, str(error)
    return {"correct": correct, "reason": reason, "valid": True}


def read_gold(gold: str, answer: str) -> dict[str, Any]:
    """Tell whether an expression can be read as mathematics."""
    from cir_env.grading.algebra import can_read

    correct = can_read(gold)
    return {"correct": correct, "reason": "" if correct else "cannot be read as mathematics", "valid": True}


Comparison = Callable[..., dict[str, Any]]


def load_comparison(compare: str, path: list[str]) -> Comparison:
    """Return the function that compares a gold answer with another, and import what it needs.

    Args:
        compare: "math", "reading", "set", "interval", or "module:function" for a verifier.
        path: Import path of a verifier.
    """
    if compare == "math":
        return judge_by_algebra
    if compare == "reading":
        return read_gold
    if ":" not in compare:
        from cir_env.grading.parts import judge_parts

        return partial(judge_parts, compare, algebra=judge_by_algebra)
    sys.path.extend(folder for folder in path if folder not in sys.path)
    importlib.invalidate_caches()
    module, _, names = compare.partition(":")
    verifier: Any = importlib.import_module(module)
    for name in names.split("."):
        verifier = getattr(verifier, name)
    return partial(_verify, verifier)


def _verify(verifier: Callable[..., object], gold: str, answer: str, **metadata: Any) -> dict[str, Any]:
    try:
        correct = verifier(gold, answer, **metadata)
    except BaseException as error:
        return _invalid("the verifier raises", error)
    if not isinstance(correct, bool):
        return _invalid(f"the verifier returns {type(correct).__name__}, not bool")
    reason = "accepted by the verifier" if correct else "refused by the verifier"
    return {"correct": correct, "reason": reason, "valid": True}


def _invalid(reason: str, error: BaseException | None = None) -> dict[str, Any]:
    if error is not None:
        reason += " " + "".join(traceback.format_exception_only(error)).strip()[:200]
    return {"correct": False, "reason": reason, "valid": False}


def _stop_import(*_: object) -> None:
    raise TimeoutError(f"it takes more than {_IMPORT_LIMIT_S} s")


@dataclass(kw_only=True, slots=True)
class _Job:
    request: dict[str, Any]
    tries: int = 0
    is_slow: bool = False

    @property
    def is_verifier(self) -> bool:
        """Whether a user's verifier compares, whose failures make the verdict invalid."""
        return ":" in self.request["compare"]


@dataclass(kw_only=True, slots=True)
class _Child:
    job: _Job
    pid: int
    ends_at: float
    output: bytes = b""
    is_stuck: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the reply is complete; a process that a verifier left behind may keep the pipe open."""
        return self.output.endswith(b"\n")


@dataclass(kw_only=True, slots=True)
class _Server:
    requests: int
    replies: int
    time_limit_s: float
    memory_limit_mb: float
    slots: int
    quick: deque[_Job] = field(default_factory=deque)
    slow: deque[_Job] = field(default_factory=deque)
    children: dict[int, _Child] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    warm_up: deque[tuple[str, str]] = field(default_factory=lambda: deque(_MORE_WARM_UP))

    def serve(self) -> None:
        parent = os.getppid()
        unread = b""
        self.selector.register(self.requests, selectors.EVENT_READ)
        while os.getppid() == parent:
            self.start_children()
            if self.warm_up:  # a little at a time, so that no answer waits for all of it
                judge_by_algebra(*self.warm_up.popleft())
            for key, _ in self.selector.select(timeout=0 if self.warm_up else _POLL_S):
                if key.fd != self.requests:
                    self.read_child(key.fd)
                    continue
                data = os.read(self.requests, 1 << 16)
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                self.quick.extend(_Job(request=json.loads(line)) for line in lines)
            self.end_stuck_children()

    def start_children(self) -> None:
        while len(self.children) < self.slots:
            slow_running = sum(child.job.is_slow for child in self.children.values())
            if self.quick:
                job, time_limit_s = self.quick.popleft(), self.time_limit_s / 8
            elif self.slow and slow_running < self.slots - 1:
                job, time_limit_s = self.slow.popleft(), self.time_limit_s
            else:
                return
            job.tries += 1
            comparison = self.comparison(job.request)
            wall_limit_s = _WALL_PER_CPU_SECOND * time_limit_s if job.is_verifier else _WALL_LIMIT_S
            output, child_output = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(self.requests)
                os.close(self.replies)
                _run_child(job, comparison, child_output, time_limit_s, self.memory_limit_mb)
            with contextlib.suppress(OSError):  # the child does so too, to avoid a race
                os.setpgid(pid, pid)
            os.close(child_output)
            self.children[output] = _Child(job=job, pid=pid, ends_at=time.monotonic() + wall_limit_s)
            self.selector.register(output, selectors.EVENT_READ)

    def comparison(self, request: dict[str, Any]) -> Comparison:
        """Load a comparison on first use; if that fails, all its verdicts are invalid."""
        compare = request["compare"]
        if compare not in self.comparisons:
            signal.signal(signal.SIGALRM, _stop_import)
            signal.alarm(_IMPORT_LIMIT_S)
            try:
                self.comparisons[compare] = load_comparison(compare, request.get("path", []))
            except BaseException as error:
                invalid = _invalid(f"{compare} cannot be imported for grading:", error)
                self.comparisons[compare] = lambda *_, **__: invalid
            finally:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
        return self.comparisons[compare]

    def read_child(self, output: int) -> None:
        child = self.children[output]
        data = os.read(output, 1 << 16)
        child.output += data
        if not data or child.is_done:
            self.end_child(output)

    def end_child(self, output: int) -> None:
        """Kill a child with all processes that it started, and reply with its verdict."""
        child = self.children.pop(output)
        self.selector.unregister(output)
        os.close(output)
        os.killpg(child.pid, signal.SIGKILL)
        _, status = os.waitpid(child.pid, 0)
        verdict = self.verdict(child, status)
        if verdict:
            self.send({"id": child.job.request["id"], **verdict})

    def verdict(self, child: _Child, status: int) -> dict[str, Any] | None:
        """Return the verdict on a child that has ended; None if its job was requeued."""
        job = child.job
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if child.is_done:
            result: dict[str, Any] = json.loads(child.output)
            return result
        if ended_by in (signal.SIGPROF, signal.SIGXCPU) or (child.is_stuck and job.is_verifier):
            if job.is_slow:
                reason = f"takes more than {self.time_limit_s:g} s to compare"
                return {"correct": False, "reason": reason, "valid": not job.is_verifier}
            job.is_slow = True
            job.tries = 0
            self.slow.append(job)
            return None
        if ended_by in (signal.SIGKILL, signal.SIGTERM):  # from outside: a user, or the kernel out of memory
            if job.tries >= 2:
                return {"correct": False, "reason": "grading was killed twice from outside", "valid": False}
            (self.slow if job.is_slow else self.quick).append(job)
            return None
        return {"correct": False, "reason": "crashes the comparison", "valid": not job.is_verifier}

    def end_stuck_children(self) -> None:
        now = time.monotonic()
        for output in [output for output, child in self.children.items() if now > child.ends_at]:
            self.children[output].is_stuck = True
            self.end_child(output)

    def kill_children(self) -> None:
        for child in self.children.values():
            os.killpg(child.pid, signal.SIGKILL)

    def send(self, reply: dict[str, Any]) -> None:
        _write(self.replies, json.dumps(reply).encode() + b"\n")


def _run_child(job: _Job, comparison: Comparison, output: int, time_limit_s: float, memory_limit_mb: float) -> None:
    """Judge one answer under the limits, reply, and exit."""
    try:
        try:
            os.setpgid(0, 0)
            _set_limits(time_limit_s, memory_limit_mb)
        except (OSError, ValueError) as error:
            result = {"correct": False, "reason": f"limits cannot be set: {error}", "valid": False}
        else:
            result = _judge_safely(job, comparison)
        _write(output, json.dumps(result).encode() + b"\n")
    finally:
        os._exit(0)


def _set_limits(time_limit_s: float, memory_limit_mb: float) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, time_limit_s)  # ends even a single long call inside C code
    _limit(resource.RLIMIT_CPU, int(time_limit_s) + 2)
    _limit(resource.RLIMIT_AS, _address_space() + int(memory_limit_mb * 2**20))
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)


def _judge_safely(job: _Job, comparison: Comparison) -> dict[str, Any]:
    try:
        request = job.request
        more = {key: request[key] for key in ("statement", "metadata") if key in request}
        return comparison(request["gold"], request["answer"], **more)
    except MemoryError:
        return {"correct": False, "reason": "needs too much memory to compare", "valid": True}
    except Exception as error:
        return {"correct": False, "reason": f"cannot be compared: {type(error).__name__}", "valid": True}


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def main() -> int:
    """Serve until the end of stdin."""
    configuration = json.loads(sys.argv[1])
    sys.path[:] = configuration.pop("path")  # the import path of the parent
    requests, replies, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    server = _Server(requests=requests, replies=replies, **configuration)
    try:
        logging.disable(logging.CRITICAL)
        for gold, answer in _WARM_UP:
            judge_by_algebra(gold, answer)
        gc.collect()
        gc.freeze()
    except Exception as error:
        server.send({"fatal": f"{type(error).__name__}: {error}"})
        return 1
    try:
        server.serve()
    except BrokenPipeError:  # the parent has ended
        pass
    finally:
        server.kill_children()
    return 0


if __name__ == "__main__":
    sys.exit(main())
