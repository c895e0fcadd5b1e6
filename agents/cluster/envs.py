"""Environments in processes of their own, on any node with CPUs, for an engine elsewhere."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from agents.cluster.connect import connect
from agents.core.errors import EngineFault, one_line
from agents.rollout.envs import EnvPool, EnvResult
from agents.rollout.source import LocalSource

if TYPE_CHECKING:
    from agents.config.cluster import ClusterArguments
    from agents.core.chat import Chat
    from agents.engines.base import Engine
    from agents.rollout.collector import Collector
    from agents.rollout.episode import TurnRules

_LOG = logging.getLogger("agents")
_SLICE_S = 0.02  # of waiting for a copy, before further actions are taken
_LOOK_S = 0.001
_TICK_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reset:
    """The beginning of an episode."""

    seed: int
    options: Mapping[str, Any]


_Command: TypeAlias = _Reset | str
"""A reset, or an action."""


@dataclass(kw_only=True, slots=True)
class _Play:
    """An episode of a copy, so that it can be played again."""

    commands: list[_Command]
    """The reset and the actions so far."""
    results: list[EnvResult] = field(default_factory=list)
    """Of those that have been answered."""
    is_broken: bool = False
    """Whether the same commands have led to another state in another process."""

    @property
    def is_waiting(self) -> bool:
        """Whether the last command has not been answered."""
        return len(self.results) < len(self.commands)


class EnvActor:
    """Copies of an environment, in a process of their own; one call at a time.

    Args:
        open_envs: Opens that many copies.
        folder: Working directory of the trainer, for relative paths.
    """

    def __init__(self, open_envs: Callable[[int], EnvPool], folder: str) -> None:
        self._open_envs = open_envs
        with suppress(OSError):
            os.chdir(folder)

    def open(self, count: int, plays: Mapping[int, _Play]) -> list[int]:
        """Open copies and play what others have played; return those that come to another state."""
        self._envs = self._open_envs(count)
        for env_id, play in plays.items():
            self._do(env_id, play.commands[0])
        steps = dict.fromkeys(plays, 0)
        others = []
        while steps:
            for result in self._envs.recv(wait=True):
                step, play = steps.pop(result.env_id), plays[result.env_id]
                if _outcome(result) != _outcome(play.results[step]):
                    others.append(result.env_id)
                elif step + 1 < len(play.results):
                    steps[result.env_id] = step + 1
                    self._do(result.env_id, play.commands[step + 1])
        return others

    def step(self, commands: Mapping[int, _Command]) -> list[EnvResult]:
        """Pass commands to copies; return those that are done, at once if there are any, else after a moment."""
        deadline = time.monotonic() + _SLICE_S
        for env_id, command in commands.items():
            self._do(env_id, command)
        while not (results := self._envs.recv(wait=False)) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return results

    def _do(self, env_id: int, command: _Command) -> None:
        if isinstance(command, _Reset):
            self._envs.reset(env_id, seed=command.seed, options=command.options)
        else:
            self._envs.send(env_id, command)


def _outcome(result: EnvResult) -> tuple[object, ...]:
    """Return what a policy and a trainer see of a result."""
    return result.observation, result.reward, result.terminated, result.truncated


def _invalid(play: _Play, env_id: int) -> EnvResult:
    """Return the end of an episode that says nothing about the policy."""
    last = play.results[-1]
    info = {**last.info, "reward_valid": False}
    return replace(last, env_id=env_id, observation="", reward=0.0, truncated=True, info=info, scanner=None)


@dataclass(kw_only=True, slots=True)
class _Worker:
    """An actor with its copies and its only call in flight."""

    env_ids: range
    """Of its copies, which it numbers from 0 itself."""
    plays: dict[int, _Play] = field(default_factory=dict)
    to_do: set[int] = field(default_factory=set)
    """The copies whose last command was not sent yet."""
    actor: Any = None
    call: Any = None
    is_open: bool = False
    deadline: float = float("inf")
    losses: int = 0
    """In a row."""

    @property
    def is_waiting(self) -> bool:
        """Whether a copy has not answered."""
        return any(play.is_waiting for play in self.plays.values())

    def end(self) -> None:
        """End the actor; the next one is to answer all that has no answer."""
        import ray

        if self.actor is not None:
            ray.kill(self.actor)
        self.actor, self.call, self.deadline = None, None, float("inf")
        self.to_do = {number for number, play in self.plays.items() if play.is_waiting}

    def forget(self) -> None:
        """End the actor and drop its episodes."""
        self.plays.clear()
        self.end()


class ActorPool(EnvPool):
    """Copies of an environment in several actors, each with a sandbox and a grader of its own.

    An actor gets all that its copies are to do in one call, and answers with all that is done. One that is lost, or
    does not answer, is replaced, and its episodes are played again, action by action. If a copy then says anything
    else than before, its episode ends without a valid reward.

    Args:
        envs: Copies in this process, which say what there is to play; actors open others of them.
        count: Number of copies in all actors.
        cluster: How many actors, and how patient to be.
    """

    def __init__(self, envs: EnvPool, count: int, cluster: ClusterArguments) -> None:
        connect()
        self._count, self._cluster = count, cluster
        self._patience_s = cluster.patience_s / 2  # an engine is to be there still when its environments are replaced
        self.envs, self.open_others = envs.envs, envs.open_others
        actors = min(cluster.env_actors, count)
        self._workers = [_Worker(env_ids=range(first, count, actors)) for first in range(actors)]
        self._broken: list[EnvResult] = []  # to be returned next

    def __len__(self) -> int:
        """Return the number of copies."""
        return self._count

    def reset(self, env_id: int, *, seed: int, options: Mapping[str, Any]) -> None:
        """Start an episode in one copy."""
        worker, number = self._find(env_id)
        worker.plays[number] = _Play(commands=[_Reset(seed=seed, options=options)])
        worker.to_do.add(number)

    def send(self, env_id: int, action: str) -> None:
        """Send an action to one copy."""
        worker, number = self._find(env_id)
        play = worker.plays[number]
        if play.is_broken:
            self._broken.append(_invalid(play, env_id))
            return
        play.commands.append(action)
        worker.to_do.add(number)

    def recv(self, *, wait: bool) -> list[EnvResult]:
        """Return the copies that are done; see `EnvPool.recv`.

        Raises:
            EngineFault: One actor after the other is lost.
        """
        import ray

        results, self._broken = self._broken, []
        if wait and not results and not any(worker.is_waiting for worker in self._workers):
            raise RuntimeError("Expect a reset or an action in flight before recv(wait=True), got none.")
        while True:
            for worker in self._workers:
                self._proceed(worker)
            calls = {worker.call: worker for worker in self._workers if worker.call is not None}
            if calls and wait and not results:
                ray.wait(list(calls), timeout=_TICK_S)
            done = ray.wait(list(calls), num_returns=len(calls), timeout=0)[0] if calls else []
            for call in done:
                results += self._take(calls[call])
            for worker in self._workers:
                if time.monotonic() > worker.deadline:
                    self._lose(worker, "no answer in time")
            results += self._broken
            self._broken = []
            if results or not wait:
                return results

    def drain(self) -> None:
        """Wait for everything in flight and discard it, errors included."""
        self._broken = []
        while any(worker.is_waiting for worker in self._workers):
            with suppress(Exception):
                self.recv(wait=True)

    def close(self) -> None:
        """End the actors."""
        for worker in self._workers:
            worker.forget()

    def _find(self, env_id: int) -> tuple[_Worker, int]:
        """Return which actor has a copy, and its number there."""
        number, place = divmod(env_id, len(self._workers))
        return self._workers[place], number

    def _proceed(self, worker: _Worker) -> None:
        """Call an actor that has something to do or to wait for, unless a call is in flight."""
        if worker.call is not None or not worker.is_waiting:
            return
        if worker.actor is None:
            import ray

            actor = ray.remote(EnvActor).options(num_cpus=self._cluster.env_cpus)
            worker.actor = actor.remote(self.open_others, os.getcwd())
            done = {number: play for number, play in worker.plays.items() if play.results and not play.is_broken}
            worker.call, worker.is_open = worker.actor.open.remote(len(worker.env_ids), done), False
            worker.deadline = time.monotonic() + self._cluster.patience_s
        else:
            commands = {number: worker.plays[number].commands[-1] for number in worker.to_do}
            worker.call = worker.actor.step.remote(commands)
            worker.to_do.clear()
            worker.deadline = time.monotonic() + self._patience_s

    def _take(self, worker: _Worker) -> Sequence[EnvResult]:
        """Take the answer to an actor's call; return the copies that are done."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        call, worker.call, worker.deadline = worker.call, None, float("inf")
        try:
            answer = ray.get(call)
        except RayTaskError as error:
            worker.forget()
            raise error.cause from None
        except RayError as error:
            self._lose(worker, one_line(error))
            return []
        if not worker.is_open:
            worker.is_open = True
            for number in answer:
                self._give_up(worker, number)
            return []
        worker.losses = 0
        results = []
        for result in answer:
            worker.plays[result.env_id].results.append(result)
            if result.terminated or result.truncated:
                del worker.plays[result.env_id]
            results.append(replace(result, env_id=worker.env_ids[result.env_id]))
        return results

    def _give_up(self, worker: _Worker, number: int) -> None:
        """End an episode whose copy has come to another state."""
        play = worker.plays[number]
        play.is_broken = True
        worker.to_do.discard(number)
        if play.is_waiting:
            play.commands.pop()
            self._broken.append(_invalid(play, worker.env_ids[number]))

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Replace an actor: the next one plays its episodes again."""
        worker.end()
        worker.losses += 1
        if worker.losses > self._cluster.max_restarts:
            worker.forget()
            raise EngineFault(
                f"Expect environments that last, got {worker.losses} processes in a row that were lost: {reason}."
            )
        _LOG.warning("A process of environments is lost (%s) and is being replaced; its episodes go on.", reason)


class EnvActorsSource(LocalSource):
    """An engine in this process, whose environments are in actors.

    Args:
        engine: Samples the tokens.
        chat: Encodes prompts and feedback.
        rules: Where turns end and which tokens stay.
        in_flight: Most episodes at once; None: as many as there are copies of the environment.
        count: Copies of each environment.
        cluster: How many actors, and how patient to be.
    """

    def __init__(
        self,
        engine: Engine,
        chat: Chat,
        *,
        rules: TurnRules | None = None,
        in_flight: int | None = None,
        count: int,
        cluster: ClusterArguments,
    ) -> None:
        super().__init__(engine, chat, rules=rules, in_flight=in_flight)
        self._count, self._cluster = count, cluster
        self._pools: dict[EnvPool, ActorPool] = {}

    def player(self, envs: EnvPool) -> Collector:
        """Return a collector that plays in other copies of an environment, the same ones for the same environment."""
        if envs not in self._pools:
            self._pools[envs] = ActorPool(envs, self._count, self._cluster)
        return super().player(self._pools[envs])

    def close(self) -> None:
        """Close the engine, and end the actors."""
        super().close()
        for pool in self._pools.values():
            pool.close()


def open_copies(open_envs: Callable[[int], EnvPool], count: int, cluster: ClusterArguments) -> EnvPool:
    """Return copies of an environment: in actors, or in this process if there are to be none."""
    return ActorPool(open_envs(1), count, cluster) if cluster.env_actors else open_envs(count)
