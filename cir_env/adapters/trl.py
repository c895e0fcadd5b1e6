r"""`CodeMath-v0` for TRL's `GRPOTrainer`: ``pip install "cir-env[trl]"``.

What goes into the trainer is made with the same arguments, those of `cir_env.env.CodeMathEnv`, but for the split::

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

The model's chat template has to support tools. The model calls `python`; its last message is its answer. A rollout that
a fault of ours spoilt gets the reward None, which TRL keeps out of the baseline and gives the advantage 0; beside other
reward functions that return a number for it, it would count after all. Set `max_tool_calling_iterations` to the
interaction budget plus one: a call beyond the budget is answered with a line that says so, and the model may still
answer. TRL 1.16 runs the calls of one batch one after another; gradings overlap.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cir_env.adapters.tools import ToolEpisode, rows
from cir_env.errors import OptionError

if TYPE_CHECKING:
    from datasets import Dataset  # type: ignore[import-not-found, import-untyped, unused-ignore]


class CodeMathTools:
    r"""What `environment_factory` makes, one for each rollout of a batch; its public methods are the model's tools.

    Args:
        arguments: Those of `cir_env.env.CodeMathEnv`. The split is that of each row.

    Example:
        >>> tools = CodeMathTools(problems="products")
        >>> tools.reset(**make_dataset(problems="products")[0])
        >>> asyncio.run(tools.python("print(6 * 7)"))
        '```output\n42\n```\n'
    """

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments
        self._episode = ToolEpisode(**arguments)
        self._episodes: dict[str, ToolEpisode] = {}  # by split

    def reset(self, *, split: str, problem_index: int, problem_id: str, **_: Any) -> None:
        """Begin the episode of a row of `make_dataset`.

        Raises:
            OptionError: The row is of another problem set than this environment.
        """
        if split not in self._episodes:
            self._episodes[split] = ToolEpisode(**(self._arguments | {"split": split}))
        self._episode = self._episodes[split]
        ours = self._episode.reset(problem_index)["problem_id"]
        if ours != problem_id:
            raise OptionError(
                f"Expect a data set and an environment that were made with the same arguments, got problem "
                f"{problem_id!r} and {ours!r} under the index {problem_index}. Pass the same `problems`."
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
        return await self._episode.finish(answers[-1] or "")  # a message that only calls a tool may have none


async def codemath_reward(
    completions: Sequence[Sequence[dict[str, Any]]], environments: Sequence[CodeMathTools], **_: Any
) -> list[float | None]:
    """Return the environments' rewards, with None for each rollout that has to be left out.

    Args:
        completions: The messages of each rollout behind the prompt, tool results among them.
        environments: Those in which the rollouts were made.
    """
    finishing = map(CodeMathTools._finish, environments, completions)
    return list(await asyncio.gather(*finishing))


def make_dataset(**arguments: Any) -> "Dataset":
    """Return the `datasets.Dataset` of a problem set: each prompt as a chat, and where the problem is found again.

    Args:
        arguments: Those of `cir_env.env.CodeMathEnv`, the same as for `CodeMathTools` but for the split.

    Raises:
        ImportError: TRL's requirements are not installed.

    Example:
        >>> make_dataset(problems="products", split="test").column_names
        ['prompt', 'split', 'problem_index', 'problem_id']
    """
    try:
        from datasets import Dataset
    except ImportError:
        raise ImportError('Expect the library datasets, which comes with TRL: pip install "cir-env[trl]".') from None
    return Dataset.from_list(list(rows(**arguments)))
