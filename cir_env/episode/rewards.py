"""Rewards: what an episode was worth, from what the policy did.

A reward is any function from an `EpisodeRecord` to a number, or to None for an episode that is to be left out
(`reward_valid` is then False). The record holds what the policy wrote and how its blocks ended, but nothing that a
block printed: no program can print itself a reward.

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
    """An episode that is over and was graded."""

    problem: Problem
    """What was asked."""
    segments: tuple[str, ...]
    """What was kept of each action, in order."""
    statuses: tuple[Status, ...]
    """How each executed block ended, in order."""
    predicted: str | None
    """The answer; None without one."""
    correct: bool
    """Whether the answer is right."""
    truncated: bool
    """Whether the transcript was full before the policy had ended it."""
    interaction_budget: int
    """How many blocks could be executed."""

    @property
    def n_chars(self) -> int:
        """How many characters the policy wrote."""
        return sum(map(len, self.segments))


Reward = Callable[[EpisodeRecord], float | None]


def correctness(right: float = 1.0, wrong: float = -1.0) -> Reward:
    """Return `right` for a right answer and `wrong` for any other, or none: the paper's +1 and -1 by default."""
    right, wrong = check_number("right", right), check_number("wrong", wrong)
    return partial(_correctness, right, wrong)


def failed_blocks(each: float) -> Reward:
    """Return `each` for every executed block that did not run to its end.

    Raises:
        OptionError: It is positive: then a policy would learn to write programs that fail.
    """
    if check_number("each", each) > 0:
        raise OptionError(f"Expect `each` to be at most 0, got {each}.")
    return partial(_failed_blocks, each)


def length(free_chars: int, each_1000: float) -> Reward:
    """Return `each_1000` for every 1,000 characters that the policy wrote beyond the first `free_chars`.

    Raises:
        OptionError: It is positive: then a policy would learn to write on without end.
    """
    if check_number("each_1000", each_1000) > 0:
        raise OptionError(f"Expect `each_1000` to be at most 0, got {each_1000}.")
    return partial(_length, free_chars, each_1000)


def total(*rewards: Reward) -> Reward:
    """Return the sum of several rewards; None if one of them is.

    >>> total(lambda episode: 1.0, lambda episode: None)(...) is None
    True
    """
    return partial(_total, rewards)


# Functions of the module, not closures: environments are pickled with their rewards.


def _correctness(right: float, wrong: float, episode: EpisodeRecord) -> float:
    return right if episode.correct else wrong


def _failed_blocks(each: float, episode: EpisodeRecord) -> float:
    return each * sum(status is not Status.OK for status in episode.statuses)


def _length(free_chars: int, each_1000: float, episode: EpisodeRecord) -> float:
    return each_1000 * max(0, episode.n_chars - free_chars) / 1000


def _total(rewards: tuple[Reward, ...], episode: EpisodeRecord) -> float | None:
    parts = [reward(episode) for reward in rewards]
    return None if None in parts else math.fsum(part for part in parts if part is not None)
