"""Advantages, compared with calculations by hand."""

from typing import Any

import pytest
import torch

from agents.config.training import PPOConfig
from agents.core.types import Batch, PolicyOutput
from agents.learning.advantages import (
    ESTIMATORS,
    correction,
    dr_grpo,
    estimate_advantages,
    favour_few_calls,
    find_estimator,
    gae,
    grpo,
    importance_ratio,
    importance_weights,
    reinforce_plus_plus,
    reinforce_plus_plus_baseline,
    rloo,
    unbounded_correction,
    whiten,
)
from agents.learning.batching import describe_mismatch
from agents.learning.losses import policy_loss


def mask(*rows: str) -> torch.Tensor:
    """A mask drawn as rows of x (True) and dots."""
    return torch.tensor([[mark == "x" for mark in row] for row in rows])


def test_an_easier_problem_has_the_stronger_pressure_towards_few_calls() -> None:
    correct = torch.tensor([True, True, True, False, True, True, False, False])
    calls = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    groups = torch.tensor([0] * 4 + [1] * 4)
    shaped = favour_few_calls(torch.ones(8, 1), calls, correct, groups, weight=0.1)[:, 0]
    assert shaped[0] - shaped[1] > shaped[4] - shaped[5] > 0


def test_whitening_equals_a_calculation_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 99.0])
    out = whiten(values, torch.tensor([True, True, True, False]))
    assert out.tolist() == pytest.approx([-1.2247449, 0.0, 1.2247449, 0.0])


def test_whitening_with_an_empty_mask_gives_zeros() -> None:
    assert whiten(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_equal_rewards_give_advantages_of_exactly_zero() -> None:
    rewards, groups = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.tensor([4, 4, 9, 9])
    out = reinforce_plus_plus_baseline(rewards, groups, mask("xx", "x.", "xx", ".x"))
    assert out.advantages.abs().max() == 0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_rewards_that_differ_by_rounding_alone_give_advantages_of_exactly_zero(name: str) -> None:
    near = float(torch.nextafter(torch.tensor(0.7), torch.tensor(1.0)))
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    sets = [[0.7] * 6, [0.7, 0.7, near] * 2]
    if name != "reinforce_plus_plus":  # the one without a baseline for each group
        sets += [[0.1, 0.1, 0.1, 0.7, 0.7, 0.7], [1e6, 1e6, 1e6, 0.7, 0.7, near]]
    for rewards in sets:
        out = ESTIMATORS[name](torch.tensor(rewards), groups, torch.ones(6, 5, dtype=torch.bool))
        assert out.advantages.abs().max() == 0


def test_gae_with_equal_errors_gives_advantages_of_exactly_zero() -> None:
    rewards, values = torch.full((3,), 0.7), torch.full((3, 1), 0.1)
    assert gae(rewards, values, mask("x", "x", "x")).advantages.abs().max() == 0


def test_a_small_difference_of_rewards_is_not_taken_for_rounding() -> None:
    out = reinforce_plus_plus_baseline(torch.tensor([1.0, 1.001]), torch.tensor([0, 0]), mask("x", "x"))
    assert out.advantages.flatten().tolist() == pytest.approx([-0.98, 0.98], abs=0.01)


def test_two_answers_of_equal_length_get_plus_and_minus_one() -> None:
    out = reinforce_plus_plus_baseline(torch.tensor([0.0, 10.0]), torch.tensor([0, 0]), mask(".xx", ".xx"))
    assert out.advantages.flatten().tolist() == pytest.approx([0, -1, -1, 0, 1, 1])


def test_the_whitening_counts_tokens_and_not_sequences() -> None:
    # Centred: +1 on one token, -1 on three: mean -1/2, variance 3/4.
    out = reinforce_plus_plus_baseline(torch.tensor([1.0, -1.0]), torch.tensor([0, 0]), mask("x..", "xxx"))
    assert out.advantages[0].tolist() == pytest.approx([1.5 / 0.75**0.5, 0, 0])
    assert out.advantages[1].tolist() == pytest.approx([-0.5 / 0.75**0.5] * 3)


def test_a_group_is_defined_by_its_number_not_by_its_position() -> None:
    rewards = torch.tensor([1.0, 5.0, -1.0, 7.0])
    out = reinforce_plus_plus_baseline(rewards, torch.tensor([12, 3, 12, 3]), mask("x", "x", "x", "x"))
    assert out.advantages.flatten().tolist() == pytest.approx([1, -1, -1, 1])


def test_advantages_are_not_divided_by_the_spread_of_their_group() -> None:
    rewards = torch.tensor([3.0, -3.0, 1.0, -1.0])
    out = reinforce_plus_plus_baseline(rewards, torch.tensor([0, 0, 1, 1]), mask("x", "x", "x", "x"))
    assert out.advantages.flatten().tolist() == pytest.approx([v / 5**0.5 for v in (3, -3, 1, -1)])


def test_a_single_episode_is_its_own_baseline() -> None:
    out = reinforce_plus_plus_baseline(torch.tensor([1.0, -1.0, 1.0]), torch.tensor([0, 1, 1]), mask("x", "x", "x"))
    assert out.advantages.flatten().tolist() == pytest.approx([0, -(1.5**0.5), 1.5**0.5])


REWARDS, GROUPS = torch.tensor([3.0, 1.0, -1.0, 7.0, 5.0, 0.0]), torch.tensor([4, 4, 4, 2, 2, 9])
ONES = torch.ones(6, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (dr_grpo, [2, 0, -2, 1, -1, 0]),
        (rloo, [3, 0, -3, 2, -2, 0]),
        (grpo, [2 / 2.0001, 0, -2 / 2.0001, 1 / (2**0.5 + 1e-4), -1 / (2**0.5 + 1e-4), 0]),
        (reinforce_plus_plus, [(r - 2.5) / (95 / 12) ** 0.5 for r in (3, 1, -1, 7, 5, 0)]),
        (reinforce_plus_plus_baseline, [a / (10 / 6) ** 0.5 for a in (2, 0, -2, 1, -1, 0)]),
    ],
)
def test_the_estimators_equal_a_calculation_by_hand(estimate: Any, expected: list[float]) -> None:
    assert estimate(REWARDS, GROUPS, ONES).advantages.flatten().tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_zero_off_the_mask_and_gives_a_sequence_one_value(name: str) -> None:
    out = ESTIMATORS[name](torch.tensor([2.0, -1.0]), torch.tensor([0, 0]), mask(".x.x", "xx.."))
    for row, drawn in zip(out.advantages, mask(".x.x", "xx.."), strict=True):
        assert row[~drawn].tolist() == [0.0, 0.0]
        assert row[drawn][0] == row[drawn][1] != 0


def test_the_returns_are_the_rewards_on_the_sampled_tokens() -> None:
    out = reinforce_plus_plus_baseline(torch.tensor([1.0, -1.0]), torch.tensor([0, 0]), mask(".x.x", ".xx."))
    assert out.returns.tolist() == [[0, 1, 0, 1], [0, -1, -1, 0]]


def test_gae_of_one_step_is_reward_minus_value() -> None:
    out = gae(torch.tensor([1.0]), torch.tensor([[9.0, 0.25]]), mask(".x"), whitened=False)
    assert out.advantages.tolist() == [[0.0, 0.75]]
    assert out.returns.tolist() == [[0.0, 1.0]]


def test_gae_equals_a_calculation_by_hand() -> None:
    # Three steps, reward 2 at the last, gamma 1/2, lambda 1/2: deltas 0.5*2-1=0, 0.5*4-2=0, 2-4=-2.
    out = gae(torch.tensor([2.0]), torch.tensor([[1.0, 2.0, 4.0]]), mask("xxx"), gamma=0.5, lam=0.5, whitened=False)
    assert out.advantages.tolist() == [[-0.125, -0.5, -2.0]]
    assert out.returns.tolist() == [[0.875, 1.5, 2.0]]


def test_gae_steps_over_feedback() -> None:
    values = torch.tensor([[7.0, 1.0, 8.0, 9.0, 2.0, 4.0, 3.0]])
    spread = gae(torch.tensor([2.0]), values, mask(".x..xx."), gamma=0.5, lam=0.5, whitened=False)
    assert spread.advantages.tolist() == [[0, -0.125, 0, 0, -0.5, -2.0, 0]]
    assert spread.returns.tolist() == [[0, 0.875, 0, 0, 1.5, 2.0, 0]]


def test_gae_with_lambda_zero_is_the_one_step_error() -> None:
    out = gae(torch.tensor([1.0]), torch.tensor([[0.5, 0.25]]), mask("xx"), lam=0.0, whitened=False)
    assert out.advantages.tolist() == [[-0.25, 0.75]]


def test_gae_without_a_discount_is_the_reward_minus_the_value() -> None:
    out = gae(torch.tensor([1.0]), torch.tensor([[0.5, 0.25, -2.0]]), mask("xxx"), whitened=False)
    assert out.advantages.tolist() == [[0.5, 0.75, 3.0]]
    assert out.returns.tolist() == [[1.0, 1.0, 1.0]]


def test_a_row_without_actions_has_advantages_of_zero() -> None:
    out = gae(torch.tensor([1.0, 1.0]), torch.ones(2, 2), mask("..", "xx"), whitened=False)
    assert out.advantages[0].tolist() == out.returns[0].tolist() == [0, 0]


def test_whitening_does_not_change_the_returns_of_gae() -> None:
    arguments = torch.tensor([1.0, -1.0]), torch.rand(2, 3), mask("xx.", "xxx")
    plain, whitened = gae(*arguments, whitened=False), gae(*arguments)
    assert torch.equal(plain.returns, whitened.returns)
    assert torch.allclose(whitened.advantages, whiten(plain.advantages, arguments[2]))


def test_the_ratio_is_taken_over_tokens_sequences_or_their_mean() -> None:
    trainer = torch.tensor([[5.0, 0.5, 8.0], [7.0, 3.0, 7.0]]).log()
    acts = mask(".xx", ".x.")
    ratio = {
        level: importance_ratio(trainer, torch.zeros(2, 3), acts, level=level).tolist()  # type: ignore[arg-type]
        for level in ("token", "sequence", "geometric")
    }
    assert ratio["token"] == [pytest.approx([0, 0.5, 8]), pytest.approx([0, 3, 0])]
    assert ratio["sequence"] == [pytest.approx([0, 4, 4]), pytest.approx([0, 3, 0])]
    assert ratio["geometric"] == [pytest.approx([0, 2, 2]), pytest.approx([0, 3, 0])]


def test_weighted_samples_of_the_engine_have_the_trainers_mean() -> None:
    engine, trainer = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.2, 0.6]])
    advantages = torch.tensor([[1.0, -2.0, 3.0]])
    weights = importance_ratio(trainer.log(), engine.log(), mask("xxx"), level="token")
    assert (engine * weights * advantages).sum().item() == pytest.approx((trainer * advantages).sum().item())


def test_a_large_ratio_is_capped_or_masked_and_stays_finite() -> None:
    ratio = importance_ratio(torch.tensor([[0.0, -90.0]]), torch.tensor([[-90.0, 0.0]]), mask("xx"), level="token")
    assert importance_weights(ratio, bound="truncate", cap=2.0).tolist() == [[2.0, pytest.approx(0.0)]]
    assert importance_weights(ratio, bound="mask", cap=2.0).tolist() == [[0.0, 0.0]]


def test_weighting_the_advantages_weights_the_loss_of_each_token() -> None:
    logprobs, advantages = torch.randn(3, 4), torch.randn(3, 4)
    weights, everyone = torch.rand(3, 4) * 2, torch.ones(3, 4, dtype=torch.bool)
    for row in range(3):
        for t in range(4):
            here = torch.zeros(3, 4, dtype=torch.bool)
            here[row, t] = True
            plain = policy_loss(logprobs, torch.zeros(3, 4), advantages, everyone & here, here.float()).total
            weighed = policy_loss(
                logprobs, torch.zeros(3, 4), advantages * weights, everyone & here, here.float()
            ).total
            assert weighed.item() == pytest.approx((plain * weights[row, t]).item(), rel=1e-5)


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
@pytest.mark.parametrize("bound", ["truncate", "mask"])
def test_an_infinite_ratio_leaves_every_weight_finite(level: Any, bound: Any) -> None:
    drawn = mask(".xxx.")
    ratio = importance_ratio(torch.full((1, 5), -1.0), torch.full((1, 5), -90.0), drawn, level=level)
    weights = importance_weights(ratio, bound=bound, cap=2.0)
    assert weights[~drawn].tolist() == [0.0, 0.0]
    assert set(weights[drawn].tolist()) == {2.0 if bound == "truncate" else 0.0}


def off_policy() -> tuple[Batch, PolicyOutput]:
    """Two sequences of one token; the first is four times as likely under the trainer as under the engine."""
    acts, zeros = mask(".x", ".x"), torch.zeros(2, 2)
    batch = Batch(
        token_ids=torch.zeros(2, 2, dtype=torch.long),
        attention_mask=torch.ones(2, 2, dtype=torch.bool),
        action_mask=acts,
        sampling_logprobs=zeros,
        rewards=torch.tensor([1.0, -1.0]),
        group_ids=torch.tensor([0, 0]),
    )
    return batch, PolicyOutput(logprobs=torch.tensor([[0.0, 4.0], [0.0, 1.0]]).clamp(min=1).log(), entropy=zeros)


@pytest.mark.parametrize(
    ("config", "advantages"),
    [
        (PPOConfig(), [1.0, -1.0]),
        (PPOConfig(importance_sampling="token"), [2.0, -1.0]),
        (PPOConfig(importance_sampling="token", importance_sampling_cap=9.0), [4.0, -1.0]),
        (PPOConfig(importance_sampling="sequence", importance_sampling_bound="mask"), [0.0, -1.0]),
    ],
)
def test_the_configuration_chooses_the_correction(config: PPOConfig, advantages: list[float]) -> None:
    batch, old = off_policy()
    targets = estimate_advantages(batch, old, config, correction(batch, old, config), find_estimator(config.advantage))
    assert targets.advantages[:, 1].tolist() == pytest.approx(advantages)


@pytest.mark.parametrize(
    ("config", "capped"),
    [
        (PPOConfig(), 0.0),
        (PPOConfig(importance_sampling="token"), 0.5),
        (PPOConfig(importance_sampling="token", importance_sampling_cap=9.0), 0.0),
        (PPOConfig(importance_sampling="sequence", importance_sampling_bound="mask"), 0.5),
    ],
)
def test_the_share_of_capped_ratios_is_reported(config: PPOConfig, capped: float) -> None:
    batch, old = off_policy()
    ratios = unbounded_correction(batch, old, config)
    metrics = describe_mismatch(batch, old, correction(batch, old, config), ratios)
    assert metrics["sampling/importance_sampling_ratio/capped"] == capped


def test_gae_without_values_is_rejected() -> None:
    with pytest.raises(ValueError, match="got a policy without a value head"):
        estimate_advantages(*off_policy(), PPOConfig(advantage="gae"), torch.ones(2, 2), find_estimator("gae"))
