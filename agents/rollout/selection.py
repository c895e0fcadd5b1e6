"""Describes a step's trajectories and selects those to train on: pure functions of trajectories.

Names of metrics follow TRL where it has the metric. Lengths are in tokens. `agents.tracking.metrics` lists all.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from agents.core.blocks import count_used, ran, recovers
from agents.core.types import Trajectory
from agents.learning.advantages import ROUNDING

if TYPE_CHECKING:
    from agents.config.training import SelectionConfig

Group = Sequence[Trajectory]
CALLS = "tools/call_frequency"
"""Metric of the blocks per episode, and prefix of those by level and by subject."""


def choose(trajectories: Sequence[Trajectory], count: int, config: SelectionConfig) -> list[Trajectory]:
    """Return the first ``count`` groups that pass the filters, each thinned out.

    Args:
        trajectories: Whole groups, one after the other.
        count: How many groups.
        config: The filters, and how many episodes of a group stay.
    """
    chosen = [group for group in _groups(trajectories) if teaches(group, config)]
    return [trajectory for group in chosen[:count] for trajectory in thin_out(group, config.keep_generations)]


def until_enough(trajectories: Sequence[Trajectory], count: int, config: SelectionConfig) -> list[Trajectory]:
    """Return the trajectories up to the group that is the ``count``-th to pass the filters; all if there is none.

    Args:
        trajectories: Whole groups, one after the other.
        count: How many groups are needed.
        config: The filters.
    """
    kept: list[Trajectory] = []
    for group in _groups(trajectories):
        if count == 0:
            break
        kept += group
        count -= teaches(group, config)
    return kept


def _groups(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    groups: dict[int, list[Trajectory]] = {}
    for trajectory in trajectories:
        groups.setdefault(trajectory.group_id, []).append(trajectory)
    return list(groups.values())


def teaches(group: Group, config: SelectionConfig) -> bool:
    """Return whether a group's accuracy is within the range and, if configured, its valid rewards differ.

    (Dynamic sampling: DAPO, arXiv 2503.14476, section 3.2.)
    """
    valid = [t for t in group if t.reward_valid]
    if not valid or (config.differing_rewards and not _differ([t.reward for t in valid])):
        return False
    return config.min_accuracy <= fmean(t.is_correct for t in valid) <= config.max_accuracy


def _differ(rewards: Sequence[float]) -> bool:
    """Return whether rewards differ by more than rounding, as in the advantages."""
    return max(rewards) - min(rewards) > ROUNDING * max(map(abs, rewards))


def thin_out(group: Group, count: int | None) -> list[Trajectory]:
    """Keep ``count`` episodes of a group, right and wrong ones in their original proportion.

    The cleanest right ones are kept: first those with the lowest share of failed blocks, then those with few blocks.
    Wrong ones are kept in their order, so that all kinds of failure stay (resampling on correct: rStar2-Agent, arXiv
    2508.20722, section 3.2). Episodes without a valid reward are dropped first.

    Args:
        group: The episodes of one problem.
        count: How many to keep; None: all.
    """
    if count is None or len(group) <= count:
        return list(group)
    right = sorted((t for t in group if t.reward_valid and t.is_correct), key=_messiness)
    wrong = [t for t in group if t.reward_valid and not t.is_correct]
    num_right = round(count * len(right) / max(1, len(right) + len(wrong)))
    num_right = min(max(num_right, count - len(wrong), min(1, len(right))), len(right))
    kept = {id(t) for t in [*right[:num_right], *wrong[: count - num_right]]}
    return [t for t in group if id(t) in kept]


def is_in_loss(trajectory: Trajectory, config: SelectionConfig) -> bool:
    """Return whether an episode enters the loss; otherwise it still counts in its group's baseline.

    (Overlong filtering: DAPO, section 3.4; void turns: SimpleTIR, arXiv 2509.02479.)
    """
    too_long = config.mask_truncated_completions and trajectory.truncated
    return not too_long and not (config.mask_void_turns and trajectory.is_void)


def _messiness(trajectory: Trajectory) -> tuple[float, int]:
    """Return the share of an episode's blocks that failed, and their number."""
    statuses = [s for turn in trajectory.turns if (s := turn.info.get("execution_status"))]
    return (fmean(s != "ok" for s in statuses) if statuses else 0.0), len(statuses)


def describe(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return metrics of the trajectories; reward and accuracy metrics use only those with a valid reward.

    ``tools/*`` use the environment's ``n_code_blocks`` and ``execution_status`` where it reports them.
    """
    valid = [t for t in trajectories if t.reward_valid]
    lengths = [sum(t.action_mask) for t in trajectories]
    outcomes = {
        outcome: [n for t, n in zip(trajectories, lengths, strict=True) if t.reward_valid and t.is_correct == right]
        for outcome, right in (("right", True), ("wrong", False))
    }
    statuses = [status for t in trajectories for status, _ in t.blocks]
    used = sum(count_used([feedback for _, feedback in t.blocks], t.info.get("predicted")) for t in trajectories)
    failed = [t for t in valid if False in ran(status for status, _ in t.blocks)]
    recovered = [t for t in failed if recovers(ran(status for status, _ in t.blocks))]
    blocks = [float(t.info.get("n_code_blocks", 0)) for t in trajectories]
    metrics = {
        "completions/mean_length": fmean(lengths),
        "completions/max_length": float(max(lengths)),
        **{f"completions/mean_length_{outcome}": fmean(of) for outcome, of in outcomes.items() if of},
        "completions/clipped_ratio": fmean(t.truncated for t in trajectories),
        "completions/mean_feedback_length": fmean(
            len(t.token_ids) - t.prompt_length - n for t, n in zip(trajectories, lengths, strict=True)
        ),
        "interaction_budget": fmean(float(t.info.get("interaction_budget", 0)) for t in trajectories),
        CALLS: fmean(blocks),
        **_calls_by("level", trajectories, blocks),
        **_calls_by("subject", trajectories, blocks),
        "tools/use_ratio": fmean(b > 0 for b in blocks),
        "tools/output_use_ratio": used / len(statuses) if statuses else 0.0,
        "tools/failure_frequency": fmean(s != "ok" for s in statuses) if statuses else 0.0,
        "tools/budget_exhausted_ratio": fmean(t.has_used_up_budget for t in trajectories),
        "tools/timeout_frequency": fmean(s == "timeout" for s in statuses) if statuses else 0.0,
        **({"tools/recovery_ratio": len(recovered) / len(failed)} if failed else {}),
        **({"tools/recovery_right_ratio": sum(t.is_correct for t in recovered) / len(failed)} if failed else {}),
        "episodes/void_ratio": fmean(t.is_void for t in trajectories),
        "episodes/invalid_ratio": 1 - len(valid) / len(trajectories),
        "episodes/boundary_cuts": float(sum(t.boundary_cuts for t in trajectories)),
    }
    if not valid:
        return metrics
    rewards = [t.reward for t in valid]
    groups: dict[int, list[float]] = {}
    for t in valid:
        groups.setdefault(t.group_id, []).append(t.reward)
    mean = fmean(rewards)
    return metrics | {
        "reward": mean,
        "reward_std": fmean((r - mean) ** 2 for r in rewards) ** 0.5,
        "frac_reward_zero_std": fmean(not _differ(rewards) for rewards in groups.values()),
        "accuracy": fmean(t.is_correct for t in valid),
    }


def _calls_by(key: str, trajectories: Sequence[Trajectory], blocks: Sequence[float]) -> dict[str, float]:
    """Return the mean number of blocks by a string in the environment's info; nothing unless there are several."""
    groups: dict[str, list[float]] = {}
    for t, written in zip(trajectories, blocks, strict=True):
        if name := t.info.get(key):
            groups.setdefault(str(name), []).append(written)
    means = {f"{CALLS}/{key}/{name}": fmean(of) for name, of in sorted(groups.items())}
    return means if len(means) > 1 else {}


def describe_staleness(trajectories: Sequence[Trajectory], version: int) -> dict[str, float]:
    """Return how many updates the sampling weights lag behind ``version``: mean and maximum over sampled tokens."""
    ages = [
        version - v for t in trajectories for v, acted in zip(t.policy_versions, t.action_mask, strict=True) if acted
    ]
    return {"sampling/staleness_mean": fmean(ages), "sampling/staleness_max": float(max(ages))}
