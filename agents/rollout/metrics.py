"""What is worth knowing about a step: figures of its trajectories.

Names are TRL's where it has one. Lengths are in tokens. docs/training.md has the table of all metrics.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from agents.core.errors import AgentsError
from agents.core.types import Batch, PolicyOutput, Trajectory

if TYPE_CHECKING:
    import torch


class MetricsError(AgentsError, ValueError):
    """What a run has written step by step cannot be read."""


def describe(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return figures of the trajectories; rewards and accuracy are of those with a valid reward.

    ``tools/*`` read the environment's ``n_code_blocks`` and ``execution_status`` where it reports them.
    """
    valid = [t for t in trajectories if t.reward_valid]
    lengths = [sum(t.action_mask) for t in trajectories]
    statuses = [s for t in trajectories for turn in t.turns[:-1] if (s := turn.info.get("execution_status"))]
    blocks = [float(t.info.get("n_code_blocks", 0)) for t in trajectories]
    figures = {
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
        "tools/budget_exhausted_ratio": fmean(has_used_up(t) for t in trajectories),
        "tools/timeout_frequency": fmean(s == "timeout" for s in statuses) if statuses else 0.0,
        "episodes/void_ratio": fmean(map(is_void, trajectories)),
        "episodes/invalid_ratio": 1 - len(valid) / len(trajectories),
        "episodes/boundary_cuts": float(sum(t.boundary_cuts for t in trajectories)),
    }
    if not valid:
        return figures
    rewards = [t.reward for t in valid]
    groups: dict[int, set[float]] = {}
    for t in valid:
        groups.setdefault(t.group_id, set()).add(t.reward)
    mean = fmean(rewards)
    return figures | {
        "reward": mean,
        "reward_std": fmean((r - mean) ** 2 for r in rewards) ** 0.5,
        "frac_reward_zero_std": fmean(len(rewards) == 1 for rewards in groups.values()),
        "accuracy": fmean(is_correct(t) for t in valid),
    }


def describe_mismatch(batch: Batch, old: PolicyOutput, weights: torch.Tensor) -> dict[str, float]:
    """Return how far the engine's log-probabilities of the sampled tokens are from the trainer's before the update.

    Args:
        batch: ``B`` sequences.
        old: The policy's output before the update.
        weights: ``[B, T]``, from :func:`agents.learning.advantages.correction`.
    """
    difference = (old.logprobs - batch.sampling_logprobs)[batch.action_mask]
    ratio = weights[batch.action_mask]
    return {
        "sampling/sampling_logp_difference/mean": float(difference.abs().mean()),
        "sampling/sampling_logp_difference/max": float(difference.abs().max()),
        "sampling/importance_sampling_ratio/min": float(ratio.min()),
        "sampling/importance_sampling_ratio/mean": float(ratio.mean()),
        "sampling/importance_sampling_ratio/max": float(ratio.max()),
    }


def describe_staleness(trajectories: Sequence[Trajectory], version: int) -> dict[str, float]:
    """Return by how many updates the weights that sampled are older than those of ``version``, per sampled token."""
    ages = [
        version - v for t in trajectories for v, acted in zip(t.policy_versions, t.action_mask, strict=True) if acted
    ]
    return {"sampling/staleness_mean": fmean(ages), "sampling/staleness_max": float(max(ages))}


def has_used_up(trajectory: Trajectory) -> bool:
    """Return whether an episode has executed as many blocks as it may, and may execute any."""
    info = trajectory.info
    return bool(info.get("interaction_budget")) and info.get("interactions_left") == 0


def is_void(trajectory: Trajectory) -> bool:
    """Return whether the last turn is void: it holds no answer, though the environment says what it read as one."""
    return "predicted" in trajectory.info and trajectory.info["predicted"] is None and trajectory.reward_valid


def is_correct(trajectory: Trajectory) -> bool:
    """Return whether the environment says ``correct``, or, where it does not say, whether the reward is positive."""
    correct = trajectory.info.get("correct")
    return trajectory.reward > 0 if correct is None else bool(correct)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a ``metrics.jsonl``; a last line that a killed run left unfinished is left out.

    Raises:
        MetricsError: Another line is none.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise MetricsError(f"{path}, line {number}: Expect a row with a step, got {line[:40]!r}: remove the line.")
        rows.append(row)
    return rows
