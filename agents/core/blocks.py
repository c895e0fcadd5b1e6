"""What became of an episode's code blocks, and whether its answer is among what they printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:/\d+)?(?![\w/]|\.\d)")
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")


def ran(statuses: Iterable[str | None]) -> list[bool]:
    """Return for each executed block whether it ran to its end; turns without one, and sandbox failures, do not count.

    >>> ran(["error", "ok", "infrastructure", None])
    [False, True]
    """
    return [status == "ok" for status in statuses if status not in (None, "infrastructure")]


def recovers(outcomes: Sequence[bool]) -> bool:
    """Return whether a block failed and a later one ran.

    >>> recovers([True, False]), recovers([False, False, True])
    (False, True)
    """
    return False in outcomes and True in outcomes[outcomes.index(False) :]


def count_used(outputs: Iterable[str], answer: Any) -> int:
    """Return how many outputs of blocks hold the answer that the policy gave; 0 without an answer.

    An output that the policy only reads to write the next block does not count.

    >>> count_used(["Take 6 times 7.", "42", "42.0"], "x = 42")
    2
    """
    return 0 if answer is None else sum(occurs_in(answer, output) for output in outputs)


def occurs_in(answer: Any, output: str) -> bool:
    r"""Return whether an answer occurs in an output: a number by its value, anything else as it is written.

    >>> occurs_in(r"\frac{1}{3}", "1/3"), occurs_in("1,234", "total: 1234"), occurs_in("23", "1234 2.3")
    (True, True, False)
    >>> occurs_in("(1, 2)", "roots (1,2)"), occurs_in("even", "uneven")
    (True, False)
    """
    text = re.sub(r"\\frac\{(-?\d+)\}\{(\d+)\}", r"\1/\2", plain_answer(answer))
    text = re.sub(r"^[A-Za-z]=", "", text)
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if _NUMBER.fullmatch(text):
        return _value(text) in map(_value, _NUMBER.findall(output))
    begin, end = (r"(?<!\w)" * text[:1].isalnum(), r"(?!\w)" * text[-1:].isalnum())
    spaced = r"[^\S\n]*".join(map(re.escape, text))
    return bool(text) and re.search(f"{begin}{spaced}{end}", output) is not None


def _value(number: str) -> tuple[Decimal, ...]:
    """Return a number, or the numerator and denominator of a fraction; of any length, unlike `int`."""
    return tuple(map(Decimal, number.split("/")))


def plain_answer(predicted: Any) -> str:
    r"""Normalize the notation of an answer, so that equal answers count as one.

    Answers that are only mathematically equal stay different: that would take a grader.

    >>> plain_answer(r" \dfrac{1}{2}\,"), plain_answer("(1, 2)."), plain_answer(r"\left(1,2\right)")
    ('\\frac{1}{2}', '(1,2)', '(1,2)')
    """
    text = str(predicted)
    for old in ("\\left", "\\right", "\\!", "\\,", "\\;", "\\ ", "$"):
        text = text.replace(old, "")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return "".join(text.split()).rstrip(".")
