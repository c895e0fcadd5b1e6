"""Collect trajectories: environments and engine run concurrently, and no episode waits for another.

The loop passes finished completions to their environments and finished environment steps to the engine, whichever
comes first. Sampled token ids are kept as they were sampled; `agents.rollout.episode.keep_tokens` has the one
exception. Results never depend on timing: groups are returned whole, in the order of the request, and an episode that
continues in the next collection is paused by token count, not by time.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from agents.core.types import Collected, Completion, EpisodeSpec, Trajectory, seed_of
from agents.engines.base import Sampling
from agents.rollout.episode import ActiveEpisode, TurnRules
from agents.rollout.in_order import Enough, Group, InOrder, never

if TYPE_CHECKING:
    from agents.core.chat import Chat
    from agents.engines.base import Engine
    from agents.rollout.envs import EnvPool, EnvResult


_LOG = logging.getLogger("agents")
_EXECUTIONS, _GRADINGS = "tools/executions", "episodes/gradings"
_DROPPED = "sampling/dropped_tokens"


@dataclass(kw_only=True, slots=True)
class _Clock:
    """How the time of one collection was spent, in seconds."""

    begin: float = field(default_factory=time.perf_counter)
    sampling: float = 0.0
    waiting: float = 0.0
    dropped: int = 0
    executions: list[float] = field(default_factory=list)
    gradings: list[float] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """Return mean seconds and numbers of executions and of last steps, and how the time was spent."""
        whole = time.perf_counter() - self.begin
        return {
            _EXECUTIONS: float(len(self.executions)),
            _GRADINGS: float(len(self.gradings)),
            "tools/execution_s": _mean(self.executions),
            "episodes/grading_s": _mean(self.gradings),
            "engine/utilisation": self.sampling / whole,
            "engine/waiting_s": self.waiting,
            _DROPPED: float(self.dropped),
            "time/sampling_s": whole,
        }


def over_processes(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Combine the metrics of the collections that several processes made of one step.

    The step's sampling takes as long as that of the slowest process; an engine that is done before idles.

    >>> fast, slow = {"time/sampling_s": 1.0, "engine/utilisation": 1.0}, {"time/sampling_s": 3.0}
    >>> both = over_processes([fast, slow | {"engine/utilisation": 1.0}])
    >>> {name: round(both[name], 3) for name in ("time/sampling_s", "time/sampling_mean_s", "engine/utilisation")}
    {'time/sampling_s': 3.0, 'time/sampling_mean_s': 2.0, 'engine/utilisation': 0.667}
    """

    def mean(name: str, by: str | None = None) -> float:
        weights = [1.0 if by is None else each.get(by, 1.0) for each in measured]
        values = [each.get(name, 0.0) * weight for each, weight in zip(measured, weights, strict=True)]
        return sum(values) / sum(weights) if sum(weights) else 0.0

    slowest = max(each["time/sampling_s"] for each in measured)
    return {
        "tools/execution_s": mean("tools/execution_s", by=_EXECUTIONS),
        "episodes/grading_s": mean("episodes/grading_s", by=_GRADINGS),
        "engine/utilisation": mean("engine/utilisation", by="time/sampling_s") * mean("time/sampling_s") / slowest,
        "engine/waiting_s": mean("engine/waiting_s"),
        _DROPPED: sum(each.get(_DROPPED, 0.0) for each in measured),
        "time/sampling_s": slowest,
        "time/sampling_mean_s": mean("time/sampling_s"),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


class Collector:
    """Plays episodes with an engine, and keeps paused episodes between collections.

    :meth:`collect` plays a request to its end. What it is made of takes further groups while others are played:
    :meth:`begin`, then :meth:`add` and :meth:`poll` as often as needed.

    Each episode has its own random streams, so that neither order nor timing changes what is sampled, up to the
    engine's numerics. An episode whose prompt leaves no room for a token ends with ``reward_valid=False``. An episode
    is truncated after a turn in which neither the policy nor the environment wrote anything.

    Args:
        envs: Copies of the environment; their number bounds the episodes in flight.
        engine: Samples the tokens.
        chat: Encodes prompts and feedback.
        rules: Where turns end and which tokens stay.
        in_flight: How many of the copies are used; None: all.
    """

    def __init__(
        self, envs: EnvPool, engine: Engine, chat: Chat, *, rules: TurnRules | None = None, in_flight: int | None = None
    ) -> None:
        self._envs, self._engine, self._chat = envs, engine, chat
        self._rules = rules or TurnRules()
        self._used = range(len(envs))[:in_flight]
        self._free = deque(self._used)
        self._waiting: deque[ActiveEpisode] = deque()
        self._in_env: dict[int, ActiveEpisode | None] = {}  # None: the episode was cancelled
        self._in_engine: dict[int, tuple[int, ActiveEpisode]] = {}
        self._paused: list[tuple[int, ActiveEpisode]] = []
        self._groups: dict[int, dict[int, Trajectory | None]] = {}  # by group and number; None: not finished
        self._ended: list[Group] = []  # since the last poll
        self._too_long: set[int] = set()
        self._count = 0
        self._is_abandoned = False
        envs.drain()  # another collector may have abandoned episodes

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
        """Play these episodes and the paused ones, and return the groups that are complete.

        Args:
            episodes: The episodes to start, in whole groups.
            sampling: As for :meth:`begin`.
            on_end: As for :meth:`begin`.
            should_stop: Called before each engine step; once it returns True, every episode is abandoned.
            max_new_tokens: As for :meth:`begin`.
            enough: Once it returns True, the groups that it was called with are returned and all others are cancelled.

        Returns:
            The trajectories of whole groups, in the order of the request, with metrics; None if the collection was
            stopped.
        """
        try:
            self.begin(sampling, on_end=on_end, max_new_tokens=max_new_tokens)
            self.add(episodes)
            groups = InOrder(self._groups, enough)
            while self.is_playing and not groups.is_enough:
                if should_stop():
                    self.abandon()
                    return None
                for group in self.poll():
                    groups.put(group)
                if not groups.is_enough:
                    groups.ask()
        except BaseException:
            self.abandon()
            raise
        if groups.is_enough:
            self.cancel()
        return Collected(trajectories=groups.trajectories(), metrics=self.metrics())

    def begin(
        self,
        sampling: Sampling,
        *,
        on_end: Callable[[Trajectory], None] = lambda _: None,
        max_new_tokens: int | None = None,
    ) -> None:
        """Begin a collection: resume the paused episodes; :meth:`add` starts others.

        Args:
            sampling: Temperature and top_p; ``max_tokens`` counts everything after the prompt, feedback included; the
                seed is not used.
            on_end: Called with each trajectory as it ends.
            max_new_tokens: Tokens that may be sampled per episode in this collection. An episode that needs more is
                paused, and continues in the next collection. None: every episode is played to its end.
        """
        self._clock, self._sampling, self._on_end = _Clock(), sampling, on_end
        self._allowance = max_new_tokens
        if self._is_abandoned:
            self._envs.drain()
            self._in_env.clear()
            self._free, self._is_abandoned = deque(self._used), False
        self._free = deque(sorted(self._free))  # so that a resumed run fills them in the same order
        for play in self._waiting:
            play.allowance = max_new_tokens
        # resume paused episodes
        resumed, self._paused = self._paused, []
        for env_id, play in sorted(resumed, key=lambda each: each[1].number):
            play.allowance = max_new_tokens
            self._sample(env_id, play)
        self._fill()

    def add(self, episodes: Sequence[EpisodeSpec]) -> None:
        """Start further episodes, in whole groups; those for which no environment is free wait."""
        for episode in episodes:
            play = ActiveEpisode(number=self._count, episode=episode, allowance=self._allowance)
            self._groups.setdefault(episode.group_id, {})[play.number] = None
            self._waiting.append(play)
            self._count += 1
        self._fill()

    @property
    def is_playing(self) -> bool:
        """Whether :meth:`poll` has anything to wait for or to sample."""
        in_env = any(play is not None for play in self._in_env.values())
        return bool(in_env or self._in_engine or (self._waiting and self._in_env))

    @property
    def unfinished(self) -> int:
        """How many episodes have not ended, waiting and paused ones included."""
        return sum(list(members.values()).count(None) for members in self._groups.values())

    def poll(self) -> list[Group]:
        """Run one step of the engine, and pass on what environments have done; return the groups that ended.

        It waits for an environment if there is nothing to sample; call it only while :attr:`is_playing`.
        """
        # environments -> engine
        self._take_results()
        # engine -> environments
        for completion in self._poll_engine():
            self._take_completion(completion)
        ended, self._ended = self._ended, []
        return ended

    def metrics(self) -> dict[str, float]:
        """Return how the time since :meth:`begin` was spent."""
        return self._clock.metrics()

    def as_json(self) -> dict[str, Any]:
        """Return the unfinished groups and paused episodes as JSON data."""
        groups = {
            group_id: {n: None if t is None else t.as_json() for n, t in members.items()}
            for group_id, members in self._groups.items()
        }
        plays = [play.as_json() for play in (*(play for _, play in self._paused), *self._waiting)]
        return {"count": self._count, "groups": groups, "plays": plays}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Restore the state of another collector; paused episodes are replayed in their environments."""
        self._count = int(data["count"])
        self._groups = {
            int(group_id): {int(n): None if t is None else Trajectory.from_json(t) for n, t in members.items()}
            for group_id, members in data["groups"].items()
        }
        for play in map(ActiveEpisode.from_json, data["plays"]):
            if play.token_ids:
                self._replay(play)
            else:
                self._waiting.append(play)

    def _replay(self, play: ActiveEpisode) -> None:
        env_id = self._free.popleft()
        self._envs.reset(env_id, seed=play.episode.env_seed, options=play.episode.options)
        (result,) = self._envs.recv(wait=True)
        for turn in play.turns:
            self._envs.send(env_id, turn.text)
            (result,) = self._envs.recv(wait=True)
            if result.terminated or result.truncated or result.observation != turn.feedback:
                _LOG.warning(
                    "Restarting an episode of problem %s: replaying its code gave a different result",
                    turn.info.get("problem_id"),
                )
                self._free.append(env_id)
                self._waiting.append(ActiveEpisode(number=play.number, episode=play.episode))
                return
        play.scanner = result.scanner
        self._paused.append((env_id, play))

    def cancel(self) -> None:
        """Drop every episode; an environment that is still running becomes free when it is done."""
        numbers = {number for members in self._groups.values() for number in members}
        for number in numbers:
            self._engine.release(number)
        self._free.extend(env_id for env_id, _ in (*self._in_engine.values(), *self._paused))
        self._in_env = dict.fromkeys(self._in_env)
        for started in (self._groups, self._in_engine, self._paused, self._waiting, self._ended):
            started.clear()

    def abandon(self) -> None:
        """Drop every episode; the next collection first waits for environments that are still running."""
        self.cancel()
        self._is_abandoned = True

    def _fill(self) -> None:
        """Start waiting episodes in free environments."""
        while self._free and self._waiting:
            env_id, play = self._free.popleft(), self._waiting.popleft()
            self._in_env[env_id] = play
            self._envs.reset(env_id, seed=play.episode.env_seed, options=play.episode.options)

    def _take_results(self) -> None:
        """Advance the episodes whose environments are done; wait for one if there is nothing to sample."""
        wait = not self._engine.busy
        begin = time.perf_counter()
        results = self._envs.recv(wait=wait)
        self._clock.waiting += (time.perf_counter() - begin) if wait else 0.0
        for result in results:
            play = self._in_env.pop(result.env_id)
            if play is None or self._take_result(play, result):
                self._free.append(result.env_id)
        self._fill()

    def _take_result(self, play: ActiveEpisode, result: EnvResult) -> bool:
        """Advance an episode whose environment is done; return whether it has ended."""
        if not play.token_ids:
            messages, tools = result.info.get("messages"), result.info.get("tools") or ()
            play.insert(self._chat.encode_prompt(result.observation, messages, tools))
            play.prompt_length = len(play.token_ids)
        elif self._take_step(play, result):
            return True
        self._ask(play, result)
        return False

    def _take_step(self, play: ActiveEpisode, result: EnvResult) -> bool:
        """Advance an episode after a step of its environment; return whether it has ended."""
        ended = play.end_turn(result, self._chat.encode_feedback, self._rules)
        seconds = self._clock.gradings if ended else self._clock.executions
        seconds.append(time.perf_counter() - play.acted_at)
        if ended:
            self._engine.release(play.number)
            trajectory = play.trajectory(truncated=result.truncated or play.finish_reason == "length")
            self._put(play, trajectory)
            self._on_end(trajectory)
        return ended

    def _put(self, play: ActiveEpisode, trajectory: Trajectory) -> None:
        """Keep a trajectory; with the last one of its group, the group has ended."""
        members = self._groups[play.episode.group_id]
        members[play.number] = trajectory
        group = [each for each in members.values() if each is not None]
        if len(group) == len(members):
            del self._groups[play.episode.group_id]
            self._ended.append(group)

    def _ask(self, play: ActiveEpisode, result: EnvResult) -> None:
        """Prepare the next turn, or end the episode if no token is left for it."""
        tools = result.info.get("tools") or ()
        feedback_ids = self._chat.encode_feedback(result.observation, tools) if play.turns else []
        play.scanner, play.completion = result.scanner, None
        is_stuck = bool(play.turns) and not play.turns[-1].text and not feedback_ids
        if is_stuck or self._room(play, len(feedback_ids)) < 1:
            play.too_long = not play.turns
            if play.too_long and play.episode.group_id not in self._too_long:
                self._too_long.add(play.episode.group_id)
                name, limit = result.info.get("problem_id"), self._engine.max_model_len
                _LOG.warning(
                    "Dropping problem %s: its prompt has %d tokens of at most %d", name, len(play.token_ids), limit
                )
            self._act(result.env_id, play)
            return
        play.insert(feedback_ids)
        self._sample(result.env_id, play)

    def _room(self, play: ActiveEpisode, more: int = 0) -> int:
        """Return how many more tokens the episode may have."""
        length = len(play.token_ids) + more + play.begun
        return min(self._sampling.max_tokens - (length - play.prompt_length), self._engine.max_model_len - length)

    def _sample(self, env_id: int, play: ActiveEpisode) -> None:
        """Submit a turn to the engine, or pause the episode if this collection allows it no more tokens."""
        room = self._room(play)
        max_tokens = room if play.allowance is None else min(room, play.allowance)
        if max_tokens < 1:
            self._paused.append((env_id, play))
            return
        parts = [play.episode.sampling_seed, len(play.turns), *([play.begun] if play.begun else [])]
        sampling = replace(self._sampling, max_tokens=max_tokens, seed=seed_of(*parts, bits=64))
        self._in_engine[play.number] = (env_id, play)
        scanner = self._rules.scanner(play.scanner)
        begin = time.perf_counter()
        self._engine.submit(play.number, play.token_ids, sampling, scanner, begun=play.completion)
        self._clock.sampling += time.perf_counter() - begin

    def _poll_engine(self) -> list[Completion]:
        """Run one step of the engine."""
        begin = time.perf_counter()
        completions = self._engine.poll()
        self._clock.sampling += time.perf_counter() - begin
        return completions

    def _take_completion(self, completion: Completion) -> None:
        env_id, play = self._in_engine.pop(completion.request_id)
        self._clock.dropped += completion.dropped_tokens
        if play.allowance is not None:
            play.allowance -= len(completion.token_ids) - play.begun
        play.completion = self._rules.completed(completion)
        if completion.finish_reason == "length" and self._room(play) > 0:
            self._engine.release(play.number)  # new weights invalidate its cache
            self._paused.append((env_id, play))
        else:
            self._act(env_id, play)

    def _act(self, env_id: int, play: ActiveEpisode) -> None:
        play.acted_at = time.perf_counter()
        self._in_env[env_id] = play
        self._envs.send(env_id, play.completion.text if play.completion is not None else "")


def collect(
    envs: EnvPool,
    engine: Engine,
    chat: Chat,
    episodes: Sequence[EpisodeSpec],
    sampling: Sampling,
    *,
    on_end: Callable[[Trajectory], None] = lambda _: None,
) -> list[Trajectory]:
    """Play every episode to its end; return the trajectories, group by group, in the order of ``episodes``."""
    collected = Collector(envs, engine, chat).collect(episodes, sampling, on_end=on_end)
    return [] if collected is None else list(collected.trajectories)
