"""Keeps a number of rollout actors: starts them, brings them the weights, and replaces those that are lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray.exceptions import ObjectLostError, RayError, RayTaskError

from agents.cluster.actor import Recipe, RolloutActor
from agents.core.errors import EngineFault, one_line

if TYPE_CHECKING:
    from agents.cluster.broadcast import Broadcast
    from agents.cluster.weights import SentWeights

_LOAD_S = 1800.0  # a model may come from a slow disk or network
_TICK_S = 0.1

Stage = Literal["starting", "opening", "loading", "working", "idle"]


@dataclass(kw_only=True)
class _Worker:
    """An actor and its only call in flight."""

    actor: Any
    place: int
    stage: Stage = "starting"
    call: Any = None
    job: int = 0
    deadline: float = float("inf")
    version: int | None = None


@dataclass(kw_only=True)
class News:
    """What has happened since the last look."""

    answers: dict[int, Any] = field(default_factory=dict)
    """By worker."""
    lost: list[int] = field(default_factory=list)
    """Workers that no longer exist."""


class Fleet:
    """Rollout actors, each known by a number that no other one gets.

    Args:
        recipe: How to open an engine.
        broadcast: A faster way for weights to those that are idle; None: there is none.
        log: Takes lines for the user.
    """

    def __init__(self, recipe: Recipe, *, broadcast: Broadcast | None = None, log: Callable[[str], Any]) -> None:
        self._recipe, self._cluster, self._log = recipe, recipe.cluster, log
        self._broadcast = broadcast
        self._weights: SentWeights | None = None
        self._workers: dict[int, _Worker] = {}
        self._count = 0
        self._job = 0
        self._losses: Counter[int] = Counter()  # in a row, by place
        self._room_at = time.monotonic()  # when an actor last had room
        self._warn_of_little_room()
        for place in range(self._cluster.engines):
            self._start(place)

    @property
    def idle(self) -> list[int]:
        """The workers that have the weights and nothing to do."""
        return [number for number, worker in self._workers.items() if worker.stage == "idle"]

    @property
    def is_opening(self) -> bool:
        """Whether an actor that has found room is not ready to work yet."""
        return any(worker.stage in {"opening", "loading"} for worker in self._workers.values())

    def begin_job(self) -> int:
        """Begin a job, whose number is returned: answers to the calls of earlier jobs are dropped."""
        self._job += 1
        return self._job

    def bring(self, weights: SentWeights) -> None:
        """Let every worker load these weights before its next job, now or when it is free."""
        self._weights = weights
        if self._broadcast is not None:
            outcome = self._broadcast.send(weights, {number: self._workers[number].actor for number in self.idle})
            for number in outcome.received:
                self._workers[number].version = weights.version
            for number, reason in outcome.lost.items():
                self._lose(number, reason, News())  # idle: it has no group
        for worker in self._workers.values():
            if worker.stage == "idle":
                self._advance(worker)

    def call(self, number: int, method: str, *arguments: Any) -> None:
        """Call a method of an idle worker's actor; :meth:`wait` returns the answer."""
        self._call(self._workers[number], "working", method, *arguments)

    def wait(self) -> News:
        """Wait a moment for answers; return those of the present job, and which workers were lost.

        Raises:
            EngineFault: No actor finds room, or one after the other is lost.
            Exception: What an actor's method has raised.
        """
        calls = {worker.call: number for number, worker in self._workers.items() if worker.call is not None}
        done: Sequence[Any] = []
        if calls:
            done, _ = ray.wait(list(calls), timeout=_TICK_S)
            more, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
            done = [*dict.fromkeys([*done, *more])]
        else:
            time.sleep(_TICK_S)
        news = News()
        for call in done:
            self._take(calls[call], call, news)
        now = time.monotonic()
        for number, worker in list(self._workers.items()):
            if worker.deadline < now:
                self._lose(number, f"no answer for {now - worker.deadline + self._patience(worker.stage):.0f} s", news)
        self._check_room()
        return news

    def close(self) -> None:
        """End all actors."""
        if self._broadcast is not None:
            self._broadcast.close()
        for worker in self._workers.values():
            ray.kill(worker.actor)
        self._workers.clear()

    def _start(self, place: int) -> None:
        actor = (
            ray.remote(RolloutActor)
            .options(
                num_cpus=self._cluster.engine_cpus,
                num_gpus=self._cluster.engine_gpus,
                scheduling_strategy="SPREAD",
            )
            .remote(self._recipe, place)
        )
        self._workers[self._count] = worker = _Worker(actor=actor, place=place)
        self._count += 1
        self._call(worker, "starting", "start")

    def _call(self, worker: _Worker, stage: Stage, method: str, *arguments: Any) -> None:
        worker.stage, worker.job = stage, self._job
        worker.call = getattr(worker.actor, method).remote(*arguments)
        worker.deadline = time.monotonic() + self._patience(stage)

    def _patience(self, stage: Stage) -> float:
        return {"starting": float("inf"), "working": self._cluster.patience_s}.get(stage, _LOAD_S)

    def _take(self, number: int, call: Any, news: News) -> None:
        """Take the answer to a call."""
        try:
            answer = ray.get(call)
        except RayTaskError as error:
            if isinstance(error.cause, ObjectLostError):  # of a node that is gone
                self._lose(number, one_line(error.cause), news)
                return
            raise error.cause from None
        except RayError as error:
            self._lose(number, one_line(error), news)
            return
        worker = self._workers[number]
        if worker.stage == "working":
            self._losses[worker.place] = 0
            if worker.job == self._job:
                news.answers[number] = answer
        self._advance(worker)

    def _advance(self, worker: _Worker) -> None:
        """Take a worker that has answered one step further."""
        if worker.stage == "starting":
            self._call(worker, "opening", "open")
        elif self._weights is not None and worker.version != self._weights.version:
            worker.version = self._weights.version
            self._call(worker, "loading", "load", self._weights)
        else:
            worker.stage, worker.call, worker.deadline = "idle", None, float("inf")

    def _lose(self, number: int, reason: str, news: News) -> None:
        """Replace a worker; nothing that it still says is heard."""
        worker = self._workers.pop(number)
        ray.kill(worker.actor)
        news.lost.append(number)
        self._losses[worker.place] += 1
        if (losses := self._losses[worker.place]) > self._cluster.max_restarts:
            raise EngineFault(f"Expect an engine that lasts, got {losses} in a row that were lost: {reason}.")
        self._log(f"Engine {worker.place} is lost ({reason}) and is being replaced; its groups are played again.")
        self._start(worker.place)

    def _check_room(self) -> None:
        """Raise an error if no actor has found room for a while."""
        now = time.monotonic()
        if any(worker.stage != "starting" for worker in self._workers.values()):
            self._room_at = now
        if (waited := now - self._room_at) > self._cluster.patience_s:
            raise EngineFault(
                f"Expect room on the cluster for an engine ({self._needs(1)}), got none for {waited:.0f} s."
            )

    def _warn_of_little_room(self) -> None:
        resources: Mapping[str, float] = ray.cluster_resources()
        room = min(
            resources.get(name, 0) // needed
            for name, needed in (("CPU", self._cluster.engine_cpus), ("GPU", self._cluster.engine_gpus))
            if needed
        )
        if room < (count := self._cluster.engines):
            self._log(f"Warning: {count} engines need {self._needs(count)}; the cluster has room for {room:.0f}.")

    def _needs(self, count: int) -> str:
        gpus = f" and {count * self._cluster.engine_gpus} GPUs" if self._cluster.engine_gpus else ""
        return f"{count * self._cluster.engine_cpus} CPUs{gpus}"
