"""An engine with its environments, in a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.cluster.weights import SentWeights
    from agents.config.cluster import ClusterArguments
    from agents.config.training import TrainConfig
    from agents.core.types import Completion, EpisodeSpec
    from agents.engines.base import Sampling
    from agents.rollout.collector import Collector
    from agents.rollout.envs import EnvPool
    from agents.rollout.episode import TurnRules
    from agents.rollout.in_order import Group
    from agents.rollout.source import LocalSource

_SLICE_S = 1.0  # of playing, before the caller hears what has ended and how much room there is


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The engines of a run."""

    cluster: ClusterArguments
    """How many there are, and what each of them gets."""
    open: Callable[[int], LocalSource]
    """Opens one in its process, given its place among those of the run."""
    num_rows: int
    """Episodes that it samples at once."""
    num_envs: int
    """Copies of an environment that it opens."""
    max_model_len: int
    """Maximum tokens per episode, prompt included."""
    folder: str = field(default_factory=os.getcwd)
    """Working directory, for relative paths."""

    @classmethod
    def of(cls, config: TrainConfig, open: Callable[[int], LocalSource]) -> Recipe:
        """Return the engines of a training run.

        Args:
            config: The run, with a number of rows.
            open: As the field; `open_model` where the run's model samples.
        """
        rollout = config.rollout
        return cls(
            cluster=config.cluster,
            open=open,
            num_rows=rollout.num_rows,
            num_envs=rollout.pool_size,
            max_model_len=rollout.max_model_len,
        )


class Copies:
    """Copies of an environment, which engines open; its problems are sent once to each node.

    It is here because actors import the module of what they are sent, and this one imports no torch.

    Args:
        number: No other environment gets it.
        open_envs: Opens that many copies.
    """

    def __init__(self, number: int, open_envs: Callable[[int], EnvPool]) -> None:
        import ray

        self.number = number
        self._stored = ray.put(open_envs)

    def __call__(self, num_envs: int) -> EnvPool:
        """Open copies, in the process of an engine."""
        import ray

        open_envs: Callable[[int], EnvPool] = ray.get(self._stored)
        return open_envs(num_envs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A request of which an engine plays a part."""

    number: int
    """Increases from job to job."""
    envs: int
    """Number of the environments."""
    open_envs: Callable[[int], EnvPool]
    """Opens that many copies of them."""
    needed: Collection[int]
    """Numbers of all environments that are still in use; an engine closes the others."""
    sampling: Sampling
    """How to sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What became of a job since the last report."""

    groups: Sequence[Group]
    """The groups that ended."""
    unfinished: int
    """How many episodes have not ended."""
    metrics: Mapping[str, float]
    """Of the engine's whole part of the job so far."""


class RolloutActor:
    """Plays groups as they come, with an engine in its process; one call at a time.

    Args:
        recipe: How to open the engine.
        number: The engine's place among those of the run.
    """

    def __init__(self, recipe: Recipe, number: int) -> None:
        self._recipe, self._number = recipe, number
        self._envs: dict[int, EnvPool] = {}
        self._collectors: dict[int, Collector] = {}
        self._job = -1
        with suppress(OSError):
            os.chdir(recipe.folder)

    def start(self) -> None:
        """Answer as soon as the process runs, before it imports anything that takes long."""

    def open(self) -> None:
        """Load the model."""
        self._source = self._recipe.open(self._number)

    def load(self, weights: SentWeights) -> None:
        """Load weights, after what is left of the last job is dropped."""
        self._cancel()
        self._source.load_weights(weights.version, weights.receive())

    def join(self, init_info: dict[str, Any]) -> None:
        """Join the group of a trainer that broadcasts; see :meth:`agents.engines.vllm_engine.VllmEngine.join`."""
        engine: Any = self._source.engine
        engine.join(init_info)

    def receive(self, version: int, update_info: dict[str, Any]) -> None:
        """Load weights that the trainer broadcasts, after what is left of the last job is dropped."""
        self._cancel()
        engine: Any = self._source.engine
        engine.receive(version, update_info)

    def probe(self, prompt: Sequence[int], temperature: float) -> list[Completion]:
        """Return short completions of a prompt."""
        return self._source.probe(prompt, temperature=temperature)

    def play(self, job: Job, episodes: Sequence[EpisodeSpec]) -> Report:
        """Take further groups, and play until one has ended or a moment has passed."""
        collector = self._collector(job)
        collector.add(episodes)
        ended: list[Group] = []
        deadline = time.monotonic() + _SLICE_S
        while collector.is_playing and not ended and time.monotonic() < deadline:
            ended += collector.poll()
        return Report(groups=ended, unfinished=collector.unfinished, metrics=collector.metrics())

    def _cancel(self) -> None:
        for collector in self._collectors.values():
            collector.cancel()

    def _collector(self, job: Job) -> Collector:
        if job.number != self._job:
            self._cancel()
            for number in self._envs.keys() - job.needed:
                del self._collectors[number]
                self._envs.pop(number).close()
            if job.envs not in self._envs:
                from agents.cluster.envs import open_copies

                envs = open_copies(job.open_envs, self._recipe.num_envs, self._recipe.cluster)
                self._envs[job.envs] = envs
                self._collectors[job.envs] = self._source.player(envs)
            self._collectors[job.envs].begin(job.sampling)
            self._job = job.number
        return self._collectors[job.envs]


def open_model(config: TrainConfig, dtype: str, rules: TurnRules, number: int) -> LocalSource:
    """Return the run's model as an engine in this process.

    Args:
        config: The run, with a number of rows.
        dtype: Of the engine's weights.
        rules: Where turns end and which tokens stay.
        number: The engine's place among those of the run, for its random stream.
    """
    from agents.models.devices import pick_device
    from agents.models.find import resolve_model
    from agents.rollout.source import LocalSource, most_in_flight, open_chat, open_run_engine

    path = resolve_model(config.model, log=_quietly)
    chat = open_chat(config, path)
    engine = open_run_engine(
        config,
        path,
        chat,
        dtype=dtype,
        device=pick_device("auto" if config.cluster.engine_gpus else "cpu"),
        number=number,
        tensor_parallel_size=max(1, config.cluster.engine_gpus),
        log=_quietly,
    )
    return LocalSource(engine, chat, rules=rules, in_flight=most_in_flight(config.rollout, engine))


def _quietly(line: str) -> None:
    """Drop a line that the trainer has logged already."""
