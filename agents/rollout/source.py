"""Where the trajectories of a run come from: an engine in this process, or engines elsewhere (`agents.cluster`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from agents.core.chat import Chat
from agents.core.types import Collected, Completion, EpisodeSpec, Purpose, Trajectory, seed_of
from agents.engines import open_engine
from agents.engines.base import Sampling, Weights
from agents.models.load import load_tokenizer
from agents.rollout.collector import Collector
from agents.rollout.in_order import Enough, never

if TYPE_CHECKING:
    import torch

    from agents.config.evaluation import EvalConfig
    from agents.config.training import RolloutConfig, TrainConfig
    from agents.engines.base import Engine
    from agents.rollout.envs import EnvPool
    from agents.rollout.episode import TurnRules

T = TypeVar("T")
PROBES = 4
"""Completions of each engine that a weight sync compares."""
PROBE_TOKENS = 8
"""Tokens of each of them, at most."""
_BESIDE_UPDATE = 0.3  # the engine's share of a GPU on which it samples during the update


class Player(Protocol):
    """Plays episodes of one environment; the methods are those of :class:`agents.rollout.collector.Collector`."""

    def collect(
        self,
        episodes: Sequence[EpisodeSpec],
        sampling: Sampling,
        *,
        on_end: Callable[[Trajectory], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
        max_new_tokens: int | None = None,
        enough: Enough = never,
    ) -> Collected | None:
        """Play these episodes; return the groups that are complete, or None if the collection was stopped."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Return what the next collection continues, as JSON data."""
        ...

    def restore(self, data: Mapping[str, Any]) -> None:
        """Restore the state of another player."""
        ...


class Source(Protocol):
    """What samples the episodes of a run, or, with several training processes, this one's share of them."""

    max_model_len: int
    """Maximum tokens per episode, prompt included."""

    @property
    def has_weights(self) -> bool:
        """Whether it can sample: not after a :meth:`sleep` that freed weights."""
        ...

    def player(self, envs: EnvPool) -> Player:
        """Return what plays episodes of an environment."""
        ...

    def share(self, items: Sequence[T]) -> list[T]:
        """Return those of the items that all training processes have in common which this one has to play."""
        ...

    def load_weights(self, version: int, weights: Weights) -> None:
        """Give weights to the engines, as :meth:`agents.engines.base.Engine.load_weights`; a collective call."""
        ...

    def send_weights(self, version: int, weights: Weights) -> Callable[[], None]:
        """Send weights to engines that may be playing; a collective call.

        Returns:
            What lets the engines load them, to be called between two requests.
        """
        ...

    def probe(self, prompt: Sequence[int], *, temperature: float) -> list[Completion]:
        """Return `PROBES` short completions of a prompt by each engine."""
        ...

    def sleep(self) -> None:
        """Free the memory that the update needs; no episode may be playing."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


class LocalSource:
    """An engine in this process; implements `Source`.

    Args:
        engine: Samples the tokens.
        chat: Encodes prompts and feedback.
        rules: Where turns end and which tokens stay.
        in_flight: Most episodes at once; None: as many as there are copies of the environment.
    """

    def __init__(
        self, engine: Engine, chat: Chat, *, rules: TurnRules | None = None, in_flight: int | None = None
    ) -> None:
        self.engine = engine
        self.max_model_len = engine.max_model_len
        self._chat, self._rules, self._in_flight = chat, rules, in_flight

    @property
    def has_weights(self) -> bool:
        """Whether the engine can sample."""
        return self.engine.has_weights

    def player(self, envs: EnvPool) -> Collector:
        """Return a collector."""
        return Collector(envs, self.engine, self._chat, rules=self._rules, in_flight=self._in_flight)

    def share(self, items: Sequence[T]) -> list[T]:
        """Return the share of this process, whose engine plays it."""
        from agents.core import distributed  # imports torch, which the engine may do without

        return distributed.share(items)

    def load_weights(self, version: int, weights: Weights) -> None:
        """Load weights into the engine."""
        self.engine.load_weights(version, weights)

    def send_weights(self, version: int, weights: Weights) -> Callable[[], None]:
        """Return what loads the weights, which stay where they are."""
        return partial(self.load_weights, version, weights)

    def probe(self, prompt: Sequence[int], *, temperature: float) -> list[Completion]:
        """Return completions of a prompt by the engine."""
        return probe(self.engine, prompt, temperature=temperature)

    def sleep(self) -> None:
        """Let the engine sleep."""
        self.engine.sleep()

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def open_chat(config: TrainConfig | EvalConfig, path: Path) -> Chat:
    """Return the chat of a run, with the tokenizer of a model's folder.

    Raises:
        ModelError: The tokenizer cannot be used.
    """
    return Chat(
        load_tokenizer(path),
        config.template,
        template_kwargs=json.loads(config.chat_template_kwargs),
        dialect=config.env.dialect,
    )


def open_run_engine(
    config: TrainConfig,
    path: Path,
    chat: Chat,
    *,
    dtype: str,
    device: torch.device,
    number: int,
    reserved_bytes: int = 0,
    tensor_parallel_size: int = 1,
    log: Callable[[str], Any],
) -> Engine:
    """Return an engine of a run.

    Args:
        config: The run, with a number of rows.
        path: The folder of the model.
        chat: Decodes tokens.
        dtype: Of the weights.
        device: Of the engine.
        number: Which of the run's engines; each has a random stream of its own.
        reserved_bytes: Memory that training will take on the engine's GPU.
        tensor_parallel_size: GPUs of the engine.
        log: Takes lines for the user.

    Raises:
        EngineError, EngineFault: The engine cannot be opened, or there is no room for it.
    """
    rollout = config.rollout
    reproducible = device.type == "cpu" if rollout.reproducible is None else rollout.reproducible
    share = rollout.vllm_gpu_memory_utilization
    if share is None and rollout.steps_ahead and not config.cluster.engines:
        share = _BESIDE_UPDATE
    return open_engine(
        rollout.engine,
        path,
        chat,
        dtype=dtype,
        device=device,
        max_num_seqs=rollout.num_rows,
        max_model_len=rollout.max_model_len,
        gpu_memory_utilization=share,
        reserved_bytes=reserved_bytes,
        tensor_parallel_size=tensor_parallel_size,
        beside_trainer=tensor_parallel_size > 1 and not config.cluster.engines,
        takes_broadcasts=config.cluster.weight_transfer == "nccl",
        seed=None if reproducible else seed_of(config.seed, Purpose.ENGINE, number, bits=31),
        log=log,
    )


def probe(engine: Engine, prompt: Sequence[int], *, temperature: float) -> list[Completion]:
    """Return `PROBES` completions of a prompt by an idle engine."""
    numbers = range(-PROBES, 0)  # ids that no episode uses
    for number in numbers:
        engine.submit(number, prompt, Sampling(temperature=temperature, max_tokens=PROBE_TOKENS, seed=-number))
    completions: list[Completion] = []
    while len(completions) < PROBES:
        completions += engine.poll()
    for number in numbers:
        engine.release(number)
    return completions


def most_in_flight(rollout: RolloutConfig, engine: Engine) -> int | None:
    """Return how many episodes the engine's cache holds, each with half a completion; None: as many as there are."""
    if engine.cache_tokens is None or rollout.num_envs is not None or rollout.max_new_tokens is not None:
        return None
    return max(1, engine.cache_tokens // (rollout.max_model_len - rollout.max_completion_length // 2))
