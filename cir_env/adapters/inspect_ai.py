r"""`CodeMath-v0` for Inspect: ``pip install -e ".[inspect]"``.

The task takes the arguments of `CodeMathEnv`::

    inspect eval cir_env/codemath --model openai/gpt-5-mini -T problems=benchmark:AIME24 -T interaction_budget=4
    inspect view

The model runs code by calling the tool `python`, in the sandbox of the environment and never in one of Inspect; its
last message is its answer. A sample with an infrastructure error is not scored, and no right answer is in a sample.
``inspect score`` grades the last messages of a log again.
"""

from typing import Any, Literal

from cir_env.adapters.tools import ToolCall, ToolEpisode, rows
from cir_env.dialects import PYTHON_TOOL

try:
    from inspect_ai import Task, task
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ChatMessageTool
    from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, scorer, stderr
    from inspect_ai.solver import Generate, Solver, TaskState, solver
    from inspect_ai.tool import ToolDef, ToolParams
except ImportError:
    raise ImportError('This adapter needs the library inspect-ai: pip install -e ".[inspect]".') from None

__all__ = ["codemath"]


@task
def codemath(split: Literal["train", "test"] | None = None, **arguments: Any) -> Task:
    """Return the task of a problem set.

    Args:
        split: As for `CodeMathEnv`.
        arguments: The other arguments of `CodeMathEnv`.
    """
    arguments["split"] = split
    episodes: dict[str, ToolEpisode] = {}

    def begin(state: TaskState) -> ToolEpisode:
        episodes[state.uuid] = episode = ToolEpisode(**arguments)
        episode.reset(state.metadata["problem_index"])
        return episode

    @solver
    def play() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            episode = begin(state)

            async def python(code: object) -> str:
                return await episode.python(code)

            function = PYTHON_TOOL["function"]
            schema = ToolParams.model_validate(function["parameters"])
            state.tools = [ToolDef(python, function["name"], function["description"], schema).as_tool()]

            async def ask() -> list[ToolCall]:
                await generate(state, tool_calls="none")
                calls = state.output.message.tool_calls or ()
                return [ToolCall(each.id, each.function, each.arguments) for each in calls]

            def tell(call: ToolCall, content: str) -> None:
                state.messages.append(ChatMessageTool(content=content, tool_call_id=call.id, function=call.name))

            await episode.converse(ask, tell)
            return state

        return solve

    @scorer(metrics=[accuracy(), stderr()])
    def grade() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            episode = episodes.get(state.uuid) or begin(state)  # a log that is scored again has none
            reward = await episode.finish(state.output.completion)
            info = episode.info
            found = {"answer": info["predicted"], "explanation": info["reason"], "metadata": {"reward": reward}}
            if reward is None:
                return Score.unscored(reason="infrastructure error", **found)
            return Score(value=CORRECT if info["correct"] else INCORRECT, **found)

        return score

    async def cleanup(state: TaskState) -> None:
        if episode := episodes.pop(state.uuid, None):
            episode.close()

    samples = [
        Sample(id=row["problem_id"], input=row["prompt"], metadata={"problem_index": row["problem_index"]})
        for row in rows(**arguments)
    ]
    return Task(dataset=samples, solver=play(), scorer=grade(), cleanup=cleanup)
