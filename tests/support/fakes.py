"""Simple in-process fakes of the sandbox, the grader and data sets, which are slow to start."""

import builtins
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from cir_env.env import CodeMathEnv
from cir_env.episode.prompts import render_prompt
from cir_env.errors import GraderUnavailable, SandboxUnavailable
from cir_env.grading.grader import Verdict
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet
from cir_env.sandbox import ExecutionResult, Limits, Status

T = TypeVar("T")


class FakeSession:
    """A namespace that outlives a block."""

    def __init__(self, sandbox: "FakeSandbox") -> None:
        self._sandbox = sandbox
        self._namespace: dict[str, Any] = {}
        self.closed = False

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        return _done(lambda: self.run(code, limits))

    def run(self, code: str, limits: Limits | None = None) -> ExecutionResult:
        return self._sandbox.execute(code, limits, self._namespace)

    def close(self) -> None:
        self.closed = True


class FakeSandbox:
    """Executes trusted code in this process without limits, and records it.

    Args:
        broken: Every execution ends with an infrastructure error.
        unavailable: Every execution raises `SandboxUnavailable`.
    """

    def __init__(self, *, broken: bool = False, unavailable: bool = False) -> None:
        self.broken = broken
        self.unavailable = unavailable
        self.executed: list[str] = []
        self.limits: list[Limits | None] = []
        self.sessions: list[FakeSession] = []
        self.closed = False

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        return _done(lambda: self.run(code, limits))

    def run(self, code: str, limits: Limits | None = None) -> ExecutionResult:
        return self.execute(code, limits, {})

    def open_session(self) -> FakeSession:
        self.sessions.append(FakeSession(self))
        return self.sessions[-1]

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def execute(self, code: str, limits: Limits | None, namespace: dict[str, Any]) -> ExecutionResult:
        if self.unavailable:
            raise SandboxUnavailable("Expect a sandbox, got an unavailable fake.")
        self.executed.append(code)
        self.limits.append(limits)
        if self.broken:
            return ExecutionResult(status=Status.INFRASTRUCTURE, stdout="", error="broken", cpu_seconds=0.0)
        printed: list[str] = []
        namespace["__builtins__"] = vars(builtins) | {"print": lambda *values: printed.append(_line(values))}
        status, error = Status.OK, ""
        try:
            exec(code, namespace)
        except Exception as caught:
            status, error = Status.ERROR, f"{type(caught).__name__}: {caught}"
        return ExecutionResult(status=status, stdout="".join(printed), error=error, cpu_seconds=0.0)


class PatientSandbox(FakeSandbox):
    """Finishes no execution before `number` have started; each prints 6."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.waiting: list[Future[ExecutionResult]] = []

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        self.waiting.append(Future())
        if len(self.waiting) == self.number:
            for future in self.waiting:
                future.set_result(ExecutionResult(status=Status.OK, stdout="6", error="", cpu_seconds=0.0))
        return self.waiting[-1]


class FakeGrader:
    """Accepts answers that are equal as strings, and records them.

    Args:
        valid: Whether its verdicts are valid.
        unavailable: Every grading raises `GraderUnavailable`.
        reason: The reason of its verdicts.
    """

    def __init__(self, *, valid: bool = True, unavailable: bool = False, reason: str = "compared as strings") -> None:
        self.valid = valid
        self.reason = reason
        self.unavailable = unavailable
        self.graded: list[tuple[str, str]] = []
        self.answer_types: list[str] = []

    def grade(self, gold: str, answer: str, answer_type: str = "math") -> Verdict:
        if self.unavailable:
            raise GraderUnavailable("Expect a grader, got an unavailable fake.")
        self.graded.append((gold, answer))
        self.answer_types.append(answer_type)
        return Verdict(correct=gold == answer.strip(), reason=self.reason, valid=self.valid)

    def submit(
        self, gold: str, answer: str, answer_type: str = "math", *, statement: str = "", metadata: object = None
    ) -> "Future[Verdict]":
        return _done(lambda: self.grade(gold, answer, answer_type))

    def close(self) -> None:
        """Nothing is open."""


def products(size: int = 5) -> ProblemSet:
    """Return a few problems: 2 * 3, 3 * 4, ..."""
    return ProblemSet(
        Problem(
            id=f"product-{a}",
            statement=f"What is {a} * {a + 1}?",
            answer=str(a * (a + 1)),
            source="fake",
            subject="products",
        )
        for a in range(2, 2 + size)
    )


CODE = "```python\nprint(2 * 3)\n```\n"
FEEDBACK = "```output\n6\n```\n"
PROMPT = render_prompt("cir", products()[0])


def make(**arguments: Any) -> CodeMathEnv:
    """Make an environment with fakes."""
    return CodeMathEnv(**(fakes() | arguments))


def begun(**arguments: Any) -> CodeMathEnv:
    """Make an environment with fakes, reset to the problem 2 * 3 with the prompt `PROMPT`."""
    env = make(**arguments)
    env.reset(seed=0, options={"problem_index": 0})
    return env


def fakes() -> dict[str, Any]:
    """Return arguments for an environment that starts no process."""
    return {"problems": products(), "sandbox": FakeSandbox(), "grader": FakeGrader()}


def _line(values: tuple[object, ...]) -> str:
    return " ".join(map(str, values)) + "\n"


def _done(work: Callable[[], T]) -> "Future[T]":
    future: Future[T] = Future()
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
    return future


class FakeTable:
    """A stand-in for a data set from the hub, and for its Arrow table."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def with_format(self, kind: str) -> "FakeTable":
        assert kind == "arrow"
        return self

    def iter(self, batch_size: int) -> Iterator["FakeTable"]:
        yield from (FakeTable(self.rows[n : n + batch_size]) for n in range(0, len(self.rows), batch_size))

    def to_pylist(self) -> list[dict[str, Any]]:
        return self.rows
