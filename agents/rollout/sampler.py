"""Gives each training step its trajectories: sampled now, or beside the update before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from agents.config.schedules import budget_at
from agents.config.training import TrainConfig
from agents.core.distributed import gather, gather_from, rank, share, size
from agents.core.reproduce import seed_of
from agents.core.types import EpisodeSpec, Trajectory
from agents.engines.base import Sampling
from agents.rollout.budget import ByCompetence
from agents.rollout.collector import Collector
from agents.rollout.curriculum import ProblemOrder
from agents.rollout.metrics import describe
from agents.rollout.selection import choose, teaches

if TYPE_CHECKING:
    from agents.core.chat import Chat
    from agents.engines.base import Engine
    from agents.rollout.envs import EnvPool

Groups = Sequence[Sequence[Trajectory]]


class _Closed(Exception):
    """Nobody waits for the collection any more."""


def _on_the_same_gpu() -> Callable[[], None] | None:
    """Return what gives another thread this thread's GPU: a new one begins on the first."""
    return partial(torch.cuda.set_device, torch.cuda.current_device()) if torch.cuda.is_initialized() else None


class Sampler:
    """Plays the episodes of training steps.

    Args:
        envs: Copies of the training environment.
        engine: Samples the tokens; it gets its weights from the caller, while nothing is collected.
        chat: Encodes prompts and feedback.
        config: The run.

    Attributes:
        figures: Of all episodes of the last step that was taken, for the log.
    """

    def __init__(self, envs: EnvPool, engine: Engine, chat: Chat, config: TrainConfig) -> None:
        self.figures: dict[str, float] = {}
        self._collector = Collector(envs, engine, chat, boundary=config.rollout.boundary)
        self._config = config
        extra = config.rollout.num_extra_problems
        self._selection = replace(config.selection, differing_rewards=config.selection.differing_rewards or extra > 0)
        earned = config.env.interaction_budget == "competence"
        self._competence = ByCompetence(config.env.competence) if earned else None
        self._order = ProblemOrder.of(envs, config)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="sampler", initializer=_on_the_same_gpu())
        self._is_closed = False
        self._pending: Future[list[Trajectory]] | None = None
        self._ahead: list[Trajectory] | None = None
        self._before: dict[str, Any] | None = None  # what the step in progress began with
        self._next: dict[str, Any] = {}  # what the collection beside it began with

    @property
    def is_ahead(self) -> bool:
        """Whether the next step's trajectories are there already."""
        return self._ahead is not None

    def take(
        self, step: int, *, on_end: Callable[[Trajectory], None], on_poll: Callable[[], None] = lambda: None
    ) -> list[Trajectory]:
        """Return the trajectories that a step is trained on; they are collected now unless they are there.

        Args:
            step: Number of the step, from 0.
            on_end: Called with each trajectory that is collected now.
            on_poll: Called all the time while they are; what it raises ends the collection.
        """
        self._before = self._state()
        trajectories = gather_from(lambda: self._collect(step, on_end, on_poll) if self._ahead is None else self._ahead)
        trajectories.sort(key=lambda t: t.group_id)
        self._ahead = None
        rollout = self._config.rollout
        chosen = choose(
            trajectories, rollout.num_problems if rollout.num_extra_problems else len(trajectories), self._selection
        )
        figures = describe(trajectories) | self._collector.figures
        tokens = sum(sum(t.action_mask) for t in trajectories)
        self.figures = figures | {
            "tokens_per_second": tokens / figures["time/sampling_s"],
            "selection/kept_ratio": len(chosen) / len(trajectories),
        }
        if self._competence is not None:
            self._competence.observe(self.figures)
        return chosen

    def begin(self, step: int) -> None:
        """Begin to collect a step's trajectories in a thread, up to :meth:`finish`."""
        self._next = self._state()
        self._pending = self._threads.submit(self._collect, step, lambda _: None, self._stop_if_closed)

    def finish(self) -> None:
        """End a step: wait for what was begun beside it."""
        if self._pending is not None:
            pending, self._pending, self._before = self._pending, None, self._next
            self._ahead = pending.result()
        self._before = None

    def as_json(self) -> list[dict[str, Any]]:
        """Return what each process has sampled and not trained on, ready for JSON; in mid-step, as it began with it."""
        state = self._before or self._state()
        ahead = state["ahead"]
        return gather([state | {"ahead": None if ahead is None else [asdict(each) for each in ahead]}])

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take over what the samplers of as many or another number of processes had sampled."""
        data = states[rank()] if len(states) == size() else _dealt(states)
        ahead = data["ahead"]
        self._ahead = None if ahead is None else [Trajectory.from_json(each) for each in ahead]
        if self._competence is not None:
            self._competence.restore(data["budget"])
        self._collector.restore(data["collector"])

    def close(self) -> None:
        """Break off what is collected beside, and end the thread."""
        self._is_closed = True
        self._threads.shutdown()

    def _stop_if_closed(self) -> None:
        if self._is_closed:
            raise _Closed

    def _state(self) -> dict[str, Any]:
        budget = None if self._competence is None else self._competence.as_json()
        return {"ahead": self._ahead, "budget": budget, "collector": self._collector.as_json()}

    def _collect(
        self, step: int, on_end: Callable[[Trajectory], None], on_poll: Callable[[], None]
    ) -> list[Trajectory]:
        rollout = self._config.rollout
        sampling = Sampling(temperature=rollout.temperature, max_tokens=rollout.max_completion_length)

        def enough(groups: Groups) -> bool:
            if not rollout.num_extra_problems:
                return False
            return sum(teaches(group, self._selection) for group in groups) >= rollout.num_problems // size()

        episodes, trajectories, seconds = self._episodes(step), list[Trajectory](), 0.0
        while not trajectories:  # there is nothing to train on before a group is whole
            trajectories = self._collector.collect(
                episodes,
                sampling,
                on_end=on_end,
                on_poll=on_poll,
                max_new_tokens=rollout.max_new_tokens,
                enough=enough,
            )
            episodes = []
            seconds += self._collector.figures["time/sampling_s"]
        self._collector.figures["time/sampling_s"] = seconds
        return trajectories

    def _episodes(self, step: int) -> list[EpisodeSpec]:
        """Return this process's episodes of a step: its problems by `ProblemOrder`, each for a whole group."""
        rollout, seed, schedule = self._config.rollout, self._config.seed, self._config.env.interaction_budget
        budget = budget_at(schedule, step) if self._competence is None else self._competence.budget
        count = rollout.num_problems + rollout.num_extra_problems
        choices: list[dict[str, Any]] = [{}] * count
        if self._order is not None:
            indices = self._order.indices(step)
            choices = [{"problem_index": index, "interaction_budget": budget} for index in indices]
        episodes = []
        for group, options in share(list(enumerate(choices, step * count))):
            episodes += [
                EpisodeSpec(
                    group_id=group,
                    env_seed=seed_of(seed, 0, group),
                    sampling_seed=seed_of(seed, 1, group, sample),
                    options=options,
                    sample=sample,
                )
                for sample in range(rollout.num_generations)
            ]
        return episodes


def _dealt(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return this process's share of what other processes had left: group by group, under numbers of its own."""
    ahead: list[Any] = []
    groups: dict[str, dict[int, Any]] = {}
    plays: list[Any] = []
    numbers: dict[tuple[int, int], int] = {}

    def is_mine(group_id: int) -> bool:
        return group_id % size() == rank()

    for place, state in enumerate(states):
        ahead += [each for each in state["ahead"] or () if is_mine(each["group_id"])]
        for group_id, members in state["collector"]["groups"].items():
            if is_mine(int(group_id)):
                groups[group_id] = {
                    numbers.setdefault((place, int(number)), len(numbers)): each for number, each in members.items()
                }
        for play in state["collector"]["plays"]:
            if is_mine(play["episode"]["group_id"]):
                number, begun = numbers[place, play["number"]], play["completion"]
                plays.append(play | {"number": number, "completion": begun and begun | {"request_id": number}})
    collector = {"count": len(numbers), "groups": groups, "plays": plays, "figures": states[0]["collector"]["figures"]}
    return {
        "ahead": None if states[0]["ahead"] is None else ahead,
        "budget": states[0]["budget"],
        "collector": collector,
    }
