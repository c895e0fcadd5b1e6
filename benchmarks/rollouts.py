"""Measure how close collecting episodes comes to the possible, beside lock-step loops, TRL and vLLM, in one run.

$ python benchmarks/rollouts.py --output rollouts.json
$ python benchmarks/rollouts.py --episodes 64 --loads mixed --contenders ours lock-step
$ python benchmarks/rollouts.py --loads single --contenders vllm generate --model HuggingFaceTB/SmolLM2-135M-Instruct
$ python benchmarks/rollouts.py --device cuda --dtype bfloat16 --model HuggingFaceTB/SmolLM2-135M-Instruct
$ python benchmarks/rollouts.py --device cuda --dtype bfloat16 --model qwen-7b-shape

Everybody plays the same episodes of `CodeMath-v0` with the same model: it computes every token, but what it writes is
prescribed, so that all write the same. Loads:

- `mixed`: one to four turns with a block, then an answer. The run times of the blocks are drawn log-uniformly.
- `single`: an answer without code.

A block's time passes on a timer instead of in a process. Processes are bounded by the machine (the sandbox lets eight
blocks sleep for each of its slots), and with hundreds of sleepers that bound and not the loop would be measured.

Contenders, each in a process of its own:

- `lock-step`: all episodes write a turn, then all blocks run, and so on. Within a turn, rows are refilled at once.
- `rounds`: the same with no more environments than ours has: when all of their episodes have ended, the next begin.
- `ours`: `agents.rollout.collector.collect`. "To the possible" are its seconds over the larger of two times, measured
  right after it: of the engine alone, which samples the same turns after the same contexts and waits for no block; and
  of the episode whose blocks take longest, collected alone.
- `TRL`: the generation of its GRPOTrainer, with a tool for the blocks and transformers' `generate`. It runs the tools
  of one episode after those of another, so that it plays no more than `trl_episodes` of the mixed load. It plays with
  the tiny model on a CPU alone.
- `transformers`, `vllm`: our engines alone on the single turns, with the prescribed lengths but free tokens.
- `generate`: the same by vLLM's own `LLM.generate`, whose rate the others' are compared with.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
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
from agents.engines.transformers_engine import TransformersEngine
from agents.engines.vllm_engine import VllmEngine, load_llm
from agents.models.devices import pick_device
from agents.models.find import resolve_model
from agents.models.load import load_model, load_tokenizer
from agents.models.tiny import build_tiny
from agents.rollout.collector import collect
from agents.rollout.envs import EnvPool, EnvResult, open_pool
from agents.rollout.episode import ActiveEpisode, TurnRules
from benchmarks.rollouts_load import Load, Script, ScriptedEngine, TimedSandbox, trl_generation, write_script
from benchmarks.trainer_load import Turn, peak_mb, qwen_7b, sample_all

Contender = Literal["ours", "lock-step", "rounds", "TRL", "transformers", "vllm", "generate"]
ALONE: tuple[Contender, ...] = ("transformers", "vllm", "generate")
LIBRARIES = {"TRL": "trl", "vllm": "vllm", "generate": "vllm"}
MAX_MODEL_LEN = 1024
ENV = {"problems": "products", "prompt": "question", "observation": "feedback"}
SAMPLING = Sampling(max_tokens=MAX_MODEL_LEN)
QWEN_7B = "qwen-7b-shape"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    episodes: tuple[int, ...] = (64, 256, 1024)
    """How many episodes are collected."""
    loads: tuple[Load, ...] = ("mixed", "single")
    """What is played."""
    contenders: tuple[Contender, ...] = ("ours", "lock-step", "rounds", "TRL", *ALONE)
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


def turns_of(trajectory: Trajectory) -> list[Turn]:
    """Return the turns of an episode: the context of each, and how many tokens were sampled after it."""
    acts, turns, end = trajectory.action_mask, [], 0
    while True in acts[end:]:
        begin = acts.index(True, end)
        end = acts.index(False, begin) if False in acts[begin:] else len(acts)
        turns.append((trajectory.token_ids[:begin], end - begin))
    return turns


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
            found = trl_generation(folder, [problem.statement for problem in problems[:count]], scripts, MAX_MODEL_LEN)
        else:
            play = measure_alone if contender in ALONE else _measure_ours
            found = play(config, contender, envs, folder, scripts)
    return {
        "load": load,
        "episodes": count,
        "contender": contender,
        "num_envs": num_envs if contender in ("ours", "lock-step", "rounds") else None,
        **found,
        "episodes_per_s": count / found["seconds"],
        "tokens_per_s": found["tokens"] / found["seconds"],
        "idle": None if (busy_s := found.pop("busy_s")) is None else 1 - busy_s / found["seconds"],
    }


def find_model(config: Config, tiny: Path) -> tuple[Path, torch.device, dict[str, int]]:
    """Return the model's folder, or the tiny one's, where it goes, and the sizes of an engine."""
    device, sizes = pick_device(config.device), {"max_num_seqs": config.rows, "max_model_len": MAX_MODEL_LEN}
    own = config.model not in ("tiny", QWEN_7B)
    return resolve_model(config.model, log=lambda _: None) if own else tiny, device, sizes


def make_engine(config: Config, tiny: Path) -> tuple[Chat, ScriptedEngine]:
    """Load the model and its tokenizer; the folder holds the tiny ones."""
    path, device, sizes = find_model(config, tiny)
    chat = Chat(load_tokenizer(path))
    if config.model != QWEN_7B:
        return chat, ScriptedEngine.from_pretrained(path, chat, dtype=config.dtype, device=device, **sizes)
    model = qwen_7b(device, getattr(torch, config.dtype))
    return chat, ScriptedEngine(model, chat, stop_token_ids=chat.stop_token_ids(None), **sizes)


def _measure_ours(
    config: Config, contender: Contender, envs: EnvPool, folder: Path, scripts: Sequence[Script]
) -> dict[str, Any]:
    chat, engine = make_engine(config, folder)
    episodes = _episodes(scripts)
    ours = partial(collect, envs, engine, chat, sampling=SAMPLING)
    play = ours if contender == "ours" else partial(lock_step, envs, engine, chat)
    _timed(ours, episodes[:1], engine, [write_script("single", "1", 1.0, 1.0, random.Random(0))])
    trajectories, seconds = _timed(play, episodes, engine, scripts)
    tokens = sum(sum(each.action_mask) for each in trajectories)
    found = {
        "seconds": seconds,
        "tokens": tokens,
        "busy_s": engine.busy_s,
        "rows_used": tokens / engine.passes / config.rows,
        "rewards": [each.reward for each in trajectories],
        "peak_mb": peak_mb(pick_device(config.device)),
    }
    if contender == "ours":
        _, engine_s = _timed(partial(sample_all, engine), [turns_of(each) for each in trajectories], engine, scripts)
        n = max(range(len(scripts)), key=lambda n: (sum(scripts[n].seconds), len("".join(scripts[n].turns))))
        _, longest_s = _timed(ours, episodes[n : n + 1], engine, scripts[n : n + 1])
        found |= {"engine_s": engine_s, "longest_s": longest_s, "to_possible": seconds / max(engine_s, longest_s)}
    return found


def _timed(
    play: Callable[[Sequence[Any]], Any], items: Sequence[Any], engine: ScriptedEngine, scripts: Sequence[Script]
) -> tuple[Any, float]:
    """Play with an engine that has nothing cached; return what comes of it, and the seconds."""
    engine.sleep()
    engine.prescribe(scripts)
    begin = time.perf_counter()
    return play(items), time.perf_counter() - begin


def _episodes(scripts: Sequence[Script]) -> list[EpisodeSpec]:
    return [
        EpisodeSpec(group_id=n, env_seed=n, sampling_seed=n, options={"problem_index": n, "interaction_budget": 4})
        for n in range(len(scripts))
    ]


def measure_alone(
    config: Config, contender: Contender, envs: EnvPool, tiny: Path, scripts: Sequence[Script]
) -> dict[str, Any]:
    """Let an engine, or vLLM's own loop, sample as many free tokens as the single turns have."""
    path, device, sizes = find_model(config, tiny)
    chat = Chat(load_tokenizer(path))
    prompts = [chat.encode_prompt(envs.envs[0].reset(options=each.options)[0]) for each in _episodes(scripts)]
    lengths = [len(chat.encode_feedback(script.turns[0])) + 1 for script in scripts]
    requests = [[turn] for turn in zip(prompts, lengths, strict=True)]
    if contender == "generate":
        sample = vllm_generate(path, config.dtype, sizes)
    elif contender == "vllm":
        llm = load_llm(path, dtype=config.dtype, **sizes)
        engine = VllmEngine(llm, chat, stop_token_ids=(), max_model_len=MAX_MODEL_LEN, owns_llm=True)
        sample = partial(sample_all, engine)
    else:
        model = torch.nn.Module.to(load_model(path, config.dtype), device)
        sample = partial(sample_all, TransformersEngine(model, chat, stop_token_ids=(), **sizes))
    sample(requests[:2])
    begin = time.perf_counter()
    sample(requests)
    seconds, unknown = time.perf_counter() - begin, dict.fromkeys(("busy_s", "rows_used"))
    return {"seconds": seconds, "tokens": sum(lengths), "rewards": [], "peak_mb": peak_mb(device), **unknown}


def vllm_generate(path: Path, dtype: str, sizes: dict[str, int]) -> Callable[[Sequence[Sequence[Turn]]], Any]:
    """Return vLLM's own `LLM.generate`, for requests of one turn; settings are its own but for those of `load_llm`."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # as ours, like the cache of 1 GiB
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams

    eager = not torch.cuda.is_available()
    llm = LLM(str(path), skip_tokenizer_init=True, dtype=dtype, enforce_eager=eager, **sizes)

    def generate(requests: Sequence[Sequence[Turn]]) -> Any:
        turns = [turn for (turn,) in requests]
        params = [SamplingParams(max_tokens=n, logprobs=0, ignore_eos=True, detokenize=False) for _, n in turns]
        return llm.generate([{"prompt_token_ids": context} for context, _ in turns], params, use_tqdm=False)

    return generate


def why_not(config: Config, contender: Contender) -> str | None:
    """Return the line that says why a contender can't play, or None if it can."""
    library = LIBRARIES.get(contender)
    if library is not None and importlib.util.find_spec(library) is None:
        return f"{contender}: excluded, {library} is not installed."
    if contender == "TRL" and (config.model, config.device, config.dtype) != ("tiny", "cpu", "float32"):
        return "TRL: excluded, it supports only --model tiny, --device cpu and --dtype float32."
    if contender in ALONE and config.model in ((QWEN_7B,) if library is None else ("tiny", QWEN_7B)):
        return f"{contender}: excluded, it does not support --model {config.model}."
    return None


def plan(config: Config) -> list[tuple[Load, int, Contender]]:
    """Return the measurements of one round."""
    return [
        (load, count, contender)
        for load in config.loads
        for count in config.episodes
        for contender in config.contenders
        if why_not(config, contender) is None
        and not (contender in ALONE and load == "mixed")
        and not (contender == "TRL" and load == "mixed" and count > config.trl_episodes)
        and not (contender == "rounds" and count <= config.num_envs)
    ]


def medians(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of one contender over all rounds."""
    names = ("seconds", "episodes_per_s", "tokens_per_s", "idle", "rows_used", "peak_mb")
    names += ("engine_s", "longest_s", "to_possible")
    return rows[0] | {n: median(row[n] for row in rows) for n in names if rows[0].get(n) is not None}


def with_ratios(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row its episodes a second as a multiple of others' on the same load."""
    rates = {(row["load"], row["episodes"], row["contender"]): row["episodes_per_s"] for row in rows}
    others = ("lock-step", "rounds", "generate")
    bases = [{other: rates.get((row["load"], row["episodes"], other)) for other in others} for row in rows]
    return [
        row | {f"to_{other}": None if rate is None else row["episodes_per_s"] / rate for other, rate in base.items()}
        for row, base in zip(rows, bases, strict=True)
    ]


def main(config: Config) -> list[dict[str, Any]]:
    """Measure, print a table, write the metrics and return them."""
    print(*filter(None, (why_not(config, contender) for contender in config.contenders)), sep="\n")
    found: dict[tuple[Load, int, Contender], list[dict[str, Any]]] = {}
    for _ in range(config.rounds):
        for load, count, contender in plan(config):
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
    """Return the rows as a table; seconds to the possible, the other "to" columns are ratios of episodes a second."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "load, episodes, contender": lambda r: f"{r['load']}, {r['episodes']}, {r['contender']}",
        "to the possible": lambda r: _show(r.get("to_possible")),
        "seconds": lambda r: f"{r['seconds']:.1f}",
        "engine alone": lambda r: _show(r.get("engine_s"), ".1f"),
        "longest episode": lambda r: _show(r.get("longest_s"), ".1f"),
        "tokens/s": lambda r: f"{r['tokens_per_s']:.0f}",
        "to lock-step": lambda r: _show(r["to_lock-step"]),
        "to rounds": lambda r: _show(r["to_rounds"]),
        "to generate": lambda r: _show(r["to_generate"]),
        "engine idle": lambda r: _show(r["idle"], ".0%"),
        "rows used": lambda r: _show(r["rows_used"], ".0%"),
        "peak MB": lambda r: f"{r['peak_mb']:.0f}",
        "mean reward": lambda r: f"{fmean(r['rewards']):.2f}" if r["rewards"] else "-",
    }
    return table(list(columns), [[show(row) for show in columns.values()] for row in rows])


def _show(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
