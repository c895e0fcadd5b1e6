"""The clients that run their own loop, and how each plays the ten episodes of `scripts`.

A new client is a function that plays them, and a row of `CLIENTS`. docs/reference/clients.md has the table that `table`
makes.
"""

import asyncio
import json
import math
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from operator import add
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, Literal

from scripts import SCRIPTS, Played, Script, ScriptedModel, Step, Turn, arguments, play_blocks

from cir_env.adapters.tools import ToolEpisode
from cir_env.env import CodeMathEnv
from cir_env.episode.prompts import join_messages


def play_environment() -> list[Played]:
    """Play with `CodeMathEnv` itself: what the clients with blocks must equal."""
    env = CodeMathEnv(**arguments())

    def step(action: str) -> tuple[str, float | None, bool]:
        _, reward, terminated, truncated, info = env.step(action)
        return info["feedback"], reward if info["reward_valid"] else None, terminated or truncated

    return play_blocks(lambda: (env.reset()[0], step))


def play_tool_episode() -> list[Played]:
    """Play with `ToolEpisode` itself: what the clients with calls must equal."""

    async def play() -> list[Played]:
        played = []
        episode = ToolEpisode(**arguments())
        for script in SCRIPTS.values():
            prompt = join_messages(episode.reset(0)["messages"])
            feedback = [await episode.call(turn.tool, {"code": turn.code}) for turn in script if turn.code is not None]
            played.append(Played(prompt, tuple(feedback), await episode.finish(script[-1].text)))
        return played

    return asyncio.run(play())


# ------------------------------------------------------------------------------------------------------- blocks


def play_gem() -> list[Played]:
    import gem

    import_module("cir_env.adapters.gem")
    env = gem.make("codemath:v0", **arguments())

    def step(action: str) -> tuple[str, float | None, bool]:
        feedback, reward, terminated, truncated, info = env.step(action)
        return feedback, reward if info["reward_valid"] else None, terminated or truncated

    return play_blocks(lambda: (env.reset()[0], step))


def play_skyrl() -> list[Played]:
    import skyrl_gym

    from cir_env.adapters.skyrl import CodeMath, dataset_rows

    skyrl_gym.register(id="codemath", entry_point=CodeMath)
    (row,) = dataset_rows(**arguments())

    def begin() -> tuple[str, Step]:
        env = skyrl_gym.make(row["env_class"], env_config=arguments(), extras=row)

        def step(action: str) -> tuple[str, float | None, bool]:
            result = env.step(action)
            assert action.startswith(result["postprocessed_action"])
            feedback = "".join(message["content"] for message in result["observations"])
            return feedback, result["reward"] if result["metadata"]["reward_valid"] else None, result["done"]

        return join_messages(env.init(row["prompt"])[0]), step

    return play_blocks(begin)


def play_lm_eval() -> list[Played]:
    from lm_eval import evaluate
    from lm_eval.api.model import LM

    from cir_env.adapters.lm_eval import CodeMath, EpisodeModel

    task = CodeMath({"arguments": arguments()})

    class Model(LM):  # type: ignore[misc]
        def __init__(self, script: Script) -> None:
            super().__init__()
            self.turns = [turn.as_block for turn in script]
            self.contexts: list[str] = []

        def generate_until(self, requests: Any) -> list[str]:
            (request,) = requests
            self.contexts.append(request.args[0])
            return [self.turns[len(self.contexts) - 1]]

        loglikelihood = loglikelihood_rolling = generate_until

    played = []
    for script in SCRIPTS.values():
        model = Model(script)
        results = evaluate(EpisodeModel(model, task), {"tasks": {"codemath": task}}, bootstrap_iters=0)
        accuracy = results["samples"]["codemath"][0].get("acc")
        prompt, *later = model.contexts
        before = map(add, model.contexts, model.turns)
        feedback = tuple(context.removeprefix(text) for text, context in zip(before, later, strict=False))
        played.append(Played(prompt, feedback, None if accuracy is None else 2 * accuracy - 1))
    return played


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an ASGI application in a thread; yield its address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="websockets-sansio"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def play_openenv() -> list[Played]:
    from cir_env.adapters.openenv import CodeMathAction, CodeMathClient, make_app

    with serving(make_app(**arguments())) as url, CodeMathClient(base_url=url).sync() as env:

        def step(action: str) -> tuple[str, float | None, bool]:
            result = env.step(CodeMathAction(text=action))
            return result.observation.text, result.reward, result.done

        return play_blocks(lambda: (env.reset(seed=0).observation.text, step))


# ------------------------------------------------------------------------------------------------------- tool calls


WARNINGS_OF_INSPECT = (
    "ignore:The 'initial' parameter is deprecated:DeprecationWarning",
    "ignore:Unclosed <MemoryObject:ResourceWarning",
)


def play_inspect() -> list[Played]:
    from inspect_ai import eval as evaluate
    from inspect_ai.model import ChatMessage, ModelOutput, ModelUsage, get_model

    from cir_env.adapters.inspect_ai import codemath

    script = ScriptedModel()

    def write(messages: Sequence[ChatMessage], *_: Any) -> ModelOutput:
        turn = script.write(sum(message.role == "assistant" for message in messages))
        if turn.code is None:
            output = ModelOutput.from_content("mockllm", turn.text)
        else:
            output = ModelOutput.for_tool_call("mockllm", turn.tool, {"code": turn.code})
        output.usage = ModelUsage()
        return output

    with TemporaryDirectory() as folder:
        (log,) = evaluate(
            codemath(**arguments()),
            model=get_model("mockllm/model", custom_outputs=write),
            epochs=len(SCRIPTS),
            max_samples=1,
            log_dir=folder,
            display="none",
        )
        return [
            Played(
                join_messages(_plain(sample.input)),
                tuple(message.text for message in sample.messages if message.role == "tool"),
                sample.scores["grade"].metadata["reward"],
            )
            for sample in sorted(log.samples, key=lambda sample: sample.epoch)  # read from the folder now
        ]


def play_verifiers() -> list[Played]:
    from verifiers_fakes import call, play, say

    script = ScriptedModel()

    def write(number: int) -> dict[str, Any]:
        turn = script.write(number)
        return say(turn.text) if turn.code is None else call(json.dumps({"code": turn.code}), turn.tool)

    traces, _ = play(write, episodes=len(SCRIPTS), concurrent=False, **arguments())
    return [
        Played(
            join_messages(_plain(trace.task.data.prompt)),
            tuple(message.content for message in trace.tool_messages),
            trace.reward if trace.ok else None,
        )
        for trace in traces
    ]


def play_trl() -> list[Played]:
    from trl import GRPOConfig, GRPOTrainer
    from trl_fakes import call, scripted_model, tool_tokenizer

    from cir_env.adapters.trl import CodeMathTools, codemath_reward, make_dataset

    def write(turn: Turn) -> str:
        return turn.text if turn.code is None else call({"code": turn.code}, turn.tool)

    scripts = [[write(turn) for turn in script] for script in SCRIPTS.values()]
    tokenizer = tool_tokenizer(sorted({message for script in scripts for message in script}))
    seen: list[tuple[Any, ...]] = []

    async def reward(prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        rewards = await codemath_reward(completions, **columns)
        seen.extend(zip(prompts, completions, rewards, strict=True))
        return rewards

    with TemporaryDirectory() as folder:
        GRPOTrainer(
            model=scripted_model(tokenizer, scripts),
            processing_class=tokenizer,
            args=GRPOConfig(
                output_dir=folder,
                max_steps=1,
                per_device_train_batch_size=len(SCRIPTS),
                num_generations=len(SCRIPTS),
                max_completion_length=2_000,
                max_tool_calling_iterations=3,
                save_strategy="no",
                use_cpu=True,
                bf16=False,
                report_to="none",
            ),
            train_dataset=make_dataset(**arguments()),
            environment_factory=partial(CodeMathTools, **arguments()),
            reward_funcs=reward,
        ).train()
    return [
        Played(
            join_messages(prompt),
            tuple(message["content"] for message in completion if message["role"] == "tool"),
            None if reward is None or math.isnan(reward) else reward,
        )
        for prompt, completion, reward in seen
    ]


def _plain(messages: Any) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


# ------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True, kw_only=True)
class Client:
    """A library with its own rollout loop."""

    name: str
    """As people call it."""
    distribution: str
    """As pip calls it."""
    version: str
    """The version that the tests last ran with."""
    extra: str
    """Of this package."""
    use: str
    """What to import or run."""
    writes: Literal["blocks", "calls"]
    """How its policies run code."""
    play: Callable[[], list[Played]]
    """Plays all scripts."""
    differs: tuple[str, ...] = ()
    """Scripts in which the client answers in words of its own."""

    @property
    def module(self) -> str:
        """What to import to see whether it is installed."""
        return {"inspect": "inspect_ai", "skyrl": "skyrl_gym", "lm-eval": "lm_eval"}.get(self.extra, self.extra)


OUTSIDE = {
    "openenv": "OpenEnv needs another mcp than verifiers: pip install -e '.[openenv]' in an environment of its own",
    "gem": "GEM needs an older reasoning-gym: pip install -e '.[gem]' in an environment of its own",
    "lm-eval": "lm_eval brings scipy, which every sandbox would load: pip install -e '.[lm-eval]' elsewhere",
}
"""Why the extra `test` lacks a client's library."""

CLIENTS = (
    Client(
        name="TRL",
        distribution="trl",
        version="1.16.0",
        extra="trl",
        use="`cir_env.adapters.trl`",
        writes="calls",
        play=play_trl,
        differs=("another tool",),
    ),
    Client(
        name="verifiers",
        distribution="verifiers",
        version="0.4.0",
        extra="verifiers",
        use="task set `cir-env-verifiers`",
        writes="calls",
        play=play_verifiers,
    ),
    Client(
        name="Inspect",
        distribution="inspect-ai",
        version="0.3.285",
        extra="inspect",
        use="task `cir_env/codemath`",
        writes="calls",
        play=play_inspect,
    ),
    Client(
        name="OpenEnv",
        distribution="openenv",
        version="0.10.0",
        extra="openenv",
        use="`cir_env.adapters.openenv`",
        writes="blocks",
        play=play_openenv,
    ),
    Client(
        name="SkyRL",
        distribution="skyrl-gym",
        version="0.4.0",
        extra="skyrl",
        use="`cir_env.adapters.skyrl`",
        writes="blocks",
        play=play_skyrl,
    ),
    Client(
        name="GEM",
        distribution="gem-llm",
        version="0.1.0",
        extra="gem",
        use="`cir_env.adapters.gem`",
        writes="blocks",
        play=play_gem,
    ),
    Client(
        name="lm-evaluation-harness",
        distribution="lm_eval",
        version="0.4.13",
        extra="lm-eval",
        use="task `codemath`",
        writes="blocks",
        play=play_lm_eval,
    ),
)


def table() -> str:
    """Return the table of docs/reference/clients.md."""
    lines = [
        "| library | version | extra | use | code as | episodes as in the environment |",
        "|---|---|---|---|---|---|",
    ]
    for client in CLIENTS:
        equal = f"{len(SCRIPTS) - len(client.differs)} of {len(SCRIPTS)}"
        code = {"blocks": "fenced blocks", "calls": "tool calls"}[client.writes]
        lines.append(
            f"| {client.name} | {client.distribution} {client.version} | `{client.extra}` | {client.use} | {code} "
            f"| {equal} |"
        )
    total = len(CLIENTS) * len(SCRIPTS)
    lines.append(f"| all | | | | | {total - sum(len(client.differs) for client in CLIENTS)} of {total} |")
    return "\n".join(lines) + "\n"
