r"""Episodes of `CodeMath-v0` for policies that call a tool instead of writing code blocks.

The call `python(code)` becomes an action that consists of one block with exactly this code; the last message is the
final answer. Everything else is as in the environment with `dialect="hermes"`, whose prompts mention the tool and whose
feedback is the content of a tool message: the interaction budget, the sandbox, the grader and the reward.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple

from cir_env.dialects import check_code
from cir_env.env import CodeMathEnv, Stages, StepResult
from cir_env.episode.prompts import EXHAUSTED

OVER: Final = "This was not run: the episode is over. Give the final answer."
"""The response to a call after the sandbox has failed or the transcript is full."""
IN_TEXT: Final = "; code in the text of a message is not executed"
"""Ends the reason of an episode whose last message holds a block, in the episode's own dialect, and no answer."""


class ToolCall(NamedTuple):
    """A call that a policy has made."""

    id: str
    """The id that its response refers to."""
    name: str
    """The tool."""
    arguments: object
    """The arguments, as an object or as JSON."""


class ToolEpisode:
    r"""Runs one episode at a time with tool calls, on an asyncio event loop. Several instances run concurrently.

    Args:
        arguments: Those of `CodeMathEnv`. `observation` and `on_exhausted` have no effect here: a call beyond the
            budget is always answered with a notice. With `dialect="fence"`, the prompt asks for code blocks, which are
            not run, and feedback is in a fence.

    Example:
        >>> from cir_env import Problem, ProblemSet
        >>> problem = Problem(id="1", statement="What is 6 * 7?", answer="42", source="me", subject="products")
        >>> async def play():
        ...     episode = ToolEpisode(problems=ProblemSet([problem]))
        ...     episode.reset(0)
        ...     return await episode.python("print(6 * 7)"), await episode.finish(r"It is \boxed{42}.")
        >>> asyncio.run(play())
        ('42', 1.0)
    """

    def __init__(self, **arguments: Any) -> None:
        self._env = _tool_env(**arguments)

    def reset(self, problem_index: int) -> dict[str, Any]:
        """Begin an episode of the problem with this index, and return its info."""
        _, self.info = self._env.reset(options={"problem_index": problem_index})
        self._reward: float | None = None  # None while the episode is in progress
        self._turn = asyncio.Lock()  # a policy may call the tool several times in one message
        return self.info

    @property
    def over(self) -> bool:
        """Whether the outcome is decided."""
        return self._reward is not None

    async def python(self, code: object) -> str:
        """Run code if the budget allows.

        Args:
            code: The code that the policy wants to run; it need not be a string, nor Python.

        Returns:
            The feedback, or a notice why the code was not run.
        """
        async with self._turn:
            if self.over:
                return OVER
            if not self.info["interactions_left"]:
                return EXHAUSTED
            text, fault = check_code(code)
            if fault:
                return fault
            await self._step(self._env.begin_step(self._env.write_code(text)))
            return OVER if self.over and not self.info["feedback"] else str(self.info["feedback"])

    async def call(self, name: str, arguments: object) -> str:
        """Answer a call of any tool, however malformed.

        Args:
            name: The tool.
            arguments: The arguments, as an object or as JSON.

        Returns:
            As for `python`, or a notice that this was no call of it.
        """
        read = arguments
        if isinstance(arguments, str):
            try:
                read = json.loads(arguments)
            except (ValueError, RecursionError):
                read = None
        if name != "python" or not isinstance(read, Mapping) or "code" not in read:
            shown = arguments if read is None else json.dumps(read, default=str)
            return f'Expect a call of python with {{"code": "..."}}, got {name} with {shown}.'
        return await self.python(read["code"])

    async def converse(
        self, ask: Callable[[], Awaitable[Sequence[ToolCall]]], tell: Callable[[ToolCall, str], object]
    ) -> None:
        """Let a policy play up to, but not including, its last action.

        Args:
            ask: Lets the policy write its next message; returns the calls in it.
            tell: Receives each call with its response.
        """
        for _ in range(self.info["interaction_budget"] + 2):  # each block, a call beyond the budget, and the answer
            calls = await ask()
            for call in calls:
                tell(call, await self.call(call.name, call.arguments))
            if self.over or not calls:
                break

    async def finish(self, answer: str) -> float | None:
        """End the episode with the policy's last message. Later calls return the same reward.

        If it holds code in place of an answer, ``info["reason"]`` says that code in the text is not run.

        Returns:
            The reward, or None if the episode must be dropped because of an infrastructure error.
        """
        async with self._turn:
            if not self.over:
                await self._step(self._env.begin_step(answer, final=True))
                executed = self.info["interaction_budget"] - self.info["interactions_left"]
                if self.info["predicted"] is None and self.info["n_code_blocks"] > executed:
                    self.info["reason"] += IN_TEXT
            return self._reward if self.info["reward_valid"] else None

    def close(self) -> None:
        """Release what belongs to this episode only."""
        self._env.close()

    async def _step(self, stages: Stages) -> None:
        _, reward, terminated, truncated, self.info = await _finished(stages)
        if terminated or truncated:
            self._reward = reward


def rows(split: Literal["train", "test"] | None = None, **arguments: Any) -> Iterator[dict[str, Any]]:
    """Yield the data set row of each problem, in order, without the right answer.

    Args:
        split: As for `CodeMathEnv`.
        arguments: The other arguments of `CodeMathEnv`, the same as for the episodes.

    Yields:
        "prompt" (a chat), "split", "problem_index" and "problem_id".

    Example:
        >>> next(rows(problems="products", prompt="question", split="test"))["prompt"][0]["role"]
        'user'
    """
    env = _tool_env(split=split, **arguments)
    for index in range(len(env.problems)):
        _, info = env.reset(options={"problem_index": index})
        yield {
            "prompt": list(info["messages"]),
            "split": split,
            "problem_index": index,
            "problem_id": info["problem_id"],
        }


def _tool_env(**arguments: Any) -> CodeMathEnv:
    return CodeMathEnv(**({"dialect": "hermes"} | arguments))


async def _finished(stages: Stages) -> StepResult:
    """Run a step to its end without blocking the event loop."""
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
