r"""Estimators of a policy's accuracy: avg@k, pass@k, majority@k, with bootstrap intervals. Pure functions.

Each metric is a mean over problems, or a ratio of two sums over problems. Its interval is the percentile bootstrap over
problems (Efron and Tibshirani, 1993, ch. 13): problems are resampled with replacement, each with all of its samples. It
thus covers both the choice of problems and the randomness of sampling, since a problem's mean carries the noise of its
samples. Resampling the samples within problems as well would count that noise twice (Davison and Hinkley, 1997,
sec. 3.8). :func:`sampling_estimate` resamples only the samples, for a fixed set of problems.

Two runs on the same problems use the same bootstrap weights, so differences and ratios of their metrics have paired
intervals.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
"""Number of bootstrap draws."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Estimate:
    """A metric with its bootstrap draws."""

    value: float
    """The metric; NaN if it is undefined."""
    draws: Floats
    """``[DRAWS]``: the metric in each draw; NaN where it is undefined, such as the accuracy of no samples."""
    observations: int | None = None
    """For a share, or a difference of two: a lower bound on the number of independent observations."""
    least: float = 0.0
    """For these: lower bound of an observation, whose upper bound is 1."""

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the difference, draw by draw."""
        return Estimate(
            value=self.value - other.value,
            draws=self.draws - other.draws,
            observations=_fewest([self, other]),
            least=self.least - 1.0,
        )

    def __truediv__(self, other: Estimate) -> Estimate:
        """Return the ratio, draw by draw; NaN where the divisor is 0."""
        divisor = np.where(other.draws == 0, np.nan, other.draws)
        return Estimate(value=self.value / other.value if other.value else float("nan"), draws=self.draws / divisor)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval (low, high).

        If all observations of a share, or of a difference of two, are equal, all draws are equal, too, and the
        bootstrap interval has no width. The interval is then widened by the largest fraction of differing observations
        that would remain unseen with a probability of at least 2.5%. If all observations are 0, or all are 1, this is
        the exact binomial interval (Clopper and Pearson, 1934). It is conservative if observations are means of several
        samples.
        """
        known = self.draws[~np.isnan(self.draws)]
        if not known.size:
            return float("nan"), float("nan")
        low, high = map(float, np.percentile(known, [2.5, 97.5]))
        if self.observations and np.ptp(known) < 1e-9:
            unseen = 1 - 0.025 ** (1 / self.observations)
            return low + unseen * (self.least - low), high + unseen * (1 - high)
        return low, high

    def as_json(self) -> dict[str, float] | None:
        """Return value, low and high; None if the value is NaN."""
        low, high = self.interval
        return None if np.isnan(self.value) else {"value": float(self.value), "low": low, "high": high}


def ratio(
    numerators: Iterable[float], denominators: Iterable[float], weights: Floats, *, is_share: bool = False
) -> Estimate:
    """Return the ratio of two sums over problems.

    For a mean over problems each denominator is 1, or 0 to exclude the problem.

    Args:
        numerators: One number per problem.
        denominators: One number per problem.
        weights: ``[DRAWS, problems]`` from :func:`problem_weights`: multiplicity of each problem in each draw.
        is_share: Whether the result is a mean of numbers in [0, 1].

    >>> estimate = ratio([1.0, 0.0, 2.0], [2.0, 2.0, 4.0], problem_weights(3, seed=0))
    >>> estimate.value, all(0 <= x <= 0.5 for x in estimate.draws)
    (0.375, True)
    """
    above, below = np.asarray([*numerators], dtype=np.float64), np.asarray([*denominators], dtype=np.float64)
    drawn = weights @ below
    draws = np.divide(weights @ above, drawn, out=np.full(len(weights), np.nan), where=drawn > 0)
    value = float(above.sum() / below.sum()) if below.sum() else float("nan")
    return Estimate(value=value, draws=draws, observations=int(np.count_nonzero(below)) if is_share else None)


def sampling_estimate(valid: Sequence[int], correct: Sequence[int], *, seed: int) -> Estimate:
    """Return avg@k with draws that resample each problem's samples with replacement; the problems stay fixed.

    A problem with one sample contributes no noise: it cannot be estimated from one sample.

    Args:
        valid: Number of judged samples of each problem; problems without any are excluded.
        correct: Number of correct ones among them.
        seed: Seed of the draws.
    """
    n = np.asarray([v for v in valid if v])
    shares = np.asarray([c / v for v, c in zip(valid, correct, strict=True) if v])
    if not n.size:
        return Estimate(value=float("nan"), draws=np.full(DRAWS, np.nan))
    draws = np.random.default_rng(seed).binomial(n, shares, size=(DRAWS, len(n))) / n
    value = float(shares.mean())
    observations = int(n.sum()) if n.min() > 1 or value in (0, 1) else None
    return Estimate(value=value, draws=draws.mean(1), observations=observations)


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Return the unweighted mean of independent estimates, such as those of several sets.

    >>> mean([Estimate(value=0.2, draws=np.array([0.1, 0.3])), Estimate(value=0.6, draws=np.array([0.6, 0.6]))]).value
    0.4
    """
    fewest = _fewest(estimates)
    return Estimate(
        value=sum(e.value for e in estimates) / len(estimates),
        draws=np.mean([e.draws for e in estimates], axis=0),
        observations=None if fewest is None else len(estimates) * fewest,
        least=min(e.least for e in estimates),
    )


def _fewest(estimates: Sequence[Estimate]) -> int | None:
    """Return the smallest number of observations, if each estimate has one."""
    known = [e.observations for e in estimates if e.observations is not None]
    return min(known) if len(known) == len(estimates) else None


@lru_cache(maxsize=64)
def problem_weights(num_problems: int, *, seed: int) -> Floats:
    """Return ``[DRAWS, num_problems]``: multiplicity of each problem in each bootstrap draw.

    >>> weights = problem_weights(5, seed=0)
    >>> weights.shape, set(weights.sum(1))
    ((2000, 5), {np.float64(5.0)})
    """
    shares = np.full(num_problems, 1 / num_problems)
    weights: Floats = np.random.default_rng(seed).multinomial(num_problems, shares, size=DRAWS).astype(np.float64)
    weights.flags.writeable = False
    return weights


def seed_of_set(name: str) -> int:
    """Return the seed of a set's draws: independent between sets, equal in all runs."""
    return zlib.crc32(name.encode())


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased estimate of pass@k from ``n`` samples with ``c`` correct ones (arXiv 2107.03374, eq. 1).

    Raises:
        ValueError: ``k`` is not in 1..n, or ``c`` not in 0..n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"Expect 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}.")
    return 1.0 - comb(n - c, k) / comb(n, k)


def majority_at_k(right: int, wrong: Sequence[int], abstaining: int, k: int) -> float:
    """Return the probability that the most frequent answer of ``k`` samples is right, with ties broken at random.

    The result is exact: the mean over all subsets of ``k`` samples. Voting is that of arXiv 2203.11171; samples without
    an answer abstain, and a vote without answers is wrong.

    Args:
        right: Number of samples with the right answer.
        wrong: Number of samples with each of the wrong answers.
        abstaining: Number of samples without an answer.
        k: Number of voters.

    Raises:
        ValueError: ``k`` is not in 1..n.

    With two right and one wrong sample, one of three pairs is unanimous and two are ties:

    >>> majority_at_k(2, [1], 0, 3), round(majority_at_k(2, [1], 0, 2), 4)
    (1.0, 0.6667)
    """
    n = right + sum(wrong) + abstaining
    if not 1 <= k <= n:
        raise ValueError(f"Expect 1 <= k <= {n}, the number of samples, got k={k}.")
    won: Counter[int] = Counter()  # subsets in which the right answer leads, by number of tied answers
    for votes in range(1, min(right, k) + 1):
        rivals = [count for count in wrong if count >= votes]
        free = n - right - sum(rivals)  # samples that cannot reach `votes`: any number may be chosen
        ways = Counter({(k - votes, 1): comb(right, votes)})  # by (samples left to choose, tied answers)
        for later, count in zip(reversed(range(len(rivals))), rivals, strict=True):
            longer: Counter[tuple[int, int]] = Counter()
            for (left, tied), number in ways.items():
                for more in range(max(0, left - free - votes * later), min(votes, left) + 1):
                    longer[left - more, tied + (more == votes)] += number * comb(count, more)
            ways = longer
        for (left, tied), number in ways.items():
            won[tied] += number * comb(free, left)
    return float(sum(Fraction(number, tied) for tied, number in won.items()) / comb(n, k))


def powers_of_two(n: int) -> list[int]:
    """Return 1, 2, 4, ... up to n, and n itself: the reported values of k.

    >>> powers_of_two(6)
    [1, 2, 4, 6]
    """
    return sorted({2**i for i in range(n.bit_length())} | {n})
