"""Measure how fast episodes are collected, against a lock-step loop, the bare engine and TRL, in one run.

python benchmarks/rollouts.py --output rollouts.json
python benchmarks/rollouts.py --episodes 64 --loads mixed --contenders ours lock-step
python benchmarks/rollouts.py --device cuda --dtype bfloat16 --model HuggingFaceTB/SmolLM2-135M-Instruct
python benchmarks/rollouts.py --device cuda --dtype bfloat16 --model qwen-7b-shape

Everybody plays the same episodes of `CodeMath-v0` with the same model: it computes every token, but what it writes is
prescribed, so that all write the same. Loads:

- `mixed`: one to four turns with a block, then an answer. The run times of the blocks are drawn log-uniformly.
- `single`: an answer without code.

A block's time passes on a timer instead of in a process. Processes are bounded by the machine (the sandbox lets eight
blocks sleep for each of its slots), and with hundreds of sleepers that bound and not the loop would be measured.

Contenders, each in a process of its own:

- `engine`: all prompts of the single-turn load submitted at once, no environment; the others cannot be faster.
- `lock-step`: all episodes write a turn, then all blocks run, and so on. Within a turn, rows are refilled at once.
- `rounds`: the same with no more environments than ours has: when all of their episodes have ended, the next begin.
- `ours`: `agents.rollout.collector.collect`.
- `TRL`: the generation of its GRPOTrainer, with a tool for the blocks and transformers' `generate`. It runs the tools
  of one episode after those of another, so that it plays no more than `trl_episodes` of the mixed load. It plays with
  the tiny model on a CPU alone.
"""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import torch
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.core.chat import Chat
from agents.core.files import write_json
from agents.core.tables import table
from agents.core.types import EpisodeSpec, Trajectory
from agents.engines.base import Sampling
from agents.models.devices import pick_device
from agents.models.find import resolve_model
from agents.models.load import load_tokenizer
from agents.models.tiny import build_tiny
from agents.rollout.collector import collect
from agents.rollout.envs import EnvPool, EnvResult, open_pool
from agents.rollout.episode import ActiveEpisode, TurnRules
from benchmarks.rollouts_load import FORCE, Load, Script, ScriptedEngine, TimedSandbox, peak_mb, qwen_7b, write_script

Contender = Literal["engine", "lock-step", "rounds", "ours", "TRL"]
MAX_MODEL_LEN = 1024
ENV = {"problems": "products", "prompt": "question", "observation": "feedback"}
SAMPLING = Sampling(max_tokens=MAX_MODEL_LEN)
CALL = '<tool_call>\n{{"name": "run", "arguments": {{"seconds": {seconds:.4f}}}}}\n</tool_call>'
NO_TRL = "TRL: excluded, not installed. Get it by `pip install trl`."
TINY_TRL = "TRL: excluded, it supports only --model tiny, --device cpu and --dtype float32."
QWEN_7B = "qwen-7b-shape"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    episodes: tuple[int, ...] = (64, 256, 1024)
    """How many episodes are collected."""
    loads: tuple[Load, ...] = ("mixed", "single")
    """What is played."""
    contenders: tuple[Contender, ...] = ("engine", "lock-step", "rounds", "ours", "TRL")
    """Who plays."""
    model: str = "tiny"
    """tiny, qwen-7b-shape (fresh weights in Qwen2.5-Math-7B's shape, the tiny one's tokens), a folder or a hub name."""
    device: str = "cpu"
    """cpu, cuda, or auto: cuda where there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the model."""
    trl_episodes: int = 64
    """Most episodes of the mixed load for TRL."""
    rows: int = 64
    """Completions that the engine samples at once."""
    num_envs: int = 256
    """Most environments of ours and of rounds; lock-step has one for every episode."""
    shortest_s: float = 0.005
    """Shortest run time of a block."""
    longest_s: float = 5.0
    """Longest run time of a block."""
    rounds: int = 1
    """Measurements of each contender, interleaved; the table has the medians."""
    threads: int = 1
    """Torch's threads."""
    seed: int = 0
    """Fixes model, episodes and texts."""
    output: Path | None = None
    """Where to write the metrics as JSON."""


def lock_step(envs: EnvPool, engine: ScriptedEngine, chat: Chat, episodes: Sequence[EpisodeSpec]) -> list[Trajectory]:
    """Play an episode in each environment: all write a turn, all are stepped, and so on; then play the next ones."""
    plays = [ActiveEpisode(number=number, episode=episode) for number, episode in enumerate(episodes)]
    for begin in range(0, len(plays), len(envs)):
        _play_round(envs, engine, chat, plays[begin : begin + len(envs)])
    return [play.trajectory(truncated=False) for play in plays]


def _play_round(envs: EnvPool, engine: ScriptedEngine, chat: Chat, plays: Sequence[ActiveEpisode]) -> None:
    for env_id, play in enumerate(plays):
        envs.reset(env_id, seed=play.episode.env_seed, options=play.episode.options)
    active = _receive(envs, len(plays))
    for result in active:
        play = plays[result.env_id]
        play.insert(chat.encode_prompt(result.observation, result.info.get("messages")))
        play.prompt_length = len(play.token_ids)
    while active:
        for result in active:
            play = plays[result.env_id]
            engine.submit(play.number, play.token_ids, SAMPLING, result.scanner)
        done = {}
        while engine.busy:
            done |= {completion.request_id: completion for completion in engine.poll()}
        for result in active:
            play = plays[result.env_id]
            play.completion = done[play.number]
            envs.send(result.env_id, play.completion.text)
        results, active = _receive(envs, len(active)), []
        for result in results:
            play = plays[result.env_id]
            if play.end_turn(result, chat.encode_feedback, TurnRules()):
                engine.release(play.number)
            else:
                play.insert(chat.encode_feedback(result.observation))
                active.append(result)


def _receive(envs: EnvPool, count: int) -> list[EnvResult]:
    results: list[EnvResult] = []
    while len(results) < count:
        results += envs.recv(wait=True)
    return sorted(results, key=lambda result: result.env_id)


def engine_alone(prompts: Sequence[Sequence[int]], engine: ScriptedEngine) -> int:
    """Submit all prompts and wait for their completions; return the number of tokens."""
    for number, prompt in enumerate(prompts):
        engine.submit(number, prompt, SAMPLING)
    tokens = 0
    while engine.busy:
        for completion in engine.poll():
            engine.release(completion.request_id)
            tokens += len(completion.token_ids)
    return tokens


def measure(config: Config, contender: Contender, load: Load, count: int) -> dict[str, Any]:
    """Let one contender play, and return its metrics."""
    torch.set_num_threads(config.threads)
    num_envs = count if contender == "lock-step" else min(count, config.num_envs)
    with (
        tempfile.TemporaryDirectory() as name,
        TimedSandbox() as sandbox,
        closing(open_pool("cir_env:CodeMath-v0", num_envs, sandbox=sandbox, **ENV)) as envs,
    ):
        folder = Path(name)
        build_tiny(folder, config.seed)
        problems = envs.envs[0].get_wrapper_attr("problems")
        draw = random.Random(config.seed)
        times = (config.shortest_s, config.longest_s)
        scripts = [write_script(load, problem.answer, *times, draw) for problem in problems[:count]]
        if contender == "TRL":
            found = trl_generation(folder, [problem.statement for problem in problems[:count]], scripts)
        else:
            found = _measure_ours(config, contender, envs, folder, scripts)
    return {
        "load": load,
        "episodes": count,
        "contender": contender,
        "num_envs": num_envs if contender in ("ours", "lock-step", "rounds") else None,
        **found,
        "episodes_per_s": count / found["seconds"],
        "tokens_per_s": found["tokens"] / found["seconds"],
        "idle": 1 - found.pop("busy_s") / found["seconds"],
    }


def make_engine(config: Config, tiny: Path) -> tuple[Chat, ScriptedEngine]:
    """Load the model and its tokenizer; the folder holds the tiny ones."""
    device, sizes = pick_device(config.device), {"max_num_seqs": config.rows, "max_model_len": MAX_MODEL_LEN}
    own = config.model not in ("tiny", QWEN_7B)
    path = resolve_model(config.model, log=lambda _: None) if own else tiny
    chat = Chat(load_tokenizer(path))
    if config.model != QWEN_7B:
        return chat, ScriptedEngine.from_pretrained(path, chat, dtype=config.dtype, device=device, **sizes)
    model = qwen_7b(device, getattr(torch, config.dtype))
    return chat, ScriptedEngine(model, chat, stop_token_ids=chat.stop_token_ids(None), **sizes)


def _measure_ours(
    config: Config, contender: Contender, envs: EnvPool, folder: Path, scripts: Sequence[Script]
) -> dict[str, Any]:
    chat, engine = make_engine(config, folder)
    episodes = [
        EpisodeSpec(group_id=n, env_seed=n, sampling_seed=n, options={"problem_index": n, "interaction_budget": 4})
        for n in range(len(scripts))
    ]
    engine.prescribe([write_script("single", "1", 1.0, 1.0, random.Random(0))])
    collect(envs, engine, chat, episodes[:1], SAMPLING)
    prompts = [chat.encode_prompt(envs.envs[0].reset(options=each.options)[0]) for each in episodes]
    engine.prescribe(scripts)
    begin, trajectories, tokens = time.perf_counter(), [], 0
    if contender == "engine":
        tokens = engine_alone(prompts, engine)
    elif contender in ("lock-step", "rounds"):
        trajectories = lock_step(envs, engine, chat, episodes)
    else:
        trajectories = collect(envs, engine, chat, episodes, SAMPLING)
    seconds = time.perf_counter() - begin
    tokens += sum(sum(each.action_mask) for each in trajectories)
    return {
        "seconds": seconds,
        "tokens": tokens,
        "busy_s": engine.busy_s,
        "rows_used": tokens / engine.passes / config.rows,
        "rewards": [each.reward for each in trajectories],
        "peak_mb": peak_mb(pick_device(config.device)),
    }


TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{% for call in message.tool_calls or [] %}"
    "{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The tiny model's, with tool calls; the tools' schemas are excluded, which would be most of a prompt of bytes."""


def tool_turns(script: Script) -> list[str]:
    """Return the script's turns with tool calls for blocks, as many bytes as before, the end of sequence counted."""
    calls = [CALL.format(seconds=seconds) for seconds in script.seconds]
    turns = [text[: len(text) - len(call) - 1] + call for text, call in zip(script.turns, calls, strict=False)]
    return [*turns, script.turns[-1]]


def trl_generation(folder: Path, statements: Sequence[str], scripts: Sequence[Script]) -> dict[str, Any]:
    """Let TRL's GRPOTrainer generate the same episodes; what follows its generation is not counted."""
    from datasets import Dataset
    from transformers import LogitsProcessorList, Qwen2ForCausalLM
    from trl import GRPOConfig, GRPOTrainer
    from trl.chat_template_utils import qwen3_template

    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template, tokenizer.response_template = TEMPLATE, qwen3_template
    texts = dict(zip(statements, map(tool_turns, scripts), strict=True))
    seen: dict[str, Any] = {"busy_s": 0.0}

    class Model(Qwen2ForCausalLM):
        def generate(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
            force = partial(_force, _next_texts(tokenizer, texts, input_ids), input_ids.shape[1])
            begin = time.perf_counter()
            out = super().generate(input_ids, logits_processor=LogitsProcessorList([force]), **kwargs)
            seen["busy_s"] += time.perf_counter() - begin
            return out

    class Trainer(GRPOTrainer):
        def _generate(self, prompts: list[Any]) -> Any:
            begin = time.perf_counter()
            out = super()._generate(prompts)
            seen.update(seconds=time.perf_counter() - begin, peak_mb=peak_mb(torch.device("cpu")))
            seen["tokens"] = sum(sum(mask) for mask in out[2]) if out[2] else sum(map(len, out[1]))
            return out

    async def run(seconds: float) -> str:
        """Run a block.

        Args:
            seconds: How long it runs.
        """
        await asyncio.sleep(seconds)
        return "done"

    prompts = [{"prompt": [{"role": "user", "content": statement}]} for statement in statements]
    trainer = Trainer(
        model=Model.from_pretrained(folder),
        processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        tools=[run] if scripts[0].seconds else None,
        train_dataset=Dataset.from_list(prompts),
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            max_completion_length=MAX_MODEL_LEN,
            per_device_train_batch_size=2,
            num_generations=2,
        ),
    )
    trainer.model.generate(torch.tensor([tokenizer.apply_chat_template(prompts[0]["prompt"], return_dict=False)]))
    seen["busy_s"] = 0.0
    trainer._generate_and_score_completions(prompts)
    return seen | {"rows_used": None, "rewards": []}


def _next_texts(tokenizer: Any, texts: dict[str, list[str]], input_ids: torch.Tensor) -> torch.Tensor:
    """Return the tokens that each row is to write next, ended and padded by the end of sequence."""
    end = tokenizer.eos_token_id
    written = []
    for context in tokenizer.batch_decode(input_ids):
        statement = context.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
        turn = texts[statement][context.count("<|im_start|>tool")]
        written.append(torch.tensor([*tokenizer.encode(turn, add_special_tokens=False), end]))
    return torch.nn.utils.rnn.pad_sequence(written, batch_first=True, padding_value=end)


def _force(tokens: torch.Tensor, begin: int, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    step = input_ids.shape[1] - begin
    return scores.scatter(1, tokens[:, step : step + 1], FORCE)


def why_no_trl(config: Config) -> str | None:
    """Return the line that says why TRL can't play, or None if it can."""
    if (config.model, config.device, config.dtype) != ("tiny", "cpu", "float32"):
        return TINY_TRL
    return NO_TRL if importlib.util.find_spec("trl") is None else None


def plan(config: Config) -> list[tuple[Load, int, Contender]]:
    """Return the measurements of one round."""
    return [
        (load, count, contender)
        for load in config.loads
        for count in config.episodes
        for contender in config.contenders
        if not (contender == "engine" and load == "mixed")
        and not (contender == "TRL" and load == "mixed" and count > config.trl_episodes)
        and not (contender == "rounds" and count <= config.num_envs)
    ]


def medians(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of one contender over all rounds."""
    names = ("seconds", "episodes_per_s", "tokens_per_s", "idle", "rows_used", "peak_mb")
    return rows[0] | {n: median(row[n] for row in rows) for n in names if rows[0][n] is not None}


def with_ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row its episodes a second as a multiple of others' on the same load."""
    rates = {(row["load"], row["episodes"], row["contender"]): row["episodes_per_s"] for row in rows}
    others = ("lock-step", "rounds", "engine")
    bases = [{other: rates.get((row["load"], row["episodes"], other)) for other in others} for row in rows]
    return [
        row | {f"to_{other}": None if rate is None else row["episodes_per_s"] / rate for other, rate in base.items()}
        for row, base in zip(rows, bases, strict=True)
    ]


def main(config: Config) -> list[dict[str, Any]]:
    """Measure, print a table, write the metrics and return them."""
    measurements = plan(config)
    reason = why_no_trl(config)
    if reason and "TRL" in config.contenders:
        print(reason)
        measurements = [each for each in measurements if each[2] != "TRL"]
    found: dict[tuple[Load, int, Contender], list[dict[str, Any]]] = {}
    for _ in range(config.rounds):
        for load, count, contender in measurements:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                row = process.submit(measure, config, contender, load, count).result()
            found.setdefault((load, count, contender), []).append(row)
            print(f"{load}, {count}, {contender}: {row['seconds']:.1f} s", flush=True)
    rows = with_ratios([medians(each) for each in found.values()])
    print("\n" + report(rows))
    if config.output is not None:
        write_json(config.output, {"config": config.__dict__, "results": rows})
    return rows


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table; "to" columns are ratios of episodes a second."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "load, episodes, contender": lambda r: f"{r['load']}, {r['episodes']}, {r['contender']}",
        "seconds": lambda r: f"{r['seconds']:.1f}",
        "episodes/s": lambda r: f"{r['episodes_per_s']:.1f}",
        "tokens/s": lambda r: f"{r['tokens_per_s']:.0f}",
        "to lock-step": lambda r: _ratio(r["to_lock-step"]),
        "to rounds": lambda r: _ratio(r["to_rounds"]),
        "to engine": lambda r: _ratio(r["to_engine"]),
        "engine idle, %": lambda r: f"{100 * r['idle']:.0f}",
        "rows used, %": lambda r: "-" if r["rows_used"] is None else f"{100 * r['rows_used']:.0f}",
        "peak MB": lambda r: f"{r['peak_mb']:.0f}",
        "mean reward": lambda r: f"{fmean(r['rewards']):.2f}" if r["rewards"] else "-",
    }
    return table(list(columns), [[show(row) for show in columns.values()] for row in rows])


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
