"""One update: from a step's trajectories to new weights.

trajectories -> batch -> old output -> advantages -> PPO
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from agents.core.types import Purpose, Trajectory, seed_of
from agents.learning.advantages import correction, estimate_advantages, favour_few_calls, unbounded_correction
from agents.learning.batching import collate, describe_mismatch
from agents.learning.policy import Policy
from agents.learning.ppo import PPO, Part, is_finite


def update(
    ppo: PPO,
    trajectories: Sequence[Trajectory],
    in_loss: Sequence[bool],
    *,
    seed: int,
    step: int,
    reference: Policy | None = None,
    guard: Callable[[Mapping[str, float], Part], bool] = is_finite,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Train a policy on trajectories with valid rewards.

    Args:
        ppo: The policy with its optimizer.
        trajectories: Whole groups, with at least one trajectory in the loss.
        in_loss: For each trajectory, whether its tokens enter the loss; every reward enters the baseline.
        seed: The run's seed.
        step: Number of the training step, from 0.
        reference: The reference policy of a KL penalty.
        guard: As for :meth:`agents.learning.ppo.PPO.update`.
        should_stop: Called after each forward and backward pass; once it returns True, the update ends.

    Returns:
        Metrics of the update; None if it was stopped.
    """
    policy, config = ppo.policy, ppo.config

    # batch
    batch = collate(trajectories, in_loss=in_loss)
    acting = batch.action_mask.any(1).nonzero()[:, 0]  # a minibatch without actions would have no gradient
    drawn = torch.Generator().manual_seed(seed_of(seed, Purpose.MINIBATCHES, step))
    minibatches = ppo.minibatches(len(acting), drawn)

    # the policy before the update, without gradients: of the first minibatch its own forward pass is enough, unless
    # the targets depend on it
    fill_in = ppo.estimate is not None and config.importance_sampling == "none"
    later = batch.action_mask.clone()
    later[acting[minibatches[0]]] &= not fill_in
    rows = dataclasses.replace(batch, action_mask=later)
    old = policy.evaluate(rows, config.micro_batch_tokens, should_stop=should_stop)
    if old is None:
        return None

    # advantages, with importance weights that correct for the mismatch between engine and trainer
    targets = estimate_advantages(batch, old, config, correction(batch, old, config), ppo.estimate)

    # efficiency: right answers with fewer calls
    if config.tool_efficiency:
        calls = torch.tensor([t.budget_share for t in trajectories])
        correct = torch.tensor([t.is_correct for t in trajectories])
        shaped = favour_few_calls(targets.advantages, calls, correct, batch.group_ids, weight=config.tool_efficiency)
        targets = dataclasses.replace(targets, advantages=shaped)

    # reference log-probabilities for a KL penalty
    if reference is not None:
        output = reference.evaluate(batch, config.micro_batch_tokens, should_stop=should_stop)
        if output is None:
            return None
        targets = dataclasses.replace(targets, reference_logprobs=output.logprobs)

    # epochs x minibatches: losses -> clip -> step
    parts = batch.rows(acting), old.rows(acting), targets.rows(acting)
    updated = ppo.update(*parts, minibatches, fill_in=fill_in, step=step, guard=guard, should_stop=should_stop)
    if updated is None:
        return None
    batch, old, _ = parts
    bounded, unbounded = correction(batch, old, config), unbounded_correction(batch, old, config)
    return describe_mismatch(batch, old, bounded, unbounded) | updated
