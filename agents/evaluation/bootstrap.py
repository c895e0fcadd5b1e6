r"""What samples say of a policy: avg@k, pass@k, majority@k, and intervals. Pure functions.

Each figure is a mean over problems, or a ratio of two sums over problems. Its interval is of the bootstrap over
problems (Efron and Tibshirani, 1993, ch. 13: percentiles): problems are drawn with replacement, each with all of its
samples. So it holds what would change with other problems and what would change with other samples: a problem's mean
carries the noise of its samples along. Drawing samples anew within the drawn problems would count that noise twice
(Davison and Hinkley, 1997, sec. 3.8). :func:`sampling_estimate` draws samples alone: the problems stay as they are.

Figures of two runs on the same problems, made with the same weights, belong together draw by draw: their difference and
their ratio have paired intervals.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
"""Bootstrap draws of each figure."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Estimate:
    """A figure and its bootstrap draws."""

    value: float
    """The figure."""
    draws: Floats
    """``[DRAWS]``: the figure of each draw; not a number where a draw has none, such as the accuracy of no samples."""
    observations: int | None = None
    """For a share, or a difference of two: how many independent observations it rests on, at least."""
    least: float = 0.0
    """For these: what an observation is at least; it is at most 1."""

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the difference, draw by draw."""
        return Estimate(
            value=self.value - other.value,
            draws=self.draws - other.draws,
            observations=_fewest([self, other]),
            least=self.least - 1.0,
        )

    def __truediv__(self, other: Estimate) -> Estimate:
        """Return the ratio, draw by draw; not a number where the other is 0."""
        divisor = np.where(other.draws == 0, np.nan, other.draws)
        return Estimate(value=self.value / other.value if other.value else float("nan"), draws=self.draws / divisor)

    @property
    def interval(self) -> tuple[float, float]:
        """Between which values 95% of the draws lie.

        Where all observations of a share, or of a difference of two, are the same, draws know no doubt. Then others,
        which would have been seen with a chance of 97.5% if they were more frequent, may be of any value. Where all are
        0, or all 1, that is the exact binomial interval (Clopper and Pearson, 1934). It is wider than need be where an
        observation is the mean of several samples.
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
        """Return value, low and high; None if there is no value."""
        low, high = self.interval
        return None if np.isnan(self.value) else {"value": float(self.value), "low": low, "high": high}


def ratio(
    numerators: Iterable[float], denominators: Iterable[float], weights: Floats, *, is_share: bool = False
) -> Estimate:
    """Return the ratio of two sums over problems.

    A mean over problems has 1 for each denominator, or 0 for a problem that is left out.

    Args:
        numerators: One number for each problem.
        denominators: One number for each problem.
        weights: ``[DRAWS, problems]``: how often each draw holds each problem; :func:`problem_weights`.
        is_share: Whether it is a mean of numbers from 0 to 1.

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
    """Return avg@k with draws of samples alone: each problem's are drawn with replacement from its own.

    A problem of one sample always draws the same: its noise cannot be seen in one sample.

    Args:
        valid: Samples of each problem that could be judged; problems without any are left out.
        correct: How many of them are correct.
        seed: Of the draws.
    """
    n = np.asarray([v for v in valid if v])
    shares = np.asarray([c / v for v, c in zip(valid, correct, strict=True) if v])
    if not n.size:
        return Estimate(value=float("nan"), draws=np.full(DRAWS, np.nan))
    draws = np.random.default_rng(seed).binomial(n, shares, size=(DRAWS, len(n))) / n
    value = float(shares.mean())
    observations = int(n.sum()) if n.min() > 1 or value in (0, 1) else None
    return Estimate(value=value, draws=draws.mean(1), observations=observations)


def score_interval(share: float, observations: int) -> tuple[float, float]:
    """Return a quick 95% interval of a mean of numbers from 0 to 1: the binomial's (Wilson, 1927), which is the widest.

    >>> [round(bound, 3) for bound in score_interval(0.0, 10)]
    [0.0, 0.278]
    """
    z = 1.96
    spread = z * (share * (1 - share) / observations + z**2 / (4 * observations**2)) ** 0.5
    centre = share + z**2 / (2 * observations)
    low, high = ((centre + sign * spread) / (1 + z**2 / observations) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent figures, such as those of several sets, each of which counts the same.

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
    """Return ``[DRAWS, num_problems]``: how often each bootstrap draw holds each problem.

    >>> weights = problem_weights(5, seed=0)
    >>> weights.shape, set(weights.sum(1))
    ((2000, 5), {np.float64(5.0)})
    """
    shares = np.full(num_problems, 1 / num_problems)
    weights: Floats = np.random.default_rng(seed).multinomial(num_problems, shares, size=DRAWS).astype(np.float64)
    weights.flags.writeable = False
    return weights


def seed_of_set(name: str) -> int:
    """Return the seed of a set's draws: sets are drawn independently of each other, and every run draws alike."""
    return zlib.crc32(name.encode())


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased chance that at least one of ``k`` samples is correct, given ``c`` correct ones of ``n``.

    (arXiv 2107.03374, eq. 1.)

    Raises:
        ValueError: ``k`` is not in 1..n, or ``c`` not in 0..n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"Expect 1 <= k <= n and 0 <= c <= n, got n={n}, c={c}, k={k}.")
    return 1.0 - comb(n - c, k) / comb(n, k)


def majority_at_k(right: int, wrong: Sequence[int], abstaining: int, k: int) -> float:
    """Return the chance that the most frequent answer of ``k`` samples is right, if ties are broken by lot.

    It is exact: the mean over all ways to take ``k`` of the samples. (arXiv 2203.11171 has the vote; samples without an
    answer do not take part in it, and a vote of none is wrong.)

    Args:
        right: How many samples gave the right answer.
        wrong: How many samples gave each of the wrong answers.
        abstaining: How many gave none.
        k: How many vote.

    Raises:
        ValueError: ``k`` is not in 1..n.

    Two of three votes are for the right answer in two of three pairs, as a tie:

    >>> majority_at_k(2, [1], 0, 3), round(majority_at_k(2, [1], 0, 2), 4)
    (1.0, 0.6667)
    """
    n = right + sum(wrong) + abstaining
    if not 1 <= k <= n:
        raise ValueError(f"Expect 1 <= k <= {n}, the number of samples, got k={k}.")
    won: Counter[int] = Counter()  # ways to win, by how many answers are tied
    for votes in range(1, min(right, k) + 1):
        rivals = [count for count in wrong if count >= votes]
        free = n - right - sum(rivals)  # of these any number can be chosen
        ways = Counter({(k - votes, 1): comb(right, votes)})  # by how many are to be chosen, and how many are tied
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
    """Return 1, 2, 4, ... up to n, and n itself: the k that are worth a look.

    >>> powers_of_two(6)
    [1, 2, 4, 6]
    """
    return sorted({2**i for i in range(n.bit_length())} | {n})


def plain_answer(predicted: Any) -> str:
    r"""Return an answer without what does not change it, so that equal answers are one vote.

    It is no grader: two wrong answers that are equal only by algebra stay two.

    >>> plain_answer(r" \dfrac{1}{2}\,"), plain_answer("(1, 2)."), plain_answer(r"\left(1,2\right)")
    ('\\frac{1}{2}', '(1,2)', '(1,2)')
    """
    text = str(predicted)
    for old in ("\\left", "\\right", "\\!", "\\,", "\\;", "\\ ", "$"):
        text = text.replace(old, "")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return "".join(text.split()).rstrip(".")
