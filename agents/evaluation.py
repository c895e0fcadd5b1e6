"""Accuracy of a policy on a set of problems: every problem gets the same number of episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.metrics import describe, is_correct
from agents.rollout import collect
from agents.types import Episode, Trajectory

if TYPE_CHECKING:
    from agents.chat import Chat
    from agents.engines.base import Engine, Sampling
    from agents.envs import EnvPool


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased chance that at least one of ``k`` samples is correct, given ``c`` correct ones of ``n``.

    (arXiv 2107.03374, eq. 1.)

    Raises:
        ValueError: ``k`` is not in 1..n, or ``c`` not in 0..n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"Expect 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}.")
    return 1.0 - comb(n - c, k) / comb(n, k)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The outcome of :func:`evaluate`."""

    num_samples: int
    """Episodes of each problem."""
    trajectories: tuple[Trajectory, ...]
    """All of them, problem by problem."""

    def correct_by_problem(self) -> list[tuple[int, int]]:
        """Return (valid episodes, correct episodes) of each problem."""
        groups: dict[int, list[Trajectory]] = {}
        for t in self.trajectories:
            groups.setdefault(t.group_id, []).append(t)
        return [
            (sum(t.reward_valid for t in group), sum(t.reward_valid and is_correct(t) for t in group))
            for group in groups.values()
        ]

    def figures(self) -> dict[str, float]:
        """Return ``avg@n``, ``pass@k`` for the powers of two up to n, and :func:`agents.metrics.describe`'s figures.

        A problem with fewer than k valid episodes is left out of ``pass@k``.
        """
        counts = self.correct_by_problem()
        n = self.num_samples
        ks = [2**i for i in range(n.bit_length()) if 2**i <= n]
        rates = {f"pass@{k}": [pass_at_k(v, c, k) for v, c in counts if v >= k] for k in {*ks, n}}
        figures = {name: fmean(values) for name, values in rates.items() if values}
        average = [c / v for v, c in counts if v]
        if average:
            figures[f"avg@{n}"] = fmean(average)
        return figures | describe(self.trajectories)

    def accuracy_by(self, key: str) -> dict[str, float]:
        """Return the accuracy of the valid episodes by a string in the environment's info, such as ``subject``."""
        groups: dict[str, list[bool]] = {}
        for t in self.trajectories:
            if t.reward_valid:
                groups.setdefault(str(t.info.get(key, "")), []).append(is_correct(t))
        return {name: fmean(values) for name, values in sorted(groups.items())}


def evaluate(
    envs: EnvPool,
    engine: Engine,
    chat: Chat,
    sampling: Sampling,
    *,
    num_problems: int,
    num_samples: int = 1,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    on_end: Callable[[Trajectory], None] = lambda _: None,
) -> Evaluation:
    """Play ``num_samples`` episodes of each of the first ``num_problems`` problems.

    Args:
        envs: Copies of the environment. If it has a problem set, problem i is ``problem_index`` i; else it is what
            ``reset(seed=i)`` sets.
        engine: Samples the tokens.
        chat: Encodes prompts and feedback.
        sampling: As for :func:`agents.rollout.collect`.
        num_problems: At most as many as the environment has.
        num_samples: Episodes of each problem.
        seed: Seed of the sampling.
        options: More reset options, such as ``interaction_budget``.
        on_end: Called with each trajectory as it ends.
    """
    available = envs.num_problems
    if available is not None and num_problems > available:
        raise ValueError(f"Expect at most {available} problems, got num_problems={num_problems}.")
    episodes = [
        Episode(
            group_id=problem,
            env_seed=problem,
            sampling_seed=int(np.random.SeedSequence([seed, problem, sample]).generate_state(1, np.uint64)[0]),
            options={**(options or {}), **({} if available is None else {"problem_index": problem})},
        )
        for problem in range(num_problems)
        for sample in range(num_samples)
    ]
    trajectories = collect(envs, engine, chat, episodes, sampling, on_end=on_end)
    return Evaluation(num_samples=num_samples, trajectories=tuple(trajectories))


def transcript(trajectory: Trajectory) -> dict[str, Any]:
    """Return what a person wants to read of a trajectory, ready for JSON."""
    info = trajectory.info
    return {
        "problem_id": trajectory.problem_id,
        "subject": info.get("subject"),
        "text": trajectory.text,
        "predicted": info.get("predicted"),
        "answer": info.get("answer"),
        "reward": trajectory.reward,
        "reward_valid": trajectory.reward_valid,
        "correct": is_correct(trajectory),
        "truncated": trajectory.truncated,
        "sampled_tokens": sum(trajectory.action_mask),
    }


def best_and_worst(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Return one correct and one wrong trajectory, as far as there are."""
    right = [t for t in trajectories if is_correct(t)]
    wrong = [t for t in trajectories if not is_correct(t)]
    return right[:1] + wrong[:1]
