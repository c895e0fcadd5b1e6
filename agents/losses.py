"""Losses: pure functions that return sums over action tokens.

Sums, not means: the caller divides by the number of action tokens of the whole optimiser step, so that a step has the
same gradient however it is cut into micro-batches.
"""

from __future__ import annotations

import torch

from agents.types import Loss


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    action_mask: torch.Tensor,
    *,
    epsilon: float = 0.2,
    epsilon_high: float = 0.28,
    dual_clip: float | None = 3.0,
) -> Loss:
    """PPO's clipped surrogate with a separate upper clip ("clip-higher") and dual clip, summed over action tokens.

    For each token with ratio ``r = exp(logprob - old_logprob)`` the loss is ``max(-A r, -A clip(r, 1 - epsilon, 1 +
    epsilon_high))``; where ``A < 0`` it is at most ``-A dual_clip``. (PPO: arXiv 1707.06347, eq. 7; clip-higher: arXiv
    2503.14476, section 3.1; dual clip: arXiv 1912.09729, eq. 5; the paper's figures: 0.2, 0.28, 3.)

    Args:
        logprobs: ``[B, T]``, with a gradient.
        old_logprobs: ``[B, T]``, before the update.
        advantages: ``[B, T]``.
        action_mask: ``[B, T]`` bool.
        epsilon: Lower clip range.
        epsilon_high: Upper clip range.
        dual_clip: Bound of the ratio for negative advantages, above 1; None: no bound.

    >>> loss = policy_loss(torch.tensor([[0.0]]), torch.tensor([[0.0]]), torch.tensor([[2.0]]), torch.tensor([[True]]))
    >>> loss.total.item()
    -2.0
    """
    log_ratio = torch.where(action_mask, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - epsilon, 1 + epsilon_high)
    loss = torch.maximum(unclipped, clipped)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    with torch.no_grad():
        up = (ratio > 1 + epsilon_high) & (advantages > 0) & action_mask
        down = (ratio < 1 - epsilon) & (advantages < 0) & action_mask
        metrics = {
            "policy_loss": float((loss * action_mask).sum()),
            "approx_kl": float((ratio - 1 - log_ratio).sum()),
            "clip_fraction_high": float(up.sum()),
            "clip_fraction_low": float(down.sum()),
        }
    return Loss(total=(loss * action_mask).sum(), metrics=metrics)


def value_loss(
    values: torch.Tensor, returns: torch.Tensor, action_mask: torch.Tensor, *, coefficient: float = 0.5
) -> Loss:
    """Squared error of the value head, times ``coefficient``, summed over action tokens.

    Args:
        values: ``[B, T]``, with a gradient.
        returns: ``[B, T]``.
        action_mask: ``[B, T]`` bool.
        coefficient: Weight of this loss beside the policy's.
    """
    loss = (coefficient * (values - returns).square() * action_mask).sum()
    return Loss(total=loss, metrics={"value_loss": float(loss.detach())})
