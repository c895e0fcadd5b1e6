"""Metrics match their definitions, and intervals cover the true value at their nominal rate."""

import itertools
from collections import Counter
from statistics import fmean

import numpy as np
import pytest

from agents.evaluation.bootstrap import (
    DRAWS,
    Estimate,
    majority_at_k,
    mean,
    pass_at_k,
    problem_weights,
    ratio,
    sampling_estimate,
    seed_of_set,
)


def of_problems(*values: float, seed: int = 0) -> Estimate:
    """The mean of values by problem."""
    return ratio(values, [1.0] * len(values), problem_weights(len(values), seed=seed), is_share=True)


# ---------------------------------------------------------------------------------------------------------- pass@k


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (4, 1), (6, 2), (6, 6), (7, 3)])
def test_pass_at_k_is_the_share_of_k_subsets_with_a_correct_sample(n: int, c: int) -> None:
    samples = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        share = fmean(any(subset) for subset in itertools.combinations(samples, k))
        assert pass_at_k(n, c, k) == pytest.approx(share)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 5, 2), (4, 1, 0), (4, -1, 2)])
def test_pass_at_k_rejects_impossible_numbers(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"Expect 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}."):
        pass_at_k(n, c, k)


# ------------------------------------------------------------------------------------------------------ majority@k


def chance_to_win(votes: tuple[str | None, ...]) -> float:
    """The probability of drawing "right" at random from the most frequent votes."""
    counts = Counter(vote for vote in votes if vote is not None)
    winners = [vote for vote, count in counts.items() if count == max(counts.values())]
    return winners.count("right") / len(winners) if winners else 0.0


@pytest.mark.parametrize(
    ("right", "wrong", "none"),
    [(1, [], 0), (0, [2], 1), (0, [], 3), (2, [2], 0), (3, [2, 1], 1), (2, [2, 2, 1], 0), (1, [1, 1, 1], 3)],
)
def test_majority_at_k_is_its_mean_over_all_k_subsets(right: int, wrong: list[int], none: int) -> None:
    votes = ["right"] * right + [f"wrong {i}" for i, count in enumerate(wrong) for _ in range(count)] + [None] * none
    for k in range(1, len(votes) + 1):
        expected = fmean(map(chance_to_win, itertools.combinations(votes, k)))
        assert majority_at_k(right, wrong, none, k) == pytest.approx(expected)


def test_majority_at_1_is_accuracy_also_for_hundreds_of_samples() -> None:
    assert majority_at_k(3, [5, 1], 1, 1) == pytest.approx(0.3)
    assert majority_at_k(1100, [], 0, 550) == 1.0
    assert 0.5 < majority_at_k(60, [50], 0, 40) < 1


def test_majority_rejects_more_votes_than_samples() -> None:
    with pytest.raises(ValueError, match=r"Expect 1 <= k <= 3, the number of samples, got k=4."):
        majority_at_k(2, [1], 0, 4)


# ------------------------------------------------------------------------------------------------------- intervals


def test_a_mean_over_problems_excludes_those_without_a_value() -> None:
    estimate = ratio([1.0, 0.5, 0.0], [1.0, 1.0, 0.0], problem_weights(3, seed=0), is_share=True)
    assert estimate.value == 0.75
    assert set(np.round(estimate.draws[~np.isnan(estimate.draws)], 6)) <= {0.5, 1.0, 0.75, 0.666667, 0.833333}


def test_the_spread_of_the_draws_is_the_standard_error_over_problems() -> None:
    values = np.random.default_rng(1).random(200)
    assert of_problems(*values).draws.std() == pytest.approx(values.std() / 200**0.5, rel=0.06)


def test_the_spread_with_fixed_problems_is_that_of_the_samples_alone() -> None:
    estimate = sampling_estimate([16] * 100, [8] * 50 + [16] * 50, seed=0)
    assert estimate.value == 0.75
    assert estimate.draws.std() == pytest.approx((50 * 0.25 / 16) ** 0.5 / 100, rel=0.06)


def test_intervals_hold_the_truth_about_as_often_as_they_claim() -> None:
    random, held = np.random.default_rng(0), 0
    for _ in range(200):
        solved = random.binomial(4, random.beta(1, 1, size=60))  # 60 problems, 4 samples, half solved on average
        low, high = of_problems(*(solved / 4)).interval
        held += low <= 0.5 <= high
    assert 0.9 <= held / 200 <= 0.99


@pytest.mark.parametrize(("value", "interval"), [(0.0, (0.0, 0.3085)), (1.0, (0.6915, 1.0))])
def test_unanimous_problems_have_the_exact_binomial_interval(value: float, interval: tuple[float, float]) -> None:
    assert of_problems(*[value] * 10).interval == pytest.approx(interval, abs=1e-4)  # tables: 0 of 10


def test_equal_problems_do_not_give_an_empty_interval() -> None:
    half, quarter = of_problems(*[0.5] * 10), of_problems(*[0.25] * 10)
    unseen = of_problems(*[0.0] * 10).interval[1]
    assert half.interval == pytest.approx((0.5 - unseen / 2, 0.5 + unseen / 2))
    assert (half - half).interval == pytest.approx((-unseen, unseen))
    assert (half - quarter).interval == pytest.approx((0.25 - 1.25 * unseen, 0.25 + 0.75 * unseen))


def test_the_same_seed_gives_the_same_interval_and_sets_are_drawn_independently() -> None:
    values = [0.1, 0.5, 0.9, 0.3]
    one, again, other = (of_problems(*values, seed=seed_of_set(name)) for name in ("AIME24", "AIME24", "AIME25"))
    assert one.as_json() == again.as_json()
    assert abs(np.corrcoef(one.draws, other.draws)[0, 1]) < 0.1


def test_a_paired_difference_has_a_narrower_interval_than_its_terms() -> None:
    values = np.random.default_rng(2).random(50)
    one, other = of_problems(*values), of_problems(*values * 0.9)
    low, high = (one - other).interval
    assert low < 0.1 * values.mean() < high
    assert high - low == pytest.approx((one.interval[1] - one.interval[0]) / 10)


def test_a_paired_ratio_is_computed_draw_by_draw() -> None:
    values = np.random.default_rng(3).random(50)
    estimate = of_problems(*values * 0.2) / of_problems(*values)
    assert (estimate.value, *estimate.interval) == pytest.approx((0.2, 0.2, 0.2))
    assert (of_problems(1.0) / of_problems(0.0)).as_json() is None


def test_the_mean_of_independent_estimates_has_a_narrower_interval() -> None:
    parts = [of_problems(*np.random.default_rng(i).random(40), seed=i) for i in range(4)]
    both = mean(parts)
    assert both.value == pytest.approx(fmean(part.value for part in parts))
    assert both.draws.std() == pytest.approx(fmean(part.draws.var() for part in parts) ** 0.5 / 2, rel=0.1)


def test_an_estimate_without_samples_is_none() -> None:
    assert ratio([0.0], [0.0], problem_weights(1, seed=0)).as_json() is None
    assert sampling_estimate([0], [0], seed=0).as_json() is None
    assert len(of_problems(0.5).draws) == DRAWS
