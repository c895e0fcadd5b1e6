r"""Checks that gold answers can be read, before a policy is graded by them."""

import re
from collections.abc import Iterator
from typing import Final

from cir_env.errors import GraderUnavailable, OptionError
from cir_env.grading import structure
from cir_env.grading.answer_types import find_answer_type
from cir_env.grading.grader import shared_grader
from cir_env.grading.latex import layout
from cir_env.grading.numeric import parse_number
from cir_env.grading.plain import judge_choice, judge_ratio, named_number, read_based, read_quantity
from cir_env.grading.structure import ELLIPSIS, Region, Relation
from cir_env.grading.words import has_words, mark, read

_PLAIN: Final = re.compile(
    r"(?:\\(?:frac|sqrt|pi|cdot|times|div|sin|cos|tan|cot|sec|csc|ln|log|arc(?:sin|cos|tan)|theta|alpha|beta|infty)(?![a-z])"
    r"|[A-Za-z\d.{}()\[\]|+\-*/^_ ])+"
)
"""Expressions of these signs alone can be read if their brackets are balanced; others are tried."""


def check_gold(spec: str, gold: str) -> None:
    r"""Check that a gold answer can be read as its answer type says.

    An unreadable one would only pay its own text, and every other answer, right or wrong, would be excluded.

    Raises:
        OptionError: It cannot, or as in `find_answer_type`.

    >>> check_gold("math", r"\frac{1}{2}")
    >>> check_gold("math", r"1 + 2 + \cdots + n")
    Traceback (most recent call last):
    cir_env.errors.OptionError: Expect a right answer that can be read as mathematics, got '1 + 2 + \\cdots + n'.
    """
    shown = gold if len(gold) <= 80 else f"{gold[:80]}..."
    kind = find_answer_type(spec)
    if not kind.can_read(gold):
        raise OptionError(f"Expect a right answer of type {spec!r}, got {shown!r}.")
    if kind.compare == "math" and kind.reads_statement and not all(map(_is_readable, _expressions(mark(layout(gold))))):
        raise OptionError(f"Expect a right answer that can be read as mathematics, got {shown!r}.")


def _expressions(gold: str) -> Iterator[str]:
    """Yield the expressions in a gold answer that algebra would have to read."""
    reading = read(gold)
    value = reading.value
    is_plain = reading.refused or judge_choice(gold, "A") or read_quantity(gold) or named_number(reading)[0]
    if is_plain or read_based(value) or judge_ratio(value, ""):
        return
    region, values = structure.read_region(value), structure.read_values(value)
    if isinstance(region, Region):
        intervals = [part for conditions in region.alternatives for condition in conditions for part in condition]
        yield from {end for interval in intervals for end in (interval.left, interval.right) if "∞" not in end}
    elif matrix := structure.read_matrix(value):
        yield from (cell for row in matrix for cell in row)
    elif isinstance(region, Relation) or isinstance(values, Relation):
        yield from (region if isinstance(region, Relation) else values).sides  # type: ignore[union-attr]
    elif values is None or has_words(value):
        return
    elif values.kind == "single":
        yield from structure.both_signs(values.items[0])
    else:
        for item in values.items:
            if not ELLIPSIS.fullmatch(item):
                yield from _expressions(item)


def _is_readable(expression: str) -> bool:
    expression = structure.unwrap(expression)
    if parse_number(expression) or has_words(expression):
        return True
    if ELLIPSIS.search(expression):
        return False
    if _PLAIN.fullmatch(expression) and structure.split(expression) is not None:
        return True
    try:
        return shared_grader().can_read(expression)
    except GraderUnavailable:  # whoever grades without it says so
        return True
