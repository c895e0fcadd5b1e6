"""Losses, compared with calculations by hand."""

import math
from typing import Any

import pytest
import torch

from agents.learning.losses import AGGREGATIONS, entropy_loss, kl_loss, policy_loss, value_loss


def surrogate(ratio: float, advantage: float, **arguments: Any) -> tuple[float, float]:
    """Return the loss of one token, and its derivative by the log-probability, whose old value is -1."""
    logprob = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    mask = torch.tensor([[True]])
    loss = policy_loss(
        logprob, torch.tensor([[-1.0]]), torch.tensor([[advantage]]), mask, mask.float(), **arguments
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
        (0.5, 2.0, -1.0, -1.0),  # a good token that became unlikely is pushed up without a bound
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


def test_the_dual_clip_can_be_disabled() -> None:
    assert surrogate(50.0, -2.0, dual_clip=None) == pytest.approx((100.0, 100.0))


def test_the_clip_ranges_can_be_chosen() -> None:
    assert surrogate(1.6, 1.0, epsilon=0.1, epsilon_high=0.5) == pytest.approx((-1.5, 0.0))
    assert surrogate(0.8, -1.0, epsilon=0.1, epsilon_high=0.5) == pytest.approx((0.9, 0.0))
    assert surrogate(5.0, -1.0, dual_clip=4.0) == pytest.approx((4.0, 0.0))


def test_the_loss_is_a_sum_over_action_tokens() -> None:
    logprobs = torch.zeros(2, 3)
    advantages = torch.tensor([[1.0, 2.0, 100.0], [100.0, 4.0, 8.0]])
    mask = torch.tensor([[True, True, False], [False, True, True]])
    loss = policy_loss(logprobs, logprobs, advantages, mask, mask.float())
    assert loss.total.item() == loss.metrics["policy_loss"] == -15.0


def test_masked_tokens_have_no_influence_on_loss_gradient_or_metrics() -> None:
    mask = torch.tensor([[False, True, False, True]])
    outcomes = []
    for filler in (0.0, -3.0, -80.0):
        logprobs = torch.where(mask, -1.0, filler).requires_grad_()
        old = torch.where(mask, -1.1, filler / 2)
        loss = policy_loss(logprobs, old, torch.where(mask, -2.0, filler), mask, mask.float())
        (gradient,) = torch.autograd.grad(loss.total, logprobs)
        outcomes.append((loss.total.item(), gradient.tolist(), dict(loss.metrics)))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0][1][0][::2] == [0.0, 0.0]


def test_the_metrics_count_clipped_tokens_on_each_side() -> None:
    ratios = torch.tensor([[1.3, 1.3, 0.7, 0.7, 1.0]])
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]])
    everyone = torch.ones(1, 5, dtype=torch.bool)
    metrics = policy_loss(ratios.log(), torch.zeros(1, 5), advantages, everyone, everyone.float()).metrics
    assert metrics["clip_ratio/high_mean"] == 1
    assert metrics["clip_ratio/low_mean"] == 1


def test_the_kl_estimate_is_schulmans_third() -> None:
    metrics = policy_loss(
        torch.tensor([[math.log(2.0), math.log(0.5), 5.0]]),
        torch.zeros(1, 3),
        torch.ones(1, 3),
        torch.tensor([[True, True, False]]),
        torch.ones(1, 3),
    ).metrics
    assert metrics["approx_kl"] == pytest.approx(0.5)  # (2 - 1 - log 2) + (0.5 - 1 + log 2)


def test_the_value_loss_is_half_a_squared_error_summed_over_actions() -> None:
    values = torch.tensor([[1.0, 2.0, 50.0]], requires_grad=True)
    loss = value_loss(values, torch.tensor([[3.0, 2.5, -9.0]]), torch.tensor([[True, True, False]]), torch.ones(1, 3))
    (gradient,) = torch.autograd.grad(loss.total, values)
    assert loss.total.item() == loss.metrics["value_loss"] == pytest.approx(0.5 * (4 + 0.25))
    assert gradient.tolist() == [[-2.0, -0.5, 0.0]]


def test_the_weight_of_the_value_loss_can_be_chosen() -> None:
    loss = value_loss(
        torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1), coefficient=3.0
    )
    assert loss.total.item() == 3.0


RAGGED = torch.tensor([[True, True, True, True], [True, False, True, False], [False] * 4])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token", [[1 / 6] * 4, [1 / 6, 0, 1 / 6, 0], [0] * 4]),
        ("sequence", [[1 / 8] * 4, [1 / 4, 0, 1 / 4, 0], [0] * 4]),
        ("constant", [[1 / 20] * 4, [1 / 20, 0, 1 / 20, 0], [0] * 4]),
    ],
)
def test_token_weights_equal_a_calculation_by_hand(aggregation: Any, expected: list[list[float]]) -> None:
    weights = AGGREGATIONS[aggregation](RAGGED, 10)
    for row, wanted in zip(weights.tolist(), expected, strict=True):
        assert row == pytest.approx(wanted)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_without_actions_all_weights_are_zero(aggregation: Any) -> None:
    assert AGGREGATIONS[aggregation](torch.zeros(2, 3, dtype=torch.bool), 10).tolist() == [[0.0] * 3] * 2


def test_the_weights_apply_to_the_loss_and_not_to_the_metrics() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss = policy_loss(
        torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]), mask, torch.tensor([[3.0, 5.0]])
    )
    assert loss.total.item() == -13.0
    assert loss.metrics["policy_loss"] == -3.0


def test_a_sequence_ratio_is_the_geometric_mean_and_gives_all_tokens_the_same_gradient() -> None:
    mask = torch.tensor([[True, True, False]])
    logprobs = torch.tensor([[math.log(4.0), math.log(0.25) + math.log(1.21), 7.0]], requires_grad=True)
    arguments = torch.zeros(1, 3), torch.ones(1, 3), mask, mask / 2
    loss = policy_loss(logprobs, *arguments, ratio="sequence")
    loss.total.backward()
    assert loss.total.item() == pytest.approx(-1.1)  # sqrt(4 * 0.25 * 1.21), within the clip range that 4 is not
    assert logprobs.grad is not None
    assert logprobs.grad.tolist()[0] == pytest.approx([-0.55, -0.55, 0.0])
    assert loss.metrics["clip_ratio/high_mean"] == 0
    assert policy_loss(logprobs, *arguments).metrics["clip_ratio/high_mean"] == 1


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [("k1", -0.5, -0.5), ("k2", 0.125, -0.5), ("k3", math.exp(0.5) - 1.5, 1 - math.exp(0.5))],
)
def test_the_kl_penalty_of_a_token(estimator: Any, value: float, slope: float) -> None:
    logprobs, mask = torch.tensor([[-1.5, 3.0]], requires_grad=True), torch.tensor([[True, False]])
    loss = kl_loss(logprobs, torch.tensor([[-1.0, 9.0]]), mask, mask / 2, estimator=estimator, coefficient=3.0)
    loss.total.backward()
    assert loss.metrics["kl"] == pytest.approx(value)
    assert loss.total.item() == pytest.approx(1.5 * value)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist()[0] == pytest.approx([1.5 * slope, 0.0])


def test_the_kl_estimates_agree_on_average() -> None:
    random = torch.Generator().manual_seed(0)
    policy, reference = (torch.log_softmax(torch.randn(5, generator=random) / 4, -1) for _ in range(2))
    true = float((policy.exp() * (policy - reference)).sum())
    drawn = torch.multinomial(policy.exp(), 200_000, replacement=True, generator=random)[None]
    mask = torch.ones_like(drawn, dtype=torch.bool)
    for estimator in ("k1", "k2", "k3"):
        loss = kl_loss(
            policy[drawn], reference[drawn], mask, mask / drawn.numel(), estimator=estimator, coefficient=1.0
        )
        assert loss.total.item() == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize("estimator", ["k1", "k2"])
def test_the_gradient_of_the_penalty_is_on_average_that_of_the_divergence(estimator: Any) -> None:
    random = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(5, generator=random), torch.log_softmax(torch.randn(5, generator=random), -1)
    logits.requires_grad_()
    policy = torch.log_softmax(logits, -1)
    (true,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)
    drawn = torch.multinomial(policy.detach().exp(), 200_000, replacement=True, generator=random)[None]
    mask = torch.ones_like(drawn, dtype=torch.bool)
    weights = mask / drawn.numel()
    loss = kl_loss(policy[drawn], reference[drawn], mask, weights, estimator=estimator, coefficient=1.0)
    (found,) = torch.autograd.grad(loss.total, logits)
    assert found.tolist() == pytest.approx(true.tolist(), abs=0.01)
    assert true.abs().max() > 0.05


def test_an_entropy_bonus_lowers_the_loss() -> None:
    entropy = torch.tensor([[1.0, 2.0]], requires_grad=True)
    loss = entropy_loss(entropy, torch.tensor([[0.5, 0.25]]), coefficient=0.1)
    loss.total.backward()
    assert loss.total.item() == pytest.approx(-0.1)
    assert entropy.grad is not None
    assert entropy.grad.tolist()[0] == pytest.approx([-0.05, -0.025])
