"""Ten episodes of the problem 2 * 3, which are played through every client; see `clients`."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from fakes import FakeSandbox, products

from cir_env.dialects import FENCE
from cir_env.sandbox import ExecutionResult, Limits, Status, shared_sandbox

BROKEN = "print('the sandbox breaks')"


class BreakableSandbox(FakeSandbox):
    """The local sandbox, which breaks when it is to run `BROKEN`."""

    def submit(self, code: str, limits: Limits | None = None) -> "Future[ExecutionResult]":
        if code != BROKEN:
            return shared_sandbox("local").submit(code, limits)
        future: Future[ExecutionResult] = Future()
        future.set_result(ExecutionResult(status=Status.INFRASTRUCTURE, stdout="", error="broken", cpu_seconds=0.0))
        return future


@dataclass(frozen=True)
class Turn:
    """What the policy does: it runs code, calls another tool, or says something."""

    text: str = ""
    code: str | None = None
    tool: str = "python"

    @property
    def as_block(self) -> str:
        """The turn as text with a fenced block."""
        return self.text if self.code is None else FENCE.write(self.code).replace("python", self.tool, 1)


def run(code: str, tool: str = "python") -> Turn:
    return Turn(code=code, tool=tool)


RIGHT = Turn(r"It is \boxed{6}.")
Script = Sequence[Turn]

SCRIPTS: Mapping[str, Script] = {  # each begins with another turn
    "right": [RIGHT],
    "wrong": [Turn(r"It is \boxed{7}.")],
    "no answer": [Turn("I do not know.")],
    "several blocks": [run("print(2)"), run("print(3)"), RIGHT],
    "an error, then a repair": [run("print(2 / 0)"), run("print(2 * 3)"), RIGHT],
    "budget used up": [run("print('one')"), run("print('two')"), run("print('three')"), RIGHT],
    "no code": [run(" "), RIGHT],
    "another tool": [run("puts 2 * 3", tool="ruby"), RIGHT],
    "time-out": [run("while True: pass"), RIGHT],
    "sandbox error": [run(BROKEN), RIGHT],
}
REWARDS = {
    "blocks": (1.0, -1.0, -1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0, None),
    "calls": (1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, None),
}
"""Their rewards. A block without code, or in another language, is a final answer; a call is always answered."""


def arguments() -> dict[str, Any]:
    """Return the environment's arguments."""
    return {
        "problems": products(1),
        "sandbox": BreakableSandbox(),
        "interaction_budget": 2,
        "time_limit_s": 0.2,
        "on_exhausted": "tell",
    }


@dataclass(frozen=True)
class Played:
    """An episode, as its policy has seen it."""

    prompt: str
    feedback: tuple[str, ...]
    reward: float | None


class ScriptedModel:
    """Plays all scripts, one after the other, for a client with a loop of its own."""

    def __init__(self) -> None:
        self._scripts = iter(SCRIPTS.values())

    def write(self, number: int) -> Turn:
        """Return the next message, by how many the model has written in this episode."""
        if number == 0:
            self._script = next(self._scripts)
        return self._script[number]


Step = Callable[[str], tuple[str, float | None, bool]]
"""From an action to the feedback, the reward, and whether the episode is over."""


def play_blocks(begin: Callable[[], tuple[str, Step]]) -> list[Played]:
    """Play all scripts with an environment that a loop steps.

    Args:
        begin: Begins an episode; returns the prompt and the environment's step.
    """
    played = []
    for script in SCRIPTS.values():
        prompt, step = begin()
        feedback = []
        for turn in script:
            text, reward, over = step(turn.as_block)
            if over:
                break
            feedback.append(text)
        played.append(Played(prompt, tuple(feedback), reward))
    return played
