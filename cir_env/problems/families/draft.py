"""`Draft`, a generated problem before it is part of a set, and its key."""

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cir_env.problems.problem import NO_FILES


class Draft(NamedTuple):
    """A problem before it is part of a set."""

    key: str
    """The operands in canonical order: equal for problems that differ only in wording or order."""
    statement: str
    """The question."""
    answer: str
    """The exact answer: an integer, or a reduced fraction as ``p/q``."""
    subject: str
    """The name of the family."""
    level: str = ""
    """The difficulty, where a family has several."""
    files: Mapping[str, str] = NO_FILES
    """Texts by file name that blocks find in their working directory."""


Family = Callable[[random.Random], Draft]


def make_key(family: str, *operands: object) -> str:
    """Return the key of a problem from its operands.

    >>> make_key("gcd", 12, 18)
    'gcd 12 18'
    """
    return " ".join([family, *map(str, operands)])
