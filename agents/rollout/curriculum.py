"""Which problems each training step uses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from agents.config.schedules import parse_schedule
from agents.config.training import CurriculumConfig, TrainConfig
from agents.core.errors import ConfigError

if TYPE_CHECKING:
    from agents.rollout.envs import EnvPool

_ALL = "*"
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class _Phase:
    """Consecutive steps that draw from the same problems."""

    number: int
    start: int
    """Its first step."""
    chosen: NDArray[np.int64]
    """Indices of its problems."""


class ProblemOrder:
    """The order of training problems: a function of the seed and the step alone, so that a run resumes exactly.

    Every problem is used once before any is repeated, and each pass is shuffled anew. With a schedule of subjects, this
    holds within each phase, for the problems of its subjects. With levels, the problems of the first steps are sorted
    from easy to hard.

    Args:
        config: The curriculum.
        seed: The run's.
        per_step: Problems per step.
        size: Number of problems.
        subjects: The subject of each problem; needed for a schedule of subjects.
        levels: The level of each problem; needed for ``easy_first_steps``. The first number in a level is used.

    Raises:
        ConfigError: No problem has one of the scheduled subjects, or a level has no number.
    """

    def __init__(
        self,
        config: CurriculumConfig,
        *,
        seed: int,
        per_step: int,
        size: int,
        subjects: Sequence[str] = (),
        levels: Sequence[str] = (),
    ) -> None:
        self._seed = seed
        self._per_step = per_step
        self._last: tuple[tuple[int, int], NDArray[np.int64]] | None = None
        self._phases = [
            _Phase(number=number, start=start, chosen=_indices_of(named, subjects, size))
            for number, (start, named) in enumerate(parse_schedule(config.subjects or f"0:{_ALL}"))
        ]
        self._easy_first: list[int] = []
        if config.easy_first_steps:
            self._easy_first = self._sorted(_numbers(levels), config.easy_first_steps * per_step, config.window)

    @classmethod
    def of(cls, envs: EnvPool, config: TrainConfig) -> Self | None:
        """Return the order for a run; None if its environment has no problem set.

        Raises:
            ConfigError: The problems lack the subjects or levels that the curriculum needs.
        """
        curriculum, size = config.curriculum, envs.num_problems
        if size is None:
            if curriculum.subjects or curriculum.easy_first_steps:
                raise ConfigError(f"Expect an environment with a problem set for `curriculum`, got {config.env.id!r}.")
            return None
        return cls(
            curriculum,
            seed=config.seed,
            per_step=config.rollout.num_problems + config.rollout.num_extra_problems,
            size=size,
            subjects=envs.traits("subject") if curriculum.subjects else (),
            levels=envs.traits("level") if curriculum.easy_first_steps else (),
        )

    def indices(self, step: int) -> list[int]:
        """Return the problem indices of a step.

        >>> order = ProblemOrder(CurriculumConfig(), seed=0, per_step=2, size=4)
        >>> sorted(order.indices(0) + order.indices(1))
        [0, 1, 2, 3]
        """
        phase = [phase for phase in self._phases if phase.start <= step][-1]
        begin = (step - phase.start) * self._per_step
        places = range(begin, begin + self._per_step)
        return [self._easy_first[n] if n < len(self._easy_first) else self._shuffled(phase, n) for n in places]

    def _shuffled(self, phase: _Phase, place: int) -> int:
        """Return the problem at a place of a phase."""
        epoch, offset = divmod(place, len(phase.chosen))
        key = phase.number, epoch
        if self._last is None or self._last[0] != key:
            source = [self._seed, epoch, phase.number] if phase.number else [self._seed, epoch]
            self._last = key, np.random.default_rng(source).permutation(phase.chosen)
        return int(self._last[1][offset])

    def _sorted(self, levels: NDArray[np.float64], count: int, window: float) -> list[int]:
        """Return the first problems sorted by level, each moved by at most the window."""
        first = np.array([self._shuffled(self._phases[0], place) for place in range(count)])
        by_level = first[np.argsort(levels[first], kind="stable")]
        jitter = np.random.default_rng([self._seed, 0, 0, 1]).random(count)
        moved = np.argsort(np.arange(count) + window * count * jitter, kind="stable")
        return [int(index) for index in by_level[moved]]


def _indices_of(named: str, subjects: Sequence[str], size: int) -> NDArray[np.int64]:
    """Return the problems whose subject is one of ``named``, separated by ``|``; case is ignored."""
    if named == _ALL:
        return np.arange(size)
    wanted = {name.strip().casefold() for name in named.split("|")}
    there = Counter(subjects)
    for name in wanted - {subject.casefold() for subject in there}:
        listed = ", ".join(f"{subject} ({count})" for subject, count in sorted(there.items()) if subject) or "none"
        raise ConfigError(
            f"Expect subjects of the problems in `curriculum.subjects`, got {name!r}: there are {listed}."
        )
    return np.array([index for index, subject in enumerate(subjects) if subject.casefold() in wanted])


def _numbers(levels: Sequence[str]) -> NDArray[np.float64]:
    found = [_NUMBER.search(level) for level in levels]
    if missing := found.count(None):
        raise ConfigError(
            f"Expect a level with a number for every problem to sort by, got {missing:,} of {len(levels):,} without. "
            "Name their field, as in PATH?level=difficulty, or do not set curriculum.easy_first_steps."
        )
    return np.array([float(match[0]) for match in found if match])
