r"""An episode of `CodeMath-v0` for policies that call a tool instead of writing code blocks.

The call `python(code)` is the action "one block that holds exactly this code", and the last message is the final
answer. Everything else is the environment's own: the prompt, the interaction budget, the sandbox, what is fed back, the
grader and the reward.
"""

import asyncio
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from cir_env.env import CodeMathEnv, Stages, StepResult
from cir_env.episode.prompts import EXHAUSTED

OVER: Final = "This was not run: the episode is over. Give the final answer."
"""What a call is answered with once the sandbox has failed or the transcript is full."""

_NO_CODE: Final = "This was not run: expect `code` to be a string that holds Python, got {}."


class ToolEpisode:
    r"""One episode at a time, for one caller on an event loop; executions and gradings of several overlap there.

    Args:
        arguments: Those of `cir_env.env.CodeMathEnv`. `observation` and `on_exhausted` change nothing here: a call
            beyond the budget is always answered with a line that says so.

    Example:
        >>> from cir_env import Problem, ProblemSet
        >>> problem = Problem(id="1", statement="What is 6 * 7?", answer="42", source="me", subject="products")
        >>> async def play():
        ...     episode = ToolEpisode(problems=ProblemSet([problem]))
        ...     episode.reset(0)
        ...     return await episode.python("print(6 * 7)"), await episode.finish(r"It is \boxed{42}.")
        >>> asyncio.run(play())
        ('```output\n42\n```\n', 1.0)
    """

    def __init__(self, **arguments: Any) -> None:
        self._env = CodeMathEnv(**arguments)

    def reset(self, problem_index: int) -> dict[str, Any]:
        """Begin the episode of a problem, and return the environment's information."""
        _, self.info = self._env.reset(options={"problem_index": problem_index})
        self._reward: float | None = None  # None while the episode goes on
        self._turn = asyncio.Lock()  # a policy may call the tool several times in one message
        return self.info

    @property
    def over(self) -> bool:
        """Whether nothing that the policy does changes the outcome any more."""
        return self._reward is not None

    async def python(self, code: object) -> str:
        """Run code if the budget allows, and return the feedback, or a line that says why it was not run.

        Args:
            code: What the policy asks to run; it need not be a string, or Python.
        """
        async with self._turn:
            if self.over:
                return OVER
            if not self.info["interactions_left"]:
                return EXHAUSTED
            if not isinstance(code, str) or not code.strip():
                return _NO_CODE.format(repr(code) if isinstance(code, str) else type(code).__name__)
            await self._step(self._env.begin_step(as_block(code)))
            return self.info["feedback"] or OVER

    async def finish(self, answer: str) -> float | None:
        """End the episode with the policy's last message, and return its reward.

        Returns:
            The environment's reward, or None for an episode that has to be left out: a fault of ours decided it. Called
            again it returns the same.
        """
        async with self._turn:
            if not self.over:
                await self._step(self._env.begin_step(answer, final=True))
            return self._reward if self.info["reward_valid"] else None

    def close(self) -> None:
        """End what belongs to this episode alone."""
        self._env.close()

    async def _step(self, stages: Stages) -> None:
        _, reward, terminated, truncated, self.info = await _finished(stages)
        if terminated or truncated:
            self._reward = reward


def rows(split: str = "train", **arguments: Any) -> Iterator[dict[str, Any]]:
    """Yield what a data set holds of each problem, in order; the right answer is not among it.

    Args:
        split: "train" or "test".
        arguments: The others of `cir_env.env.CodeMathEnv`, the same as for the episodes.

    Example:
        >>> next(rows(problems="products", prompt="question", split="test"))["prompt"][0]["role"]
        'user'
    """
    env = CodeMathEnv(split=split, **arguments)
    for index in range(len(env.problems)):
        _, info = env.reset(options={"problem_index": index})
        yield {
            "prompt": list(info["messages"]),
            "split": split,
            "problem_index": index,
            "problem_id": info["problem_id"],
        }


def as_block(code: str) -> str:
    r"""Write code as a block that holds exactly this code: its fence is longer than any in the code.

    >>> as_block("print('''\n```\n''')").splitlines()[0]
    '````python'
    """
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}python\n{code}\n{fence}\n"


async def _finished(stages: Stages) -> StepResult:
    """Take a step to its end, and let others work on the event loop while it waits."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            awaited = next(stages)
        except StopIteration as end:
            result: StepResult = end.value
            return result
        done = asyncio.Event()
        awaited.add_done_callback(partial(_wake, loop, done))
        await done.wait()


def _wake(loop: asyncio.AbstractEventLoop, done: asyncio.Event, _: object) -> None:
    loop.call_soon_threadsafe(done.set)
