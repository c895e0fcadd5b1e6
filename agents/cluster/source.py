"""The engines of a cluster as the source of a run's trajectories."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from agents.cluster.actor import Copies, Job, Recipe
from agents.cluster.connect import connect
from agents.cluster.queue import GroupQueue
from agents.cluster.weights import ObjectStore, WeightChannel
from agents.core import distributed
from agents.core.errors import expect
from agents.core.types import Collected, Completion, EpisodeSpec, Trajectory
from agents.engines.base import Sampling, Weights
from agents.rollout.collector import over_processes
from agents.rollout.in_order import Enough, never

if TYPE_CHECKING:
    from agents.cluster.broadcast import Broadcast
    from agents.cluster.fleet import Fleet
    from agents.rollout.envs import EnvPool

T = TypeVar("T")


def open_source(
    recipe: Recipe, *, broadcast: Broadcast | None = None, log: Callable[[str], Any]
) -> ClusterSource | Elsewhere:
    """Return the source of a training process: the first one has the cluster's engines."""
    if distributed.rank() == 0:
        return ClusterSource(recipe, broadcast=broadcast, log=log)
    return Elsewhere(recipe.max_model_len)


class ClusterSource:
    """Plays requests on all engines of a cluster; implements :class:`agents.rollout.source.Source`.

    Args:
        recipe: How to open an engine.
        channel: Takes the weights there.
        broadcast: A faster way for those engines that are idle; None: there is none.
        log: Takes lines for the user.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        channel: WeightChannel | None = None,
        broadcast: Broadcast | None = None,
        log: Callable[[str], Any],
    ) -> None:
        connect()
        from agents.cluster.fleet import Fleet  # imports ray

        self.max_model_len = recipe.max_model_len
        self.has_weights = False
        self._capacity = recipe.num_rows
        self._channel = channel or ObjectStore()
        self._fleet = Fleet(recipe, broadcast=broadcast, log=log)
        self._envs: WeakKeyDictionary[EnvPool, Copies] = WeakKeyDictionary()
        self._numbers = count()

    def player(self, envs: EnvPool) -> ClusterPlayer:
        """Return what plays episodes in copies of an environment that the engines open."""
        if envs not in self._envs:
            self._envs[envs] = Copies(next(self._numbers), envs.open_others)
        needed = frozenset(copies.number for copies in self._envs.values())
        return ClusterPlayer(self._fleet, self._envs[envs], needed, capacity=self._capacity)

    def share(self, items: Sequence[T]) -> list[T]:
        """Return all items."""
        return list(items)

    def load_weights(self, version: int, weights: Weights) -> None:
        """Send weights to the engines, also to those that start later."""
        self.send_weights(version, weights)()

    def send_weights(self, version: int, weights: Weights) -> Callable[[], None]:
        """Put weights where the engines can reach them; return what lets the engines load them."""
        sent = self._channel.send(version, weights)
        self.has_weights = True
        return lambda: self._fleet.bring(sent)

    def probe(self, prompt: Sequence[int], *, temperature: float) -> list[Completion]:
        """Return completions of a prompt by each engine that has found room, once it has loaded the weights."""
        self._fleet.begin_job()
        probed: dict[int, list[Completion]] = {}
        asked: set[int] = set()
        while not probed or self._fleet.is_opening or probed.keys() != asked:
            for number in set(self._fleet.idle) - asked:
                asked.add(number)
                self._fleet.call(number, "probe", prompt, temperature)
            news = self._fleet.wait()
            probed |= news.answers
            asked.difference_update(news.lost)
            probed = {number: completions for number, completions in probed.items() if number in asked}
        return [completion for completions in probed.values() for completion in completions]

    def sleep(self) -> None:
        """Leave the engines as they are: they share no memory with the update."""

    def close(self) -> None:
        """End the engines."""
        self._fleet.close()


class _PausesNothing:
    """The state between collections of a player that pauses no episode."""

    def as_json(self) -> dict[str, Any]:
        """Return that no episode is paused."""
        return {"count": 0, "groups": {}, "plays": []}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Restore nothing: no episode is paused."""


class ClusterPlayer(_PausesNothing):
    """Plays episodes of one environment on all engines; implements :class:`agents.rollout.source.Player`.

    Args:
        fleet: The engines.
        envs: Copies of the environment.
        needed: Numbers of the environments that are still in use.
        capacity: Episodes that an engine plays at once.
    """

    def __init__(self, fleet: Fleet, envs: Copies, needed: Collection[int], *, capacity: int) -> None:
        self._fleet, self._envs, self._needed, self._capacity = fleet, envs, needed, capacity

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
        """Play these episodes to their end; see :meth:`agents.rollout.collector.Collector.collect`."""
        expect(max_new_tokens is None, "rollout.max_new_tokens", "None on a cluster", max_new_tokens)
        begin = time.perf_counter()
        queue = GroupQueue(episodes, capacity=self._capacity, enough=enough)
        number = self._fleet.begin_job()
        job = Job(number=number, envs=self._envs.number, open_envs=self._envs, needed=self._needed, sampling=sampling)
        unfinished: dict[int, int] = {}
        metrics: dict[int, Mapping[str, float]] = {}
        while not queue.is_done:
            if should_stop():
                return None
            # groups -> engines
            idle = {worker: unfinished.get(worker, 0) for worker in self._fleet.idle}
            dealt = queue.deal(idle)
            for worker, left in idle.items():
                if left or worker in dealt:
                    self._fleet.call(worker, "play", job, dealt.get(worker, []))
            # engines -> groups
            news = self._fleet.wait()
            for worker, report in news.answers.items():
                unfinished[worker], metrics[worker] = report.unfinished, report.metrics
                for group in report.groups:
                    if queue.put(worker, group):
                        for trajectory in group:
                            on_end(trajectory)
            for worker in news.lost:
                queue.lose(worker)
        spent = over_processes(list(metrics.values())) if metrics else {}
        whole = {"time/sampling_s": time.perf_counter() - begin}
        return Collected(trajectories=queue.trajectories(), metrics=spent | whole)


class Elsewhere(_PausesNothing):
    """The source of a training process beside the first, which plays nothing.

    It implements :class:`agents.rollout.source.Source`, and is a player as well.

    Args:
        max_model_len: Maximum tokens per episode.
    """

    has_weights = True

    def __init__(self, max_model_len: int) -> None:
        self.max_model_len = max_model_len

    def player(self, envs: EnvPool) -> Elsewhere:
        """Return itself."""
        return self

    def share(self, items: Sequence[T]) -> list[T]:
        """Return no item."""
        return []

    def collect(self, episodes: Sequence[EpisodeSpec], sampling: Sampling, **_: Any) -> Collected:
        """Return nothing."""
        return Collected(trajectories=(), metrics={})

    def load_weights(self, version: int, weights: Weights) -> None:
        """Read the weights, since that is a collective call."""
        self.send_weights(version, weights)

    def send_weights(self, version: int, weights: Weights) -> Callable[[], None]:
        """Read the weights; there is no engine that would load them."""
        for _ in weights.tensors:
            pass
        return lambda: None

    def probe(self, prompt: Sequence[int], *, temperature: float) -> list[Completion]:
        """Return nothing."""
        return []

    def sleep(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
