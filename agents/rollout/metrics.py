"""Metrics of a step's trajectories.

Names follow TRL where it has the metric. Lengths are in tokens. docs/training.md lists all metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from agents.core.types import Trajectory


def describe(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return metrics of the trajectories; reward and accuracy metrics use only those with a valid reward.

    ``tools/*`` use the environment's ``n_code_blocks`` and ``execution_status`` where it reports them.
    """
    valid = [t for t in trajectories if t.reward_valid]
    lengths = [sum(t.action_mask) for t in trajectories]
    statuses = [s for t in trajectories for turn in t.turns[:-1] if (s := turn.info.get("execution_status"))]
    blocks = [float(t.info.get("n_code_blocks", 0)) for t in trajectories]
    metrics = {
        "completions/mean_length": fmean(lengths),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": fmean(t.truncated for t in trajectories),
        "completions/mean_feedback_length": fmean(
            len(t.token_ids) - t.prompt_length - n for t, n in zip(trajectories, lengths, strict=True)
        ),
        "interaction_budget": fmean(float(t.info.get("interaction_budget", 0)) for t in trajectories),
        "tools/call_frequency": fmean(blocks),
        "tools/use_ratio": fmean(b > 0 for b in blocks),
        "tools/failure_frequency": fmean(s != "ok" for s in statuses) if statuses else 0.0,
        "tools/budget_exhausted_ratio": fmean(t.has_used_up_budget for t in trajectories),
        "tools/timeout_frequency": fmean(s == "timeout" for s in statuses) if statuses else 0.0,
        "episodes/void_ratio": fmean(t.is_void for t in trajectories),
        "episodes/invalid_ratio": 1 - len(valid) / len(trajectories),
        "episodes/boundary_cuts": float(sum(t.boundary_cuts for t in trajectories)),
    }
    if not valid:
        return metrics
    rewards = [t.reward for t in valid]
    groups: dict[int, set[float]] = {}
    for t in valid:
        groups.setdefault(t.group_id, set()).add(t.reward)
    mean = fmean(rewards)
    return metrics | {
        "reward": mean,
        "reward_std": fmean((r - mean) ** 2 for r in rewards) ** 0.5,
        "frac_reward_zero_std": fmean(len(rewards) == 1 for rewards in groups.values()),
        "accuracy": fmean(t.is_correct for t in valid),
    }


def describe_staleness(trajectories: Sequence[Trajectory], version: int) -> dict[str, float]:
    """Return how many updates the sampling weights lag behind ``version``: mean and maximum over sampled tokens."""
    ages = [
        version - v for t in trajectories for v, acted in zip(t.policy_versions, t.action_mask, strict=True) if acted
    ]
    return {"sampling/staleness_mean": fmean(ages), "sampling/staleness_max": float(max(ages))}
