"""Losses on numbers worked by hand."""

import math
from typing import Any

import pytest
import torch

from agents.losses import policy_loss, value_loss


def surrogate(ratio: float, advantage: float, **arguments: Any) -> tuple[float, float]:
    """Return the loss of one token, and its derivative by the log-probability, whose old value is -1."""
    logprob = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    loss = policy_loss(
        logprob, torch.tensor([[-1.0]]), torch.tensor([[advantage]]), torch.tensor([[True]]), **arguments
    ).total
    loss.backward()
    assert logprob.grad is not None
    return loss.item(), logprob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.25, 2.0, -2.5, -2.5),
        (1.3, 2.0, -2.56, 0.0),  # 2 * 1.28
        (9.0, 2.0, -2.56, 0.0),
        (0.5, 2.0, -1.0, -1.0),  # a good token that became unlikely is pushed up without bound
        (1.0, -2.0, 2.0, 2.0),
        (0.85, -2.0, 1.7, 1.7),
        (0.7, -2.0, 1.6, 0.0),  # 2 * 0.8
        (0.1, -2.0, 1.6, 0.0),
        (2.0, -2.0, 4.0, 4.0),
        (2.9, -2.0, 5.8, 5.8),
        (3.1, -2.0, 6.0, 0.0),  # 2 * 3: the dual clip
        (50.0, -2.0, 6.0, 0.0),
        (50.0, 0.0, 0.0, 0.0),
    ],
)
def test_the_clipped_loss_of_a_token(ratio: float, advantage: float, loss: float, slope: float) -> None:
    assert surrogate(ratio, advantage) == pytest.approx((loss, slope), rel=1e-5, abs=1e-7)


def test_the_dual_clip_can_be_left_out() -> None:
    assert surrogate(50.0, -2.0, dual_clip=None) == pytest.approx((100.0, 100.0))


def test_the_clip_ranges_can_be_chosen() -> None:
    assert surrogate(1.6, 1.0, epsilon=0.1, epsilon_high=0.5) == pytest.approx((-1.5, 0.0))
    assert surrogate(0.8, -1.0, epsilon=0.1, epsilon_high=0.5) == pytest.approx((0.9, 0.0))
    assert surrogate(5.0, -1.0, dual_clip=4.0) == pytest.approx((4.0, 0.0))


def test_the_loss_is_a_sum_over_action_tokens() -> None:
    logprobs = torch.zeros(2, 3)
    advantages = torch.tensor([[1.0, 2.0, 100.0], [100.0, 4.0, 8.0]])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    loss = policy_loss(logprobs, logprobs, advantages, mask)
    assert loss.total.item() == loss.metrics["policy_loss"] == -15.0


def test_masked_tokens_have_no_influence_on_loss_gradient_or_metrics() -> None:
    mask = torch.tensor([[False, True, False, True]])
    outcomes = []
    for filler in (0.0, -3.0, -80.0):
        logprobs = torch.where(mask, -1.0, filler).requires_grad_()
        old = torch.where(mask, -1.1, filler / 2)
        loss = policy_loss(logprobs, old, torch.where(mask, -2.0, filler), mask)
        (gradient,) = torch.autograd.grad(loss.total, logprobs)
        outcomes.append((loss.total.item(), gradient.tolist(), dict(loss.metrics)))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0][1][0][::2] == [0.0, 0.0]


def test_the_metrics_count_clipped_tokens_on_each_side() -> None:
    ratios = torch.tensor([[1.3, 1.3, 0.7, 0.7, 1.0]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]])
    metrics = policy_loss(ratios.log(), torch.zeros(1, 5), advantages, torch.ones(1, 5, dtype=torch.bool)).metrics
    assert metrics["clip_fraction_high"] == 1
    assert metrics["clip_fraction_low"] == 1


def test_the_kl_estimate_is_schulmans_third() -> None:
    metrics = policy_loss(
        torch.tensor([[math.log(2.0), math.log(0.5), 5.0]]),
        torch.zeros(1, 3),
        torch.ones(1, 3),
        torch.tensor([[True, True, False]]),
    ).metrics
    assert metrics["approx_kl"] == pytest.approx(0.5)  # (2 - 1 - log 2) + (0.5 - 1 + log 2)


def test_the_value_loss_is_half_a_squared_error_summed_over_actions() -> None:
    values = torch.tensor([[1.0, 2.0, 50.0]], requires_grad=True)
    loss = value_loss(values, torch.tensor([[3.0, 2.5, -9.0]]), torch.tensor([[True, True, False]]))
    (gradient,) = torch.autograd.grad(loss.total, values)
    assert loss.total.item() == loss.metrics["value_loss"] == pytest.approx(0.5 * (4 + 0.25))
    assert gradient.tolist() == [[-2.0, -0.5, 0.0]]


def test_the_weight_of_the_value_loss_can_be_chosen() -> None:
    loss = value_loss(torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), coefficient=3.0)
    assert loss.total.item() == 3.0
