r"""`CodeMath-v0` for TRL's `GRPOTrainer`: ``pip install -e ".[trl]"``.

Create the data sets and the environments with the same arguments of `CodeMathEnv`, except for the split::

    from functools import partial
    from cir_env.adapters.trl import CodeMathTools, codemath_reward, make_dataset

    trainer = GRPOTrainer(
        model,
        args=GRPOConfig(max_tool_calling_iterations=3, ...),
        train_dataset=make_dataset(problems="products"),
        eval_dataset=make_dataset(problems="products", split="test"),
        environment_factory=partial(CodeMathTools, problems="products"),
        reward_funcs=codemath_reward,
    )

The chat template of the model must support tools. The model calls `python`; its last message is its answer. Set
`max_tool_calling_iterations` to the interaction budget plus one: a call beyond the budget is answered with a notice,
after which the model may still answer.

An infrastructure error gives the reward None. TRL excludes such rollouts from the baseline and sets their advantage to
0, unless another reward function returns a number for them. TRL 1.16 executes the calls of a batch sequentially;
gradings are concurrent.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from cir_env.adapters.tools import ToolEpisode, rows
from cir_env.errors import OptionError

if TYPE_CHECKING:
    from datasets import Dataset  # type: ignore[import-not-found, import-untyped, unused-ignore]


class CodeMathTools:
    r"""The environment for `environment_factory`, one per rollout of a batch; its public methods are the model's tools.

    Args:
        arguments: Those of `CodeMathEnv`. Each row determines its own split.

    Example:
        >>> tools = CodeMathTools(problems="products")
        >>> tools.reset(**make_dataset(problems="products")[0])
        >>> asyncio.run(tools.python("print(6 * 7)"))
        '42'
    """

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments
        self._episode = ToolEpisode(**arguments)
        self._episodes: dict[str, ToolEpisode] = {}  # by split

    def reset(self, *, split: str, problem_index: int, problem_id: str, **_: Any) -> None:
        """Begin the episode of a row of `make_dataset`.

        Raises:
            OptionError: The row belongs to another problem set than this environment.
        """
        if split not in self._episodes:
            self._episodes[split] = ToolEpisode(**(self._arguments | {"split": split}))
        self._episode = self._episodes[split]
        own_id = self._episode.reset(problem_index)["problem_id"]
        if own_id != problem_id:
            raise OptionError(
                f"Expect a data set and an environment with the same arguments, got problems {problem_id!r} and "
                f"{own_id!r} at index {problem_index}. Pass the same `problems`."
            )

    async def python(self, code: str) -> str:
        """Run a Python program and return what it printed.

        Args:
            code: The program. Only what it prints is returned.

        Returns:
            What was printed, and the error if the program failed.
        """
        return await self._episode.python(code)

    async def _finish(self, completion: Sequence[dict[str, Any]]) -> float | None:
        """End the episode with the last message that the model wrote."""
        answers = [message.get("content") for message in completion if message["role"] == "assistant"]
        return await self._episode.finish(answers[-1] or "")  # a message with only tool calls may have no content


CodeMathTools.python.__qualname__ = "python"  # TRL shows the model errors such as "python() got an unexpected ..."


async def codemath_reward(
    completions: Sequence[Sequence[dict[str, Any]]], environments: Sequence[CodeMathTools], **_: Any
) -> list[float | None]:
    """Return the rewards of the environments; None for rollouts with an infrastructure error.

    Args:
        completions: The messages of each rollout after the prompt, including tool results.
        environments: The environments of the rollouts.
    """
    finishing = map(CodeMathTools._finish, environments, completions)
    return list(await asyncio.gather(*finishing))


def make_dataset(split: Literal["train", "test"] = "train", **arguments: Any) -> "Dataset":
    """Return the `datasets.Dataset` of a problem set: each prompt as a chat, and the index of its problem.

    Args:
        split: "train" or "test".
        arguments: The other arguments of `CodeMathEnv`, the same as for `CodeMathTools`.

    Raises:
        ImportError: The library datasets is not installed.

    Example:
        >>> make_dataset(problems="products", split="test").column_names
        ['prompt', 'split', 'problem_index', 'problem_id']
    """
    try:
        from datasets import Dataset
    except ImportError:
        raise ImportError('The adapter for TRL needs the library datasets: pip install -e ".[trl]".') from None
    return Dataset.from_list(list(rows(split, **arguments)))
