"""Advantage estimators: pure functions of rewards, groups, values and masks.

All of them return tensors of shape ``[B, T]`` that are 0 wherever ``action_mask`` is False: feedback and prompt tokens
enter neither the advantages nor the statistics of the whitening.
"""

from __future__ import annotations

import torch

from agents.types import Advantages


def whiten(values: torch.Tensor, mask: torch.Tensor, *, eps: float = 1e-8) -> torch.Tensor:
    """Return ``values`` with mean 0 and variance 1 over the elements where ``mask`` is True, and 0 elsewhere.

    Args:
        values: Any shape.
        mask: bool, the same shape.
        eps: Added to the variance.
    """
    count = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / count
    variance = ((values - mean).square() * mask).sum() / count
    return (values - mean) * torch.rsqrt(variance + eps) * mask


def reinforce_plus_plus_baseline(
    rewards: torch.Tensor, group_ids: torch.Tensor, action_mask: torch.Tensor
) -> Advantages:
    """Subtract the mean reward of the group, broadcast over the sequence's tokens, whiten over the whole batch.

    The group's spread does not divide: easy and hard problems keep their weight. (The paper, section 4; REINFORCE++
    with a group baseline, arXiv 2501.03262.)

    Args:
        rewards: ``[B]``.
        group_ids: ``[B]`` integers; equal numbers form a group.
        action_mask: ``[B, T]`` bool.

    >>> mask = torch.ones(2, 3, dtype=torch.bool)
    >>> result = reinforce_plus_plus_baseline(torch.tensor([1.0, -1.0]), torch.tensor([7, 7]), mask)
    >>> result.advantages.tolist()
    [[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]
    """
    _, group = torch.unique(group_ids, return_inverse=True)
    sums = torch.zeros(int(group.max()) + 1, device=rewards.device).index_add_(0, group, rewards)
    counts = torch.zeros_like(sums).index_add_(0, group, torch.ones_like(rewards))
    centred = rewards - (sums / counts)[group]
    return Advantages(
        advantages=whiten(centred[:, None].expand(action_mask.shape), action_mask),
        returns=rewards[:, None] * action_mask,
    )


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    action_mask: torch.Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    whitened: bool = True,
) -> Advantages:
    """Generalised advantage estimation over the sampled tokens (arXiv 1506.02438), the reward at the last of them.

    The time of the decision process runs over sampled tokens: from the last token before a feedback it steps to the
    first one after it.

    Args:
        rewards: ``[B]``, given at each sequence's last sampled token.
        values: ``[B, T]``: value of the state in which token t was drawn.
        action_mask: ``[B, T]`` bool.
        gamma: Discount in (0, 1].
        lam: Trace decay in [0, 1].
        whitened: Whiten the advantages over the batch's sampled tokens; the returns never are.
    """
    advantages = torch.zeros_like(values)
    next_advantage = torch.zeros_like(rewards)
    next_value = torch.zeros_like(rewards)
    reward_ahead = rewards.clone()
    for t in reversed(range(values.shape[1])):
        acts = action_mask[:, t]
        delta = reward_ahead + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(acts, advantage, 0.0)
        next_advantage = torch.where(acts, advantage, next_advantage)
        next_value = torch.where(acts, values[:, t], next_value)
        reward_ahead = torch.where(acts, 0.0, reward_ahead)
    returns = (advantages + values) * action_mask
    return Advantages(
        advantages=whiten(advantages, action_mask) if whitened else advantages,
        returns=returns,
    )
