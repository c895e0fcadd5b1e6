"""Accuracy of a policy on a set of problems, with the same number of episodes for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from agents.core.exchange import gather_unless_stopped
from agents.core.types import EpisodeSpec, Trajectory, seed_of
from agents.engines.base import Sampling
from agents.rollout.envs import EnvPool
from agents.rollout.selection import describe

if TYPE_CHECKING:
    from agents.rollout.source import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The outcome of :func:`evaluate`."""

    trajectories: tuple[Trajectory, ...]
    """All trajectories, problem by problem."""

    def metrics(self) -> dict[str, float]:
        """Return the metrics of :func:`agents.rollout.selection.describe`."""
        return describe(self.trajectories)

    def accuracy_by(self, key: str) -> dict[str, float]:
        """Return the accuracy of the valid episodes by a string in the environment's info, such as ``subject``."""
        groups: dict[str, list[bool]] = {}
        for t in self.trajectories:
            if t.reward_valid:
                groups.setdefault(str(t.info.get(key, "")), []).append(t.is_correct)
        return {name: fmean(values) for name, values in sorted(groups.items())}


def evaluate(
    envs: EnvPool,
    source: Source,
    sampling: Sampling,
    *,
    num_problems: int,
    num_samples: int = 1,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    wanted: Callable[[tuple[int, int]], bool] = lambda place: True,
    on_end: Callable[[Trajectory], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Play ``num_samples`` episodes of each of the first ``num_problems`` problems.

    Args:
        envs: Copies of the environment. If it has a problem set, problem i is ``problem_index`` i; otherwise it is
            that of ``reset(seed=i)``.
        source: Plays them.
        sampling: As for :func:`agents.rollout.collector.collect`.
        num_problems: At most as many as the environment has.
        num_samples: Episodes per problem.
        seed: Seed of the sampling.
        options: More reset options, such as ``interaction_budget``.
        wanted: Called with (problem, number of the episode); returns whether to play it. An episode's samples do not
            depend on which others are played.
        on_end: Called with each trajectory as it ends.
        should_stop: Called before each engine step; once it returns True, the evaluation ends.

    Returns:
        The outcome; None if a process was stopped.
    """
    episodes = specs_of(envs, num_problems, num_samples, seed=seed, options=options or {}, wanted=wanted)
    problems = set(source.share(range(num_problems)))
    mine = [episode for episode in episodes if episode.group_id in problems]
    collected = source.player(envs).collect(mine, sampling, on_end=on_end, should_stop=should_stop)
    trajectories = gather_unless_stopped(None if collected is None else collected.trajectories)
    if trajectories is None:
        return None
    return Evaluation(trajectories=tuple(sorted(trajectories, key=lambda t: t.group_id)))


def specs_of(
    envs: EnvPool,
    num_problems: int,
    num_samples: int,
    *,
    seed: int,
    options: Mapping[str, Any],
    wanted: Callable[[tuple[int, int]], bool],
) -> list[EpisodeSpec]:
    """Return the episodes of an evaluation; the arguments are those of :func:`evaluate`."""
    available = envs.num_problems
    if available is not None and num_problems > available:
        raise ValueError(f"Expect at most {available} problems, got num_problems={num_problems}.")
    return [
        EpisodeSpec(
            group_id=problem,
            env_seed=problem,
            sampling_seed=seed_of(seed, problem, sample, bits=64),
            options={**options, **({} if available is None else {"problem_index": problem})},
            sample=sample,
        )
        for problem in range(num_problems)
        for sample in range(num_samples)
        if wanted((problem, sample))
    ]
