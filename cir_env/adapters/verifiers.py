r"""`CodeMath-v0` for verifiers: ``pip install -e ".[verifiers]"``.

The id of the task set is ``cir-env-verifiers``. Its configuration contains the arguments of `CodeMathEnv`::

    [env.taskset]
    id = "cir-env-verifiers"
    task.arguments = {problems = "products", interaction_budget = 2}

The same in Python::

    env = load_environment(problems="products", interaction_budget=2)
    async with env.serving():
        episode = await env.run_episode(next(iter(env.taskset)), context)

The policy runs code by calling the tool `python`, and its last message is its answer. Code runs in the sandbox of the
environment and never in the runtime of the agent, for which ``subprocess``, the default here, suffices. A rollout with
an infrastructure error ends with an error and without a reward.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from cir_env.adapters.tools import ToolCall, ToolEpisode, rows
from cir_env.dialects import PYTHON_TOOL
from cir_env.errors import EpisodeError

try:
    import openai
    import verifiers.v1 as vf
    from verifiers.v1.dialects.chat import message_to_wire
except ImportError as error:
    raise ImportError('This adapter needs the library verifiers: pip install -e ".[verifiers]".') from error

__all__ = ["CodeMath", "CodeMathHarness", "CodeMathTaskset", "load_environment"]


class CodeMathTaskConfig(vf.TaskConfig):
    """The configuration of the environment."""

    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `CodeMathEnv`."""


class CodeMathTasksetConfig(vf.TasksetConfig):
    """The configuration of the task set."""

    task: CodeMathTaskConfig = CodeMathTaskConfig()


class CodeMathData(vf.TaskData):
    """The problem of a task, without its right answer."""

    problem_index: int


class CodeMathState(vf.State):
    """The state of one rollout."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    episode: ToolEpisode | None = Field(None, exclude=True)
    """The episode; never serialized."""
    answer: str = ""
    """The text of the policy's last message."""


class CodeMathTask(vf.Task[CodeMathData, CodeMathState, CodeMathTaskConfig]):
    """One problem, with one episode per rollout."""

    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        """Begin the episode."""
        trace.state.episode = ToolEpisode(**self.config.arguments)
        trace.state.episode.reset(self.data.problem_index)

    @vf.reward
    async def codemath(self, trace: vf.Trace) -> float:
        """End the episode with the last message and return its reward.

        Raises:
            EpisodeError: An infrastructure error occurred; verifiers marks the rollout as failed.
        """
        reward = await trace.state.episode.finish(trace.state.answer)
        if reward is None:
            raise EpisodeError("Expect a valid episode, got one with an infrastructure error: see the log.")
        return float(reward)


class CodeMathTaskset(vf.Taskset[CodeMathTask, CodeMathTasksetConfig]):
    """A problem set."""

    def load(self) -> Iterator[CodeMathTask]:
        """Yield the problems in order."""
        for row in rows(**self.config.task.arguments):
            data = CodeMathData(id=row["problem_id"], prompt=row["prompt"], problem_index=row["problem_index"])
            yield CodeMathTask(data, self.config.task)


class CodeMathHarnessConfig(vf.HarnessConfig):
    """The configuration of the harness, which has no options."""


class CodeMathHarness(vf.Harness[CodeMathHarnessConfig]):
    """Queries the model and answers its tool calls, in this process, until it makes no more calls."""

    APPENDS_SYSTEM_PROMPT: ClassVar[bool] = True
    EXECUTES_CODE: ClassVar[bool] = False  # no code in the runtime of the agent
    NEEDS_CONTAINER: ClassVar[bool] = False

    async def launch(  # noqa: PLR0917 - the library's signature
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Play the episode up to, but not including, its last action."""
        episode = trace.state.episode
        system, prompt = self.resolve_prompt(data)
        messages = [{"role": "system", "content": system}] if system else []
        messages += map(message_to_wire, prompt)
        client: Any = openai.AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=None)
        async with client:

            async def ask() -> list[ToolCall]:
                completion = await client.chat.completions.create(
                    model=ctx.model, messages=messages, tools=[PYTHON_TOOL]
                )
                reply = completion.choices[0].message
                messages.append(reply.model_dump(exclude_none=True))
                trace.state.answer = reply.content or ""
                return [
                    ToolCall(each.id, each.function.name, each.function.arguments) for each in reply.tool_calls or ()
                ]

            def tell(call: ToolCall, content: str) -> None:
                messages.append({"role": "tool", "tool_call_id": call.id, "content": content})

            await episode.converse(ask, tell)
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")

    async def cleanup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        """Close the episode, even if the rollout failed."""
        if trace.state.episode is not None:
            trace.state.episode.close()


class CodeMathConfig(vf.EnvConfig):
    """The configuration of the agent."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())


class CodeMath(vf.Env[CodeMathConfig]):
    """An environment with one agent per episode."""

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Let the agent play the task."""
        await agents.agent.run(task)


def load_environment(**arguments: Any) -> vf.Env:
    """Return the environment with these arguments of `CodeMathEnv`; Prime's hub calls this."""
    taskset = {"id": "cir-env-verifiers", "task": {"arguments": arguments}}
    return vf.load_environment(vf.resolve_env_config({"taskset": taskset}))
