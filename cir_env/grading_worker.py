"""The grading process: compares answers by algebra, each in a child of its own that can be killed alone.

It is run as a program, ``python -I grading_worker.py CONFIGURATION``, by `cir_env.grading`, never imported by it.
It reads one JSON object a line from stdin, ``{"id", "gold", "answer"}``, and writes one a line to stdout, in any
order: ``{"id", "correct", "reason", "valid"}``, or ``{"fatal"}`` when it can not work at all. It ends at the end
of stdin, or when its parent is gone.

Importing sympy takes half a second, so that happens once, here; a fork per answer then takes a millisecond. A
child first gets a short turn (an eighth of the time limit). Those that need more wait for a second, full turn
behind all others, and never fill every slot, so that a heap of runaway answers (``9^{9^{9}}``) starves nobody.
"""

import gc
import json
import logging
import os
import resource
import selectors
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

_WALL_LIMIT_S = 60.0  # for a child that neither ends nor uses its CPU time: our fault, never the policy's
_POLL_S = 2.0
_WARM_UP = (  # touches what sympy imports late and caches
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    ("(1,2)", "1,2"),
    (r"\{1,2\}", r"\{2,1\}"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"x \le 2", r"(-\infty,2]"),
    (r"5\sqrt{2}", "7.0710678"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
)


def judge(gold: str, answer: str) -> dict[str, Any]:
    """Compare two answers with math-verify, gold first; takes as long and as much memory as it takes."""
    from math_verify import parse, verify  # type: ignore[import-untyped, unused-ignore]

    golds = parse(f"${gold}$", parsing_timeout=None)
    if not _expressions(golds):
        return {"correct": False, "reason": "the gold answer can not be read as mathematics", "valid": False}
    answers = parse(f"${answer}$", parsing_timeout=None)
    if not _expressions(answers):
        return {"correct": False, "reason": "can not be read as mathematics", "valid": True}
    if not verify(golds, answers, timeout_seconds=None, allow_set_relation_comp=True):
        return {"correct": False, "reason": "not equal by algebra", "valid": True}
    if not _same_size(_expressions(golds)[0], _expressions(answers)[0]):
        return {"correct": False, "reason": "equal only next to zero", "valid": True}
    return {"correct": True, "reason": "equal by algebra", "valid": True}


def _expressions(parsed: list[Any]) -> list[Any]:
    return [expression for expression in parsed if not isinstance(expression, str)]


def _same_size(gold: Any, answer: Any) -> bool:
    """Whether two numbers agree relative to their size; True for anything else.

    math-verify compares the difference with zero to 15 digits, and decimals to 6 places, so that 1/2004! would
    equal 1/2006!, and 0.0000001 would equal 0.0000002.
    """
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return True
    sizes = [abs(expression.doit().evalf(30)) for expression in (gold, answer)]
    if not all(size.is_Float and size.is_finite for size in sizes):
        return True
    return bool(abs(sizes[0] - sizes[1]) <= max(sizes) / 1000)


@dataclass(kw_only=True, slots=True)
class _Job:
    request: dict[str, Any]
    tries: int = 0
    is_slow: bool = False


@dataclass(kw_only=True, slots=True)
class _Child:
    job: _Job
    pid: int
    ends_at: float
    output: bytes = b""


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
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def serve(self) -> None:
        parent = os.getppid()
        unread = b""
        self.selector.register(self.requests, selectors.EVENT_READ)
        while os.getppid() == parent:
            self.start_children()
            for key, _ in self.selector.select(timeout=_POLL_S):
                if key.fd != self.requests:
                    self.read_child(key.fd)
                    continue
                data = os.read(self.requests, 1 << 16)
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                self.quick.extend(_Job(request=json.loads(line)) for line in lines)
            self.kill_stuck_children()

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
            output, child_output = os.pipe()
            pid = os.fork()
            if pid == 0:
                _run_child(job.request, child_output, time_limit_s, self.memory_limit_mb)
            os.close(child_output)
            self.children[output] = _Child(job=job, pid=pid, ends_at=time.monotonic() + _WALL_LIMIT_S)
            self.selector.register(output, selectors.EVENT_READ)

    def read_child(self, output: int) -> None:
        child = self.children[output]
        data = os.read(output, 1 << 16)
        child.output += data
        if data:
            return
        self.selector.unregister(output)
        os.close(output)
        del self.children[output]
        _, status = os.waitpid(child.pid, 0)
        verdict = self.verdict(child, status)
        if verdict:
            self.send({"id": child.job.request["id"], **verdict})

    def verdict(self, child: _Child, status: int) -> dict[str, Any] | None:
        """What the end of a child means; None if its job was put back into a queue."""
        job = child.job
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if not ended_by and child.output.endswith(b"}"):
            result: dict[str, Any] = json.loads(child.output)
            return result
        if ended_by in (signal.SIGPROF, signal.SIGXCPU):
            if job.is_slow:
                reason = f"takes more than {self.time_limit_s:g} s to compare"
                return {"correct": False, "reason": reason, "valid": True}
            job.is_slow = True
            job.tries = 0
            self.slow.append(job)
            return None
        if ended_by in (signal.SIGKILL, signal.SIGTERM):  # from outside: a person, or the kernel short of memory
            if job.tries >= 2:
                return {"correct": False, "reason": "grading was killed twice from outside", "valid": False}
            (self.slow if job.is_slow else self.quick).append(job)
            return None
        return {"correct": False, "reason": "crashes the comparison", "valid": True}

    def kill_stuck_children(self) -> None:
        now = time.monotonic()
        for child in self.children.values():
            if now > child.ends_at:
                os.kill(child.pid, signal.SIGKILL)

    def kill_children(self) -> None:
        for child in self.children.values():
            os.kill(child.pid, signal.SIGKILL)

    def send(self, reply: dict[str, Any]) -> None:
        _write(self.replies, json.dumps(reply).encode() + b"\n")


def _run_child(request: dict[str, Any], output: int, time_limit_s: float, memory_limit_mb: float) -> None:
    """Judge one answer and end the process, within limits whose breach ends it too."""
    try:
        try:
            _set_limits(time_limit_s, memory_limit_mb)
        except (OSError, ValueError) as error:
            result = {"correct": False, "reason": f"limits can not be set: {error}", "valid": False}
        else:
            result = _judge_safely(request)
        _write(output, json.dumps(result).encode())
    finally:
        os._exit(0)


def _set_limits(time_limit_s: float, memory_limit_mb: float) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, time_limit_s)  # ends even a single long step inside C code
    _limit(resource.RLIMIT_CPU, int(time_limit_s) + 2)
    _limit(resource.RLIMIT_AS, _address_space() + int(memory_limit_mb * 2**20))
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)


def _judge_safely(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return judge(request["gold"], request["answer"])
    except MemoryError:
        return {"correct": False, "reason": "needs too much memory to compare", "valid": True}
    except Exception as error:
        return {"correct": False, "reason": f"can not be compared: {type(error).__name__}", "valid": True}


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
    sys.path[:] = configuration.pop("path")  # what the parent can import, this can import
    requests, replies, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    server = _Server(requests=requests, replies=replies, **configuration)
    try:
        logging.disable(logging.CRITICAL)
        for gold, answer in _WARM_UP:
            judge(gold, answer)
        gc.collect()
        gc.freeze()
    except Exception as error:
        server.send({"fatal": f"{type(error).__name__}: {error}"})
        return 1
    try:
        server.serve()
    except BrokenPipeError:  # the parent is gone
        pass
    finally:
        server.kill_children()
    return 0


if __name__ == "__main__":
    sys.exit(main())
