"""Accuracy of a policy on a set of problems: every problem gets the same number of episodes.

``evaluate`` plays one set with an engine that is there already, as the trainer does between steps; ``run`` loads a
model and plays several, as ``evaluate.py`` does. What comes out is put into words by :mod:`agents.report`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from math import comb
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, TextIO

import numpy as np
from tqdm import tqdm

from agents.config import Boundary, ConfigError, expect
from agents.distributed import gather_from, share
from agents.engines.base import Sampling
from agents.envs import EnvPool, open_pool
from agents.metrics import describe, is_correct
from agents.models import load_tokenizer, pick_device, resolve_model
from agents.rollout import collect
from agents.samples import transcript
from agents.types import Episode, Trajectory

if TYPE_CHECKING:
    from agents.chat import Chat
    from agents.engines.base import Engine


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased chance that at least one of ``k`` samples is correct, given ``c`` correct ones of ``n``.

    (arXiv 2107.03374, eq. 1.)

    Raises:
        ValueError: ``k`` is not in 1..n, or ``c`` not in 0..n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"Expect 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}.")
    return 1.0 - comb(n - c, k) / comb(n, k)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The outcome of :func:`evaluate`."""

    num_samples: int
    """Episodes of each problem."""
    trajectories: tuple[Trajectory, ...]
    """All of them, problem by problem."""

    def correct_by_problem(self) -> list[tuple[int, int]]:
        """Return (valid episodes, correct episodes) of each problem."""
        groups: dict[int, list[Trajectory]] = {}
        for t in self.trajectories:
            groups.setdefault(t.group_id, []).append(t)
        return [
            (sum(t.reward_valid for t in group), sum(t.reward_valid and is_correct(t) for t in group))
            for group in groups.values()
        ]

    def figures(self) -> dict[str, float]:
        """Return ``avg@n``, ``pass@k`` for the powers of two up to n, and :func:`agents.metrics.describe`'s figures.

        A problem with fewer than k valid episodes is left out of ``pass@k``.
        """
        counts = self.correct_by_problem()
        n = self.num_samples
        ks = [2**i for i in range(n.bit_length()) if 2**i <= n]
        rates = {f"pass@{k}": [pass_at_k(v, c, k) for v, c in counts if v >= k] for k in sorted({*ks, n})}
        figures = {name: fmean(values) for name, values in rates.items() if values}
        average = [c / v for v, c in counts if v]
        if average:
            figures[f"avg@{n}"] = fmean(average)
        return figures | describe(self.trajectories)

    def accuracy_by(self, key: str) -> dict[str, float]:
        """Return the accuracy of the valid episodes by a string in the environment's info, such as ``subject``."""
        groups: dict[str, list[bool]] = {}
        for t in self.trajectories:
            if t.reward_valid:
                groups.setdefault(str(t.info.get(key, "")), []).append(is_correct(t))
        return {name: fmean(values) for name, values in sorted(groups.items())}


def evaluate(
    envs: EnvPool,
    engine: Engine,
    chat: Chat,
    sampling: Sampling,
    *,
    num_problems: int,
    num_samples: int = 1,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    on_end: Callable[[Trajectory], None] = lambda _: None,
    on_poll: Callable[[], None] = lambda: None,
    boundary: Boundary = "exact",
) -> Evaluation:
    """Play ``num_samples`` episodes of each of the first ``num_problems`` problems.

    Args:
        envs: Copies of the environment. If it has a problem set, problem i is ``problem_index`` i; else it is what
            ``reset(seed=i)`` sets.
        engine: Samples the tokens.
        chat: Encodes prompts and feedback.
        sampling: As for :func:`agents.rollout.collect`.
        num_problems: At most as many as the environment has.
        num_samples: Episodes of each problem.
        seed: Seed of the sampling.
        options: More reset options, such as ``interaction_budget``.
        on_end: Called with each trajectory as it ends.
        on_poll: Called before each of the engine's steps; what it raises ends the evaluation.
        boundary: As for :func:`agents.rollout.collect`.
    """
    available = envs.num_problems
    if available is not None and num_problems > available:
        raise ValueError(f"Expect at most {available} problems, got num_problems={num_problems}.")
    episodes = [
        Episode(
            group_id=problem,
            env_seed=problem,
            sampling_seed=int(np.random.SeedSequence([seed, problem, sample]).generate_state(1, np.uint64)[0]),
            options={**(options or {}), **({} if available is None else {"problem_index": problem})},
            sample=sample,
        )
        for problem in share(range(num_problems))
        for sample in range(num_samples)
    ]
    def play() -> list[Trajectory]:
        return collect(envs, engine, chat, episodes, sampling, on_end=on_end, on_poll=on_poll, boundary=boundary)

    trajectories = sorted(gather_from(play), key=lambda t: t.group_id)
    return Evaluation(num_samples=num_samples, trajectories=tuple(trajectories))


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """An evaluation of one model on one or more sets of problems."""

    model: str
    """Folder, hub name, or "tiny"."""
    template: Literal["chat", "raw"] = "chat"
    """Put prompts into the model's chat template, or take them as they are."""
    benchmarks: Path | None = None
    """Folder with the benchmarks' files; without it, the held-out problems of --problems."""
    names: tuple[str, ...] = ()
    """Benchmarks to take; none named: the five of the paper."""
    limit: int | None = None
    """Only the first so many problems of each benchmark; None: all."""
    problems: str = "products"
    """Without --benchmarks: generator's name, JSONL or Parquet file, or hub:NAME; its test split."""
    num_problems: int = 100
    """How many of --problems, at most."""
    num_samples: str = "16"
    """Samples of each problem: a number, and others for single sets, such as 16,MATH500:1."""
    temperature: float = 1.0
    """Sampling temperature; 0 takes the likeliest token, with one sample of each problem."""
    top_p: float = 0.95
    """Nucleus of the samples."""
    prompt: str = "cir"
    """Name of the prompt template; "text" and a budget of 0 for the chain-of-thought arm."""
    interaction_budget: int = 5
    """Executions per episode."""
    time_limit_s: float = 5.0
    """CPU seconds that one block may take."""
    max_output_chars: int = 400
    """Characters of an execution's result that the policy sees."""
    error_format: Literal["last_line", "full"] = "last_line"
    """How much of a failed block's traceback the policy sees."""
    sandbox: str = "local"
    """Where code runs: local, unsafe, http://HOST:PORT (several with commas), or fusion+http://HOST:PORT."""
    max_completion_length: int = 1024
    """Tokens after the prompt, feedback included."""
    max_model_len: int = 2048
    """Tokens of a whole episode, prompt included."""
    max_num_seqs: int = 32
    """Episodes in flight; each holds a row of the engine's cache."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """dtype of the weights."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """What samples: transformers, vllm, or auto: vllm where it is installed and there is a GPU."""
    seed: int = 0
    """Fixes the sampling."""
    output: Path | None = None
    """The JSON report; the samples go beside it. None: a new file in runs/evaluation."""

    def __post_init__(self) -> None:
        for name in ("num_problems", "max_completion_length", "max_num_seqs"):
            expect(getattr(self, name) >= 1, name, "of at least 1", getattr(self, name))
        expect(self.limit is None or self.limit >= 1, "limit", "of at least 1", self.limit)
        expect(self.interaction_budget >= 0, "interaction_budget", "of at least 0", self.interaction_budget)
        expect(self.temperature >= 0, "temperature", "of at least 0", self.temperature)
        expect(0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        expect(self.seed >= 0, "seed", "of at least 0", self.seed)
        counts = _sample_counts(self.num_samples)
        greedy_repeats = self.temperature == 0 and max(counts.values()) > 1
        expect(not greedy_repeats, "num_samples", "1 with temperature 0 (all would be the same)", self.num_samples)
        room = f"above max_completion_length ({self.max_completion_length})"
        expect(self.max_model_len > self.max_completion_length, "max_model_len", room, self.max_model_len)

    def samples_of(self, names: Iterable[str]) -> dict[str, int]:
        """Return the samples of each problem for the sets called ``names``.

        Raises:
            ConfigError: ``num_samples`` speaks of another set.

        >>> EvalConfig(model="tiny", num_samples="16,MATH500:1").samples_of(["AIME24", "MATH500"])
        {'AIME24': 16, 'MATH500': 1}
        """
        names = list(names)
        counts = _sample_counts(self.num_samples)
        for name in counts.keys() - {*names, ""}:
            raise ConfigError(f"Expect `num_samples` to speak of {', '.join(names)}, got {name!r}.")
        return {name: counts.get(name, counts[""]) for name in names}

    def env_kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments of ``gymnasium.make``, but for the problems."""
        return {
            "prompt": self.prompt,
            "interaction_budget": self.interaction_budget,
            "time_limit_s": self.time_limit_s,
            "max_output_chars": self.max_output_chars,
            "error_format": self.error_format,
            "sandbox": self.sandbox,
            "max_transcript_chars": 32 * self.max_model_len,  # far beyond: length is limited in tokens alone
            "observation": "feedback",
        }


def _open_envs(num_envs: int, **kwargs: Any) -> EnvPool:
    return open_pool("cir_env:CodeMath-v0", num_envs, **kwargs)


def run(
    config: EvalConfig,
    sets: Mapping[str, Sequence[Any]],
    *,
    samples: Path,
    open_envs: Callable[..., EnvPool] = _open_envs,
    load: Callable[[EvalConfig], tuple[Engine, Chat]] | None = None,
) -> dict[str, Evaluation]:
    """Load a model and play every problem of every set.

    Args:
        config: The model, the sampling and the environment.
        sets: Problem sets by name, as the environment takes them for ``problems``.
        samples: A new JSONL file; each transcript is appended as soon as its episode ends.
        open_envs: Called as ``open_envs(num_envs, problems=..., **config.env_kwargs())``; by default CodeMath-v0.
        load: Loads the model; by default :func:`load_engine`. The engine is closed at the end.

    Raises:
        ConfigError: The samples' file is there already, or ``num_samples`` speaks of a set that is not in ``sets``.
        ModelError, ChatError: The model can not be loaded, or not be used as a chat.
    """
    counts = config.samples_of(sets)
    if samples.exists():
        raise ConfigError(f"Expect `output` to be a new file, but {samples} is there: choose another --output.")
    sampling = Sampling(temperature=config.temperature, top_p=config.top_p, max_tokens=config.max_completion_length)
    episodes = {name: counts[name] * len(problems) for name, problems in sets.items()}
    outcome: dict[str, Evaluation] = {}
    with ExitStack() as stack:
        pools: dict[str, EnvPool] = {}
        for name, problems in sets.items():
            num_envs = min(config.max_num_seqs, episodes[name])
            pool = open_envs(num_envs, problems=problems, **config.env_kwargs())
            pools[name] = stack.enter_context(closing(pool))
        engine, chat = (load or load_engine)(config)
        stack.callback(engine.close)
        samples.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(samples.open("x"))
        bar = stack.enter_context(tqdm(total=sum(episodes.values()), unit="sample", dynamic_ncols=True))
        for name, problems in sets.items():
            outcome[name] = evaluate(
                pools[name],
                engine,
                chat,
                sampling,
                num_problems=len(problems),
                num_samples=counts[name],
                seed=config.seed,
                on_end=_recorder(name, file, bar),
            )
    return outcome


def load_engine(config: EvalConfig, *, log: Callable[[str], Any] = print) -> tuple[Engine, Chat]:
    """Return an engine with the configuration's model, and the chat that encodes for it.

    Raises:
        ModelError, ChatError: The model can not be loaded, or not be used as a chat.
    """
    path = resolve_model(config.model, log=log)
    from agents.chat import Chat
    from agents.engines import open_engine

    device = pick_device("auto")
    log(f"Loading {path} on {device}.")
    chat = Chat(load_tokenizer(path), config.template)
    engine = open_engine(
        config.engine,
        path,
        chat,
        dtype=config.dtype,
        device=device,
        max_num_seqs=config.max_num_seqs,
        max_model_len=config.max_model_len,
    )
    return engine, chat


def _recorder(name: str, file: TextIO, bar: tqdm[Any]) -> Callable[[Trajectory], None]:
    """Return a callback that appends a trajectory to the samples and shows the accuracy so far."""
    judged: list[bool] = []
    bar.set_description(name)

    def on_end(trajectory: Trajectory) -> None:
        file.write(json.dumps(transcript(trajectory, set_name=name)) + "\n")
        file.flush()
        judged.extend([is_correct(trajectory)] if trajectory.reward_valid else [])
        bar.set_postfix_str(f"accuracy {fmean(judged):.3f}" if judged else "")
        bar.update()

    return on_end


def _sample_counts(spec: str) -> dict[str, int]:
    """Read ``num_samples``; the number for all is under the empty name."""
    pairs = [part.strip().rpartition(":") for part in spec.split(",")]
    valid = all(count.isdecimal() and int(count) >= 1 for _, _, count in pairs)
    names = [name for name, _, _ in pairs]
    whole = valid and names[0] == "" and len(set(names)) == len(names)
    expect(whole, "num_samples", "like '16' or '16,MATH500:1'", spec)
    return {name: int(count) for name, _, count in pairs}
