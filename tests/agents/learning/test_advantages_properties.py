"""Laws of the advantages, for any rewards, groups, values and masks."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.learning.advantages import (
    EFFICIENCY_CLIP,
    ESTIMATORS,
    favour_few_calls,
    gae,
    reinforce_plus_plus_baseline,
    whiten,
)

FAST = settings(max_examples=100, deadline=None, derandomize=True, database=None)

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(1, 6), st.integers(1, 9))
rates = st.sampled_from([0.0, 0.5, 0.9, 1.0])


def drawn(seed: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, groups, values and a mask with at least one action."""
    random = torch.Generator().manual_seed(seed)
    rows, length = size
    mask = torch.rand(rows, length, generator=random) < 0.6
    mask[0, 0] = True
    return (
        torch.randint(-1, 2, (rows,), generator=random).float(),
        torch.randint(0, 3, (rows,), generator=random),
        torch.randn(rows, length, generator=random),
        mask,
    )


def defined(reward: float, values: list[float], gamma: float, lam: float) -> list[float]:
    """Generalised advantages by equation 16 of arXiv 1506.02438: a sum over all later errors."""
    steps = len(values)
    errors = [(reward if t == steps - 1 else gamma * values[t + 1]) - values[t] for t in range(steps)]
    return [sum((gamma * lam) ** k * errors[t + k] for k in range(steps - t)) for t in range(steps)]


@FAST
@given(seeds, sizes)
def test_whitened_values_have_mean_zero_and_variance_one(seed: int, size: tuple[int, int]) -> None:
    _, _, values, mask = drawn(seed, size)
    out = whiten(values.double(), mask)  # two values may be so close that float32 rounds away much of their difference
    assert out[~mask].abs().sum() == 0
    assert abs(float(out[mask].mean())) < 1e-5
    if mask.sum() > 1:
        assert abs(float(out[mask].var(correction=0)) - 1) < 1e-3


@FAST
@given(seeds, sizes, st.floats(0.1, 10), st.floats(-10, 10))
def test_whitening_is_invariant_to_scale_and_shift(
    seed: int, size: tuple[int, int], scale: float, shift: float
) -> None:
    _, _, values, mask = drawn(seed, size)
    if mask.sum() > 1 and values[mask].std() > 0.1:
        assert torch.allclose(whiten(values * scale + shift, mask), whiten(values, mask), atol=1e-3)


@FAST
@given(seeds, sizes)
def test_the_tokens_of_a_sequence_share_one_advantage(seed: int, size: tuple[int, int]) -> None:
    rewards, groups, _, mask = drawn(seed, size)
    advantages = reinforce_plus_plus_baseline(rewards, groups, mask).advantages
    assert advantages[~mask].abs().sum() == 0
    for row, acts in zip(advantages, mask, strict=True):
        assert len(set(row[acts].tolist())) <= 1


@FAST
@given(seeds, sizes)
def test_feedback_and_padding_change_no_advantage(seed: int, size: tuple[int, int]) -> None:
    rewards, groups, _, mask = drawn(seed, size)
    spread = torch.zeros(size[0], 2 * size[1] + 3, dtype=torch.bool)
    spread[:, 2 : 2 * size[1] + 2 : 2] = mask
    one = reinforce_plus_plus_baseline(rewards, groups, mask).advantages
    other = reinforce_plus_plus_baseline(rewards, groups, spread).advantages
    assert torch.allclose(one[mask], other[spread], atol=1e-6)


@FAST
@given(seeds, sizes)
def test_within_a_group_a_better_reward_has_a_higher_advantage(seed: int, size: tuple[int, int]) -> None:
    rewards, groups, _, mask = drawn(seed, size)
    mask[:, 0] = True
    first = reinforce_plus_plus_baseline(rewards, groups, mask).advantages[:, 0]
    for i in range(size[0]):
        for j in range(size[0]):
            if groups[i] == groups[j]:
                assert torch.sign(first[i] - first[j]) == torch.sign(rewards[i] - rewards[j])


@FAST
@given(seeds, sizes, st.floats(-5, 5))
def test_a_bonus_for_the_whole_group_changes_nothing(seed: int, size: tuple[int, int], bonus: float) -> None:
    rewards, groups, _, mask = drawn(seed, size)
    plain = reinforce_plus_plus_baseline(rewards, groups, mask).advantages
    raised = reinforce_plus_plus_baseline(rewards + bonus * (groups == groups[0]), groups, mask).advantages
    assert torch.allclose(plain, raised, atol=2e-2)


@FAST
@given(seeds, sizes, rates.filter(bool), rates)
def test_gae_equals_its_definition(seed: int, size: tuple[int, int], gamma: float, lam: float) -> None:
    rewards, _, values, mask = drawn(seed, size)
    out = gae(rewards, values, mask, gamma=gamma, lam=lam, whitened=False)
    for row, acts in enumerate(mask):
        expected = torch.tensor(defined(float(rewards[row]), values[row][acts].tolist(), gamma, lam))
        assert torch.allclose(out.advantages[row][acts], expected, atol=1e-5)
        assert torch.allclose(out.returns[row][acts], expected + values[row][acts], atol=1e-5)
    assert out.advantages[~mask].abs().sum() == out.returns[~mask].abs().sum() == 0


@FAST
@given(seeds, sizes)
def test_values_at_feedback_tokens_have_no_influence(seed: int, size: tuple[int, int]) -> None:
    rewards, _, values, mask = drawn(seed, size)
    one = gae(rewards, values, mask, gamma=0.9, lam=0.9)
    other = gae(rewards, torch.where(mask, values, 1e6), mask, gamma=0.9, lam=0.9)
    assert torch.equal(one.advantages, other.advantages)
    assert torch.equal(one.returns, other.returns)


weights = st.floats(0.01, 100)


def called(seed: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Executed blocks of a budget of 4, as shares, and which answers are right."""
    random = torch.Generator().manual_seed(seed + 1)
    return torch.randint(0, 5, (rows,), generator=random) / 4, torch.rand(rows, generator=random) < 0.6


@FAST
@given(seeds, sizes, weights)
def test_favouring_few_calls_touches_right_answers_alone_and_keeps_signs_and_bounds(
    seed: int, size: tuple[int, int], weight: float
) -> None:
    _, groups, plain, _ = drawn(seed, size)
    calls, correct = called(seed, size[0])
    shaped = favour_few_calls(plain, calls, correct, groups, weight=weight)
    assert torch.equal(shaped[~correct], plain[~correct])
    assert torch.equal(shaped.sign(), plain.sign())
    assert ((shaped - plain).abs() <= EFFICIENCY_CLIP * plain.abs() + 1e-6).all()
    assert ((shaped - plain).abs() <= weight + 1e-6).all()


@FAST
@given(seeds, sizes, weights, st.sampled_from([0.0, 0.25, 1 / 3, 1.0]))
def test_equal_calls_change_no_advantage(seed: int, size: tuple[int, int], weight: float, share: float) -> None:
    _, groups, plain, _ = drawn(seed, size)
    _, correct = called(seed, size[0])
    calls = torch.where(correct, share, 0.5)  # those of wrong answers are never looked at
    assert torch.equal(favour_few_calls(plain, calls, correct, groups, weight=weight), plain)


@FAST
@given(seeds, sizes, weights, st.sampled_from(sorted(ESTIMATORS)))
def test_a_wrong_answer_never_becomes_better_than_a_right_one_of_its_group(
    seed: int, size: tuple[int, int], weight: float, estimator: str
) -> None:
    _, groups, _, mask = drawn(seed, size)
    mask[:, 0] = True
    calls, correct = called(seed, size[0])
    plain = ESTIMATORS[estimator](torch.where(correct, 1.0, -1.0), groups, mask).advantages
    first = favour_few_calls(plain, calls, correct, groups, weight=weight)[:, 0]
    for right in correct.nonzero()[:, 0]:
        for wrong in (~correct & (groups == groups[right])).nonzero()[:, 0]:
            assert first[right] > first[wrong]


@FAST
@given(seeds, sizes, weights)
def test_of_two_right_answers_with_equal_advantages_fewer_calls_are_never_worse(
    seed: int, size: tuple[int, int], weight: float
) -> None:
    _, groups, _, _ = drawn(seed, size)
    calls, correct = called(seed, size[0])
    shaped = favour_few_calls(torch.ones(size[0], 1), calls, correct, groups, weight=weight)[:, 0]
    for one in correct.nonzero()[:, 0]:
        for other in (correct & (groups == groups[one]) & (calls < calls[one])).nonzero()[:, 0]:
            assert shaped[other] >= shaped[one]
