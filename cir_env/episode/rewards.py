"""Reward functions for the `reward` argument of `CodeMathEnv`.

A reward is any function from an `EpisodeRecord` to a number, or to None to drop the episode (`reward_valid` is then
False). The record contains the policy's text and the status of each block, but no program output: a program cannot
print itself a reward.

Example:
    >>> reward = total(correctness(1.0, 0.0), failed_blocks(-0.1))
    >>> env = gymnasium.make("CodeMath-v0", reward=reward)  # doctest: +SKIP
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cir_env.errors import OptionError, check_number
from cir_env.problems.problem import Problem
from cir_env.sandbox import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRecord:
    """A finished and graded episode."""

    problem: Problem
    """The problem; the other fields of its row are in `problem.metadata`."""
    segments: tuple[str, ...]
    """The kept part of each action, in order."""
    statuses: tuple[Status, ...]
    """How each executed block ended, in order."""
    predicted: str | None
    """The graded answer; None without one."""
    correct: bool
    """Whether the answer is right."""
    truncated: bool
    """Whether the transcript was full before the policy gave its final answer."""
    interaction_budget: int
    """How many blocks the episode could execute."""

    @property
    def n_chars(self) -> int:
        """Number of characters that the policy wrote."""
        return sum(map(len, self.segments))


Reward = Callable[[EpisodeRecord], float | None]


def correctness(right: float = 1.0, wrong: float = -1.0) -> Reward:
    """Give `right` for a right answer and `wrong` otherwise; the defaults are those of the paper."""
    right, wrong = check_number("right", right), check_number("wrong", wrong)
    return partial(_correctness, right, wrong)


def failed_blocks(each: float) -> Reward:
    """Give `each` for every executed block that failed.

    Raises:
        OptionError: `each` is positive, which would reward failing programs.
    """
    if check_number("each", each) > 0:
        raise OptionError(f"Expect `each` to be at most 0, got {each}.")
    return partial(_failed_blocks, each)


def length(free_chars: int, each_1000: float) -> Reward:
    """Give `each_1000` per 1,000 characters that the policy wrote beyond the first `free_chars`.

    Raises:
        OptionError: `each_1000` is positive, which would reward endless text.
    """
    if check_number("each_1000", each_1000) > 0:
        raise OptionError(f"Expect `each_1000` to be at most 0, got {each_1000}.")
    return partial(_length, free_chars, each_1000)


def total(*rewards: Reward) -> Reward:
    """Give the sum of several rewards; None if any of them is None.

    >>> total(lambda episode: 1.0, lambda episode: None)(...) is None
    True
    """
    return partial(_total, rewards)


# Module-level functions, not closures, so that environments can be pickled.


def _correctness(right: float, wrong: float, episode: EpisodeRecord) -> float:
    return right if episode.correct else wrong


def _failed_blocks(each: float, episode: EpisodeRecord) -> float:
    return each * sum(status is not Status.OK for status in episode.statuses)


def _length(free_chars: int, each_1000: float, episode: EpisodeRecord) -> float:
    return each_1000 * max(0, episode.n_chars - free_chars) / 1000


def _total(rewards: tuple[Reward, ...], episode: EpisodeRecord) -> float | None:
    parts = [reward(episode) for reward in rewards]
    return None if None in parts else math.fsum(part for part in parts if part is not None)
