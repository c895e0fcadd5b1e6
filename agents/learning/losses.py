"""Losses: pure functions that return weighted sums over action tokens.

Each token's loss is multiplied by its weight, which an :data:`Aggregation` computes over the whole optimizer step. The
gradient of a step therefore does not depend on how it is split into micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch

from agents.core.plugins import load_plugin
from agents.core.types import Loss

Aggregation = Callable[[torch.Tensor, int], torch.Tensor]
"""Action mask ``[B, T]`` of an optimizer step, and ``max_completion_length``, to each token's weight ``[B, T]``."""


def token_mean(action_mask: torch.Tensor, _: int = 1) -> torch.Tensor:
    """Weight all tokens equally (DAPO, arXiv 2503.14476, and the paper).

    Args:
        action_mask: ``[B, T]`` bool, of a whole optimizer step.

    Returns:
        ``[B, T]`` float32, 0 where the mask is False.

    >>> token_mean(torch.tensor([[True, True], [True, True]])).tolist()
    [[0.25, 0.25], [0.25, 0.25]]
    """
    weights = action_mask.float()
    return weights / weights.sum().clamp(min=1)


def sequence_mean(action_mask: torch.Tensor, _: int = 1) -> torch.Tensor:
    """Weight all sequences equally, and the tokens within each sequence equally (GRPO, arXiv 2402.03300).

    Args: As for :func:`token_mean`.

    >>> sequence_mean(torch.tensor([[True, True], [True, False]])).tolist()
    [[0.25, 0.25], [0.5, 0.0]]
    """
    weights = action_mask.float()
    acting = weights.any(1).sum().clamp(min=1)
    return weights / weights.sum(1, keepdim=True).clamp(min=1) / acting


def constant_sum(action_mask: torch.Tensor, max_completion_length: int) -> torch.Tensor:
    """Weight each token by ``1 / max_completion_length`` over the number of sequences (Dr. GRPO, arXiv 2503.20783).

    Tokens of long and short answers have the same weight.

    Args:
        action_mask: As for :func:`token_mean`.
        max_completion_length: At least 1.

    >>> constant_sum(torch.tensor([[True, True], [True, False]]), 8).tolist()
    [[0.0625, 0.0625], [0.0625, 0.0]]
    """
    weights = action_mask.float()
    return weights / (weights.any(1).sum().clamp(min=1) * max_completion_length)


AGGREGATIONS: Mapping[str, Aggregation] = {"token": token_mean, "sequence": sequence_mean, "constant": constant_sum}
"""Aggregations by name; ``--ppo.aggregation module:function`` takes any other :data:`Aggregation`."""


def find_aggregation(name: str) -> Aggregation:
    """Return one of :data:`AGGREGATIONS`, or a user's own.

    Raises:
        ConfigError: A user's own cannot be imported.
    """
    return AGGREGATIONS.get(name) or load_plugin("ppo.aggregation", name, "aggregations")


def policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    action_mask: torch.Tensor,
    weights: torch.Tensor,
    *,
    epsilon: float = 0.2,
    epsilon_high: float = 0.28,
    dual_clip: float | None = 3.0,
    ratio: Literal["token", "sequence"] = "token",
) -> Loss:
    """PPO's clipped surrogate with a separate upper clip ("clip-higher") and dual clip, summed over action tokens.

    For each token with ratio ``r = exp(logprob - old_logprob)`` the loss is ``max(-A r, -A clip(r, 1 - epsilon, 1 +
    epsilon_high))``; where ``A < 0`` it is at most ``-A dual_clip``. (PPO: arXiv 1707.06347, eq. 7; clip-higher: arXiv
    2503.14476, section 3.1; dual clip: arXiv 1912.09729, eq. 5; the paper's values: 0.2, 0.28, 3.)

    Args:
        logprobs: ``[B, T]``, with a gradient.
        old_logprobs: ``[B, T]``, before the update.
        advantages: ``[B, T]``.
        action_mask: ``[B, T]`` bool.
        weights: ``[B, T]``, the weight of each token; 0 where the mask is False.
        epsilon: Lower clip range.
        epsilon_high: Upper clip range.
        dual_clip: Bound of the ratio for negative advantages, above 1; None: no bound.
        ratio: ``sequence`` uses the geometric mean of the sequence's ratios for each of its tokens (GSPO, arXiv
            2507.18071, eq. 7).

    >>> zero, mask = torch.tensor([[0.0]]), torch.tensor([[True]])
    >>> policy_loss(zero, zero, torch.tensor([[2.0]]), mask, torch.ones(1, 1)).total.item()
    -2.0
    """
    # ratio
    log_ratio = torch.where(action_mask, logprobs - old_logprobs, 0.0)
    if ratio == "sequence":
        mean = log_ratio.sum(1, keepdim=True) / action_mask.sum(1, keepdim=True).clamp(min=1)
        log_ratio = mean * action_mask
    ratios = log_ratio.exp()
    # clip
    unclipped = -advantages * ratios
    clipped = -advantages * ratios.clamp(1 - epsilon, 1 + epsilon_high)
    loss = torch.maximum(unclipped, clipped)
    # dual clip
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    # metrics
    with torch.no_grad():
        up = (ratios > 1 + epsilon_high) & (advantages > 0) & action_mask
        down = (ratios < 1 - epsilon) & (advantages < 0) & action_mask
        metrics = {
            "policy_loss": (loss * action_mask).sum(),
            "approx_kl": (ratios - 1 - log_ratio).sum(),
            "clip_ratio/high_mean": up.sum(),
            "clip_ratio/low_mean": down.sum(),
        }
    return Loss(total=(loss * weights).sum(), metrics=metrics)


def kl_loss(
    logprobs: torch.Tensor,
    reference_logprobs: torch.Tensor,
    action_mask: torch.Tensor,
    weights: torch.Tensor,
    *,
    estimator: Literal["k1", "k2", "k3"],
    coefficient: float,
) -> Loss:
    """Penalise the KL divergence from a reference policy, estimated on the sampled tokens.

    With ``d = logprob - reference_logprob``: k1 is ``d``, unbiased, of any sign; k2 is ``d^2 / 2``, whose expected
    gradient is that of the divergence; k3 is ``exp(-d) - 1 + d``, never negative (Schulman, "Approximating KL
    Divergence", 2020). The expected gradient of ``d`` itself is 0, so k1 uses the gradient of k2.

    Args:
        logprobs: ``[B, T]``, with a gradient.
        reference_logprobs: ``[B, T]``.
        action_mask: ``[B, T]`` bool.
        weights: ``[B, T]``, the weight of each token.
        estimator: The estimator.
        coefficient: Weight of this loss relative to the policy loss.

    >>> d = torch.tensor([[0.5]])
    >>> one, mask = torch.ones(1, 1), torch.tensor([[True]])
    >>> [round(kl_loss(d, 0 * d, mask, one, estimator=k, coefficient=1.0).total.item(), 4) for k in ("k1", "k2", "k3")]
    [0.5, 0.125, 0.1065]
    """
    distance = torch.where(action_mask, logprobs - reference_logprobs, 0.0)
    half_square = distance.square() / 2
    estimates = {
        "k1": half_square + (distance - half_square).detach(),
        "k2": half_square,
        "k3": torch.expm1(-distance) + distance,
    }
    kl = estimates[estimator]
    return Loss(total=coefficient * (kl * weights).sum(), metrics={"kl": kl.detach().sum()})


def entropy_loss(entropy: torch.Tensor, weights: torch.Tensor, *, coefficient: float) -> Loss:
    """Reward high entropy of the policy.

    Args:
        entropy: ``[B, T]`` in nats, with a gradient.
        weights: ``[B, T]``, the weight of each token.
        coefficient: Weight of this loss relative to the policy loss.
    """
    return Loss(total=-coefficient * (entropy * weights).sum(), metrics={})


def value_loss(
    values: torch.Tensor,
    returns: torch.Tensor,
    action_mask: torch.Tensor,
    weights: torch.Tensor,
    *,
    coefficient: float = 0.5,
) -> Loss:
    """Squared error of the value head, times ``coefficient``, summed over action tokens.

    Args:
        values: ``[B, T]``, with a gradient.
        returns: ``[B, T]``.
        action_mask: ``[B, T]`` bool.
        weights: ``[B, T]``, the weight of each token.
        coefficient: Weight of this loss relative to the policy loss.
    """
    loss = coefficient * (values - returns).square() * action_mask
    return Loss(total=(loss * weights).sum(), metrics={"value_loss": loss.detach().sum()})
