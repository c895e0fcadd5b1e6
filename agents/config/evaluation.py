"""How an evaluation is done: its configuration, its arms, and the protocols, which are ready configurations.

A protocol is a function that returns a whole configuration; its docstring says what it is for. Every field is a flag of
``evaluate.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from agents.config.cluster import ClusterArguments
from agents.config.served import SERVED, ServedArguments, served_name
from agents.config.shared import (
    CHAT_TEMPLATE_KWARGS,
    EnvArguments,
    Template,
    check_dialect,
    check_template_kwargs,
)
from agents.core.errors import ConfigError, expect

ARMS_IN_WORDS = {
    "code": "with --env.prompt and code; code:8 has another interaction budget",
    "text": "with --text-prompt, without code",
    "neutral": "as code, but errors come without their message",
}
"""The arms, and what they are."""
PAPER_SETS = ("AIME24", "AIME25", "AMC23", "MATH500", "OlymMATH-EN-EASY")
"""The five benchmarks of the paper."""


@dataclass(frozen=True, kw_only=True)
class EvalEnvConfig(EnvArguments):
    """Which environment, and which problems where there are no --benchmarks and --names: their test split."""

    split: Literal["test", "train"] = "test"
    """Which of these problems; train: those of train.py, for samples to learn from."""
    interaction_budget: int = 5
    """Executions per episode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(self.interaction_budget >= 0, "env.interaction_budget", "of at least 0", self.interaction_budget)


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """What is evaluated: a base class, so that --help begins with it."""

    model: tuple[str, ...]
    """Folders, GGUF files, hub names, "tiny", or openai:NAME behind --base-url; evaluated one after another."""
    arms: tuple[str, ...] = ("code",)
    """code, text (--text-prompt, no code), neutral (code, errors without a message); code:8 has another budget."""
    template: Template = "chat"
    """Put prompts into the model's chat template, or take them as they are."""
    chat_template_kwargs: str = CHAT_TEMPLATE_KWARGS
    """Variables of the chat template, as a JSON object; templates ignore those that they do not have."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig(ServedArguments, _Subject):
    """An evaluation of one or more models, each in one or more arms, on one or more sets of problems."""

    benchmarks: Path | None = None
    """Folder with the benchmarks' files, or "hub"; without it --names looks where CIR_BENCHMARKS says."""
    names: tuple[str, ...] = ()
    """Benchmarks, and your own files; none named: the five of the paper, if there is --benchmarks."""
    num_problems: int | None = None
    """Only this many first problems of each set; None: all. Another --env.id without a problem set needs it."""
    num_samples: str = "16"
    """Samples of each problem: a number, and others for single sets, such as 16,MATH500:1."""
    temperature: str = "1.0"
    """Sampling temperature, by set as for --num-samples; 0 takes the likeliest token, with one sample a problem."""
    top_p: float = 0.95
    """Nucleus sampling: probability mass that is kept."""
    top_k: int = 0
    """Draw from this many likeliest tokens; 0: from all. The order is min_p, top_k, top_p."""
    min_p: float = 0.0
    """Draw from tokens with at least this share of the likeliest token's probability; 0: from all."""
    text_prompt: str = "text"
    """Prompt of the arm without code, as for --env.prompt."""
    max_completion_length: int = 1024
    """Tokens after the prompt, feedback included."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """What samples: transformers, vllm, or auto: vllm where it is installed and there is a GPU."""
    max_num_seqs: int = 32
    """Episodes in flight; each holds a row of the engine's cache."""
    max_model_len: int = 2048
    """Tokens of a whole episode, prompt included; an API has its own limit."""
    vllm_gpu_memory_utilization: float = 0.9
    """Share of the GPU's memory that vLLM takes for weights and cache."""
    seed: int = 0
    """Fixes the sampling."""
    output: Path = Path("runs/evaluation")
    """Folder of the runs, one folder each, by model and arm; an existing run resumes."""
    env: EvalEnvConfig = field(default_factory=EvalEnvConfig)
    cluster: ClusterArguments = field(default_factory=ClusterArguments)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("model", "arms"):
            expect(getattr(self, name) != (), name, "to name at least one", getattr(self, name))
        expect(self.max_completion_length >= 1, "max_completion_length", "of at least 1", self.max_completion_length)
        expect(self.num_problems is None or self.num_problems >= 1, "num_problems", "of at least 1", self.num_problems)
        expect(0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        expect(self.top_k >= 0, "top_k", "of at least 0", self.top_k)
        expect(0 <= self.min_p <= 1, "min_p", "in [0, 1]", self.min_p)
        expect(self.seed >= 0, "seed", "of at least 0", self.seed)
        counts, heats = self._counts(), self._temperatures()
        for name in counts.keys() | heats.keys():
            count, heat = counts.get(name, counts[""]), heats.get(name, heats[""])
            expect(heat > 0 or count == 1, "num_samples", "1 with temperature 0 (all would be the same)", count)
        expect(
            self.max_model_len > self.max_completion_length or self.served == self.model,
            "max_model_len",
            f"above max_completion_length ({self.max_completion_length})",
            self.max_model_len,
        )
        expect(SERVED not in self.served, "model", "like 'openai:NAME'", SERVED)
        expect(not self.served or self.template == "chat", "template", f"chat with {SERVED}NAME", self.template)
        expect(
            not self.served or self.env.dialect == "fence", "env.dialect", f"fence with {SERVED}NAME", self.env.dialect
        )
        for arm in self.arms:
            self.env_kwargs(arm)
        engines, env_actors = self.cluster.engines, self.cluster.env_actors
        expect(engines > 0 or not env_actors, "cluster.env_actors", "0 without cluster.engines", env_actors)
        expect(not (engines and self.served), "cluster.engines", f"0 with {SERVED}NAME", engines)
        expect(
            not engines or self.tensor_parallel_size == 1,
            "tensor_parallel_size",
            "1 on a cluster, where cluster.engine_gpus splits a model",
            self.tensor_parallel_size,
        )
        check_dialect(self.env.dialect, self.template)
        spelled = check_template_kwargs(self.chat_template_kwargs, self.template)
        object.__setattr__(self, "chat_template_kwargs", spelled)

    @property
    def served(self) -> tuple[str, ...]:
        """The models behind an API."""
        known = self.model if isinstance(self.model, tuple) else ()  # the command line has not been read yet
        return tuple(model for model in known if served_name(model) is not None)

    @property
    def gpus_of_engine(self) -> int:
        """Among how many GPUs an engine splits a model."""
        return max(self.tensor_parallel_size, self.cluster.engine_gpus)

    @property
    def set_names(self) -> tuple[str, ...]:
        """The sets that are evaluated; none: the held-out problems of the environment."""
        return self.names or (PAPER_SETS if self.benchmarks else ())

    def samples_of(self, names: Iterable[str]) -> dict[str, int]:
        """Return the samples of each problem for the sets called ``names``.

        Raises:
            ConfigError: ``num_samples`` speaks of another set, which is not one of the paper's.

        >>> EvalConfig(model=("tiny",), num_samples="16,MATH500:1").samples_of(["AIME24", "MATH500"])
        {'AIME24': 16, 'MATH500': 1}
        """
        return {name: int(count) for name, count in _of_sets("num_samples", self._counts(), names).items()}

    def temperatures_of(self, names: Iterable[str]) -> dict[str, float]:
        """Return the sampling temperature for the sets called ``names``; errors as for :meth:`samples_of`."""
        return _of_sets("temperature", self._temperatures(), names)

    def env_kwargs(self, arm: str) -> dict[str, Any]:
        """Return the keyword arguments of ``gymnasium.make`` in one arm.

        >>> config = EvalConfig(model=("tiny",))
        >>> [config.env_kwargs(arm)["interaction_budget"] for arm in ("code", "code:8", "text")]
        [5, 8, 0]
        """
        kind, _, budget = arm.partition(":")
        known = kind in ARMS_IN_WORDS and (not budget or budget.isdecimal()) and not (kind == "text" and budget)
        expect(known, "arms", "like code, text, neutral or code:8", arm)
        without = kind == "text"
        return {
            **self.env.kwargs(split=self.env.split),
            "prompt": self.text_prompt if without else self.env.prompt,
            "interaction_budget": 0 if without else int(budget or self.env.interaction_budget),
            "error_format": "neutral" if kind == "neutral" else self.env.error_format,
            "max_transcript_chars": 32 * self.max_model_len,  # far beyond: length is limited in tokens alone
        }

    def _counts(self) -> dict[str, float]:
        return _by_set("num_samples", self.num_samples, r"0*[1-9]\d*", "'16' or '16,MATH500:1'")

    def _temperatures(self) -> dict[str, float]:
        return _by_set("temperature", self.temperature, r"\d+(\.\d*)?|\.\d+", "'1.0' or '1.0,MATH500:0'")


def quick(model: tuple[str, ...]) -> EvalConfig:
    """A first look: four samples of the first 50 problems of each set, 1,024 tokens."""
    return EvalConfig(model=model, num_problems=50, num_samples="4", output=Path("runs/evaluation/quick"))


def paper(model: tuple[str, ...]) -> EvalConfig:
    """The paper's table (arXiv 2505.24480): 16 samples at temperature 1 and top_p 0.95, MATH500 greedily with one.

    At most 5 executions and 16,384 tokens behind the prompt, feedback included. It needs --benchmarks, or the variable
    CIR_BENCHMARKS.
    """
    return EvalConfig(
        model=model,
        names=PAPER_SETS,
        num_samples="16,MATH500:1",
        temperature="1.0,MATH500:0",
        top_p=0.95,
        env=EvalEnvConfig(interaction_budget=5),
        max_completion_length=16_384,
        max_model_len=18_432,
        max_num_seqs=128,
        output=Path("runs/evaluation/paper"),
    )


protocols: Mapping[str, Callable[[tuple[str, ...]], EvalConfig]] = MappingProxyType({"quick": quick, "paper": paper})
"""Protocols by name; the first is the default."""


def folder_name(model: str) -> str:
    """Return a folder's name for a model's.

    >>> folder_name("Qwen/Qwen2.5-Math-7B"), folder_name("runs/x/checkpoint-12/")
    ('Qwen-Qwen2.5-Math-7B', 'runs-x-checkpoint-12')
    """
    return re.sub(r"[^\w.]+", "-", model).strip("-.")[-60:] or "model"


def _by_set(field: str, spec: str, number: str, example: str) -> dict[str, float]:
    """Read a number for all sets, which goes under the empty name, and others for single sets."""
    pairs = [part.strip().rpartition(":") for part in spec.split(",")]
    names = [name for name, _, _ in pairs]
    valid = names[0] == "" and len(set(names)) == len(names)
    expect(valid and all(re.fullmatch(number, value) for _, _, value in pairs), field, f"like {example}", spec)
    return {name: float(value) for name, _, value in pairs}


def _of_sets(field: str, numbers: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    names = list(names)
    for name in sorted(numbers.keys() - {*names, "", *PAPER_SETS}):
        raise ConfigError(f"Expect `{field}` to speak of {', '.join(names)}, got {name!r}.")
    return {name: numbers.get(name, numbers[""]) for name in names}
