"""The trajectories of each training step: collected on demand, or ahead, during the updates before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from agents.config.schedules import parse_budgets
from agents.config.training import SelectionConfig, TrainConfig
from agents.core.distributed import gather, rank, size, tell, told_by, wait
from agents.core.errors import TrainingError
from agents.core.exchange import gather_unless_stopped
from agents.core.types import Collected, EpisodeSpec, Purpose, Trajectory, seed_of
from agents.engines.base import Sampling
from agents.rollout.budget import ByCompetence
from agents.rollout.collector import over_processes
from agents.rollout.curriculum import ProblemOrder
from agents.rollout.in_order import Enough, never
from agents.rollout.selection import choose, describe, teaches, until_enough

if TYPE_CHECKING:
    from agents.rollout.envs import EnvPool
    from agents.rollout.in_order import Group
    from agents.rollout.source import Source


def _on_the_same_gpu() -> Callable[[], None] | None:
    """Return an initializer that selects this thread's GPU in another thread, which would start on GPU 0."""
    return partial(torch.cuda.set_device, torch.cuda.current_device()) if torch.cuda.is_initialized() else None


class Sampler:
    """Provides the trajectories of each step.

    With ``rollout.max_staleness`` it collects ahead: a thread plays `RolloutConfig.steps_ahead` further steps, one by
    one. A step is always played by the weights of as many steps before, at any speed of engines and trainer.

    Args:
        envs: Copies of the training environment.
        source: Plays them.
        config: The run.
    """

    def __init__(self, envs: EnvPool, source: Source, config: TrainConfig) -> None:
        self._source = source
        self._player = source.player(envs)
        self._config = config
        extra = config.rollout.num_extra_problems
        self._selection = replace(config.selection, differing_rewards=config.selection.differing_rewards or extra > 0)
        earned = config.env.interaction_budget == "competence"
        self._competence = ByCompetence(config.env.competence) if earned else None
        self._budgets = [] if earned else parse_budgets(config.env.interaction_budget)
        self._order = ProblemOrder.of(envs, config)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="sampler", initializer=_on_the_same_gpu())
        self._is_closed = False
        self._ahead: deque[Future[Collected | None]] = deque()  # of the next steps, in order
        self._before: dict[str, Any] | None = None  # the state at the start of the step in progress
        self._paused: dict[str, Any] = {}  # the player's state before the last collection ahead

    def take(
        self,
        step: int,
        *,
        sync: Callable[[], Mapping[str, float]],
        send: Callable[[], Callable[[], None]],
        on_end: Callable[[Trajectory], None],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Collected | None:
        """Return the training trajectories of a step, from all processes.

        Without ``rollout.max_staleness`` they are collected now, with the policy's weights. With it they were collected
        during the previous updates; this call starts the collection of a further step.

        Args:
            step: Number of the step, from 0.
            sync: Copies the policy's weights to the engine; called while the engine is idle. Returns metrics.
            send: Sends the policy's weights to engines that may be playing. Returns what lets them load these.
            on_end: Called with each trajectory that is collected now.
            should_stop: Called before each engine step; once it returns True, the collection ends.

        Returns:
            The trajectories, and metrics of all episodes of the step, chosen or not; None if a process was stopped.

        Raises:
            TrainingError: No episode has a valid reward.
        """
        self._before = self._state()
        metrics: Mapping[str, float] | None = None
        if self._ahead:
            mine = self._ahead.popleft().result()
        else:
            metrics = sync()
            mine = self._collect(self._episodes(step), on_end, should_stop)
        parts = gather_unless_stopped(None if mine is None else [mine] if mine.metrics else [])
        if parts is None:
            return None
        trajectories = [trajectory for part in parts for trajectory in part.trajectories]
        collected = self._choose(trajectories, over_processes([part.metrics for part in parts]))
        if collected.metrics["episodes/invalid_ratio"] == 1:
            raise TrainingError("Expect a valid reward from some of the episodes, got none: see above.")
        # collect for steps to come, or free memory for the update
        most = self._config.rollout.steps_ahead
        last = min(step + most, self._config.max_steps - 1)
        if (following := range(step + 1 + len(self._ahead), last + 1)) and metrics is None and most == 1:
            metrics = sync()  # the engine is free
        load = send() if following and metrics is None else None
        for later in following:
            self._paused = self._player.as_json()
            self._ahead.append(self._threads.submit(self._collect_ahead, self._episodes(later), load))
        if not self._ahead:
            self._source.sleep()
        return replace(collected, metrics={**(metrics or {}), **collected.metrics})

    def finish(self) -> None:
        """End a step: wait for the next one's trajectories if they are collected ahead."""
        self._before = None
        if not self._ahead:
            return
        try:
            self._ahead[0].result()
        except BaseException:
            self._ahead.clear()
            self._before = self._state() | {"collector": self._paused}
            raise
        wait()  # for the slowest process

    def drain(self) -> None:
        """Wait until nothing is collected, so that the engines can be used otherwise."""
        for future in self._ahead:
            future.result()
        wait()

    def as_json(self) -> list[dict[str, Any]]:
        """Return the state of each process as JSON data; during a step, the state at its start.

        It waits for what is being collected ahead, and has of it what comes before the first error.
        """
        state = self._before or self._state()
        ahead: list[dict[str, Any]] = []
        with suppress(Exception):
            for future in state["ahead"]:
                if (collected := future.result()) is None:
                    break
                played = [each.as_json() for each in collected.trajectories]
                ahead.append({"trajectories": played, "metrics": dict(collected.metrics)})
        return gather([state | {"ahead": ahead}], patiently=True)

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Restore the states of a run, which may have had another number of processes."""
        data = states[rank()] if len(states) == size() else _share_of(states)
        for step in data["ahead"] or ():
            trajectories = tuple(Trajectory.from_json(each) for each in step["trajectories"])
            future: Future[Collected | None] = Future()
            self._ahead.append(future)
            future.set_result(Collected(trajectories=trajectories, metrics=step["metrics"]))
        if self._competence is not None:
            self._competence.restore(data["budget"])
        self._player.restore(data["collector"])

    def close(self) -> None:
        """Stop what is collected ahead, and end its thread."""
        self._is_closed = True
        self._threads.shutdown(cancel_futures=True)

    def _state(self) -> dict[str, Any]:
        budget = None if self._competence is None else self._competence.as_json()
        return {"ahead": tuple(self._ahead), "budget": budget, "collector": self._player.as_json()}

    def _choose(self, trajectories: Sequence[Trajectory], metrics: Mapping[str, float]) -> Collected:
        """Compute the metrics of all trajectories of a step, and choose those to train on."""
        played = sorted(trajectories, key=lambda t: t.group_id)
        rollout = self._config.rollout
        count = rollout.num_problems if rollout.num_extra_problems else len(played)
        if rollout.num_extra_problems:  # a process plays on until it hears that those of another are enough
            played = until_enough(played, count, self._selection)
        chosen = choose(played, count, self._selection)
        tokens = sum(sum(t.action_mask) for t in played)
        described = describe(played) | {
            **metrics,
            "tokens_per_second": tokens / metrics["time/sampling_s"],
            "selection/kept_ratio": len(chosen) / len(played),
        }
        if self._competence is not None:
            self._competence.observe(described)
        return Collected(trajectories=tuple(chosen), metrics=described)

    def _collect_ahead(self, episodes: Sequence[EpisodeSpec], load: Callable[[], None] | None) -> Collected | None:
        """Play episodes in the sampler's thread, with weights that the engines are to load before."""
        if load is not None:
            load()
        return self._collect(episodes, lambda _: None, lambda: self._is_closed)

    def _collect(
        self, episodes: Sequence[EpisodeSpec], on_end: Callable[[Trajectory], None], should_stop: Callable[[], bool]
    ) -> Collected | None:
        """Play this process's episodes of a step, and the paused ones until at least one group is complete."""
        rollout = self._config.rollout
        if not episodes:  # others play them all
            return Collected(trajectories=(), metrics={})
        sampling = Sampling(temperature=rollout.temperature, max_tokens=rollout.max_completion_length)
        enough: Enough = never
        if rollout.num_extra_problems:
            enough = StepEnough(
                episodes, rollout.num_problems + rollout.num_extra_problems, rollout.num_problems, self._selection
            )
        seconds = 0.0
        while True:
            collected = self._player.collect(
                episodes,
                sampling,
                on_end=on_end,
                should_stop=should_stop,
                max_new_tokens=rollout.max_new_tokens,
                enough=enough,
            )
            if collected is None:
                return None
            seconds += collected.metrics["time/sampling_s"]
            if collected.trajectories or rollout.max_new_tokens is None:
                return replace(collected, metrics={**collected.metrics, "time/sampling_s": seconds})
            episodes = []  # no group is complete: continue with the paused episodes

    def _episodes(self, step: int) -> list[EpisodeSpec]:
        """Return this process's episodes of a step: a group per problem, by `ProblemOrder`."""
        rollout, seed = self._config.rollout, self._config.seed
        if self._competence is not None:
            budget = self._competence.budget
        else:
            budget = [each for start, each in self._budgets if start <= step][-1]
        count = rollout.num_problems + rollout.num_extra_problems
        choices: list[dict[str, Any]] = [{}] * count
        if self._order is not None:
            indices = self._order.indices(step)
            choices = [{"problem_index": index, "interaction_budget": budget} for index in indices]
        episodes = []
        for group, options in self._source.share(list(enumerate(choices, step * count))):
            episodes += [
                EpisodeSpec(
                    group_id=group,
                    env_seed=seed_of(seed, Purpose.ENVIRONMENT, group),
                    sampling_seed=seed_of(seed, Purpose.SAMPLING, group, sample),
                    options=options,
                    sample=sample,
                )
                for sample in range(rollout.num_generations)
            ]
        return episodes


class StepEnough:
    """Whether the first groups of a step, whichever process plays them, hold enough to train on; implements `Enough`.

    Each process tells the others which of its groups teach, in order, and waits for none of them. All come to the same
    last group, if not at the same time.

    Args:
        episodes: Those of this process: of all groups, or of every ``distributed.size()``-th.
        num_groups: How many groups the step has.
        needed: How many must pass the filters.
        selection: The filters.
    """

    def __init__(
        self, episodes: Sequence[EpisodeSpec], num_groups: int, needed: int, selection: SelectionConfig
    ) -> None:
        groups = dict.fromkeys(each.group_id for each in episodes)
        self._step = next(iter(groups)) // num_groups
        self._parts = 1 if len(groups) == num_groups else size()
        self._verdicts = [""] * self._parts  # by process: + for a group that teaches, - for another
        self._num_groups, self._needed, self._selection = num_groups, needed, selection
        self._count = self._good = 0

    def __call__(self, groups: Sequence[Group]) -> bool:
        """Return whether they are enough, with what other processes have told so far."""
        mine = rank() % self._parts
        if new := groups[len(self._verdicts[mine]) :]:
            self._verdicts[mine] += "".join("+" if teaches(group, self._selection) else "-" for group in new)
            tell(f"{self._step}:{self._verdicts[mine]}")
        while self._good < self._needed and self._count < self._num_groups:
            player, place = self._count % self._parts, self._count // self._parts
            if player != mine and place >= len(self._verdicts[player]):
                step, _, verdicts = told_by(player).partition(":")
                self._verdicts[player] = verdicts if step == str(self._step) else ""
            if place >= len(self._verdicts[player]):
                return False
            self._good += self._verdicts[player][place] == "+"
            self._count += 1
        return self._good == self._needed


def _share_of(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return this process's share of the states of other processes, by group, with episodes renumbered."""
    ahead: list[Any] = []  # by step
    groups: dict[str, dict[int, Any]] = {}
    plays: list[Any] = []
    numbers: dict[tuple[int, int], int] = {}

    def is_mine(group_id: int) -> bool:
        return group_id % size() == rank()

    for parts in zip(*(state["ahead"] or () for state in states), strict=True):
        played = [each for part in parts for each in part["trajectories"] if is_mine(each["group_id"])]
        ahead.append({"trajectories": played, "metrics": parts[0]["metrics"]})
    for place, state in enumerate(states):
        for group_id, members in state["collector"]["groups"].items():
            if is_mine(int(group_id)):
                groups[group_id] = {
                    numbers.setdefault((place, int(number)), len(numbers)): each for number, each in members.items()
                }
        for play in state["collector"]["plays"]:
            if is_mine(play["episode"]["group_id"]):
                number, begun = numbers[place, play["number"]], play["completion"]
                plays.append(play | {"number": number, "completion": begun and begun | {"request_id": number}})
    return {
        "ahead": ahead,
        "budget": states[0]["budget"],
        "collector": {"count": len(numbers), "groups": groups, "plays": plays},
    }
