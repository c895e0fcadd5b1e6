r"""Answer types: how the answer of a problem is compared with the right one.

A type is written as a name, perhaps with options behind it:

- ``math``: the default. Numbers by value and form, all else by algebra; see `cir_env.grading.judge`.
- ``number?rel_tol=0.01&abs_tol=0.5``: a number that differs from the right one by at most ``rel_tol`` times the right
  one or ``abs_tol``, whichever is larger, reckoned exactly; without options it has the same value. What ``math`` takes
  for no single number, such as ``4821*367``, is wrong; where an integer is right, a fraction is a division left to do.
- ``choice``: a letter from A to J: ``B``, ``(B)``, ``\text{(B)}``, ``B) 42`` and "option B" mean the same. Several
  letters are right only where the right answer has the same several.
- ``set``: elements in any order, with braces or without; ``math`` compares them, and duplicates count once.
- ``interval``: an interval or a union of intervals in any order; ``math`` compares the ends, and the kind of each
  bracket matters. Intervals are not merged: ``(0,2)`` is another answer than ``(0,1] \cup (1,2)``.
- any other name: a verifier, that is a function ``(gold: str, answer: str) -> bool`` that an installed distribution
  offers under this name as an entry point of the group ``cir_env.verifiers``; or the function itself, as
  ``module:function`` (not in the rows of a file or data set: who writes one does not choose what runs here).

A verifier gets both texts as they are. It runs in the grading process, each time in a fork of its own, within the
limits of the `cir_env.Grader`: two CPU seconds, 24 seconds by the clock, and 256 MB on top of what it imports.
Its module is imported there once, from where the trainer would import it, but with a clean environment: of the
variables only PATH, HOME, TMPDIR, LANG, LC_ALL and LD_LIBRARY_PATH. It may read files but not write any, and may be
asked twice about the same answer. One that raises, breaks a limit, ends its process or returns something else than a
bool is a fault of ours and no wrong answer: the verdict is not valid.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from importlib.metadata import entry_points
from typing import Any, Final

from cir_env.errors import OptionError, did_you_mean, import_function, parse_spec
from cir_env.grading.judge import judge_alike, judge_text, read_number
from cir_env.grading.latex import tidy
from cir_env.grading.numeric import Number, parse_number
from cir_env.grading.parts import read_choice, read_intervals, read_set

GROUP: Final = "cir_env.verifiers"
"""The group of entry points that are verifiers."""

Judged = tuple[bool, str]
"""Whether an answer is right, and why."""


def _anything(gold: str) -> bool:
    return True


def _undecided(gold: str, answer: str) -> Judged | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerType:
    """One way to compare answers."""

    compare: str = "math"
    """How the grading process compares what `judge` leaves open: "math", "set", "interval" or "module:function"."""
    can_read: Callable[[str], bool] = _anything
    """Whether a gold answer is of this type."""
    judge: Callable[[str, str], Judged | None] = _undecided
    """Judges an answer by its text, gold first; None if that does not decide it."""


def find_answer_type(spec: str) -> AnswerType:
    """Return the type that a text names.

    Raises:
        OptionError: It is no text, no type or verifier has that name, the verifier cannot be imported, or an option is
            unknown or out of its range.

    >>> find_answer_type("number?rel_tol=0.01").judge("314", "317")
    (True, 'within the tolerance')
    >>> find_answer_type("numbers")
    Traceback (most recent call last):
    cir_env.errors.OptionError: Expect an answer type 'math', 'number', 'choice', 'set', 'interval', a verifier of the \
group 'cir_env.verifiers' or 'module:function', got 'numbers'. Did you mean 'number'?
    """
    if not isinstance(spec, str):
        raise OptionError(f"Expect an answer type to be text, got {type(spec).__name__}.")
    return _find(spec)


def check_gold(spec: str, gold: str) -> None:
    """Refuse a type that there is none of, and a gold answer that it cannot read.

    Raises:
        OptionError: As `find_answer_type` does, or the gold answer is not of that type.
    """
    if not find_answer_type(spec).can_read(gold):
        shown = gold if len(gold) <= 80 else f"{gold[:80]}..."
        raise OptionError(f"Expect a right answer that can be read as answer type {spec!r}, got {shown!r}.")


@lru_cache(maxsize=256)
def _find(spec: str) -> AnswerType:
    name, pairs = parse_spec(spec)
    options = dict(pairs)
    known = _OPTIONS.get(name, ())
    for option in options:
        if option not in known:
            listed = " and ".join(map(repr, known)) or "none"
            raise OptionError(f"Expect as options of {name!r} {listed}, got {option!r}.{did_you_mean(option, known)}")
    if len(options) < len(pairs):
        raise OptionError(f"Expect each option once, got {spec!r}.")
    return _number(options) if name == "number" else _TYPES.get(name) or AnswerType(compare=_find_verifier(name))


# --- numbers ---------------------------------------------------------------------------------------------------


def _number(options: Mapping[str, str]) -> AnswerType:
    rel_tol, abs_tol = (_tolerance(name, options.get(name, "0")) for name in ("rel_tol", "abs_tol"))
    return AnswerType(can_read=_is_number, judge=partial(_judge_number, rel_tol, abs_tol))


def _tolerance(name: str, text: str) -> Fraction:
    number = parse_number(text)
    if number is None or number.value < 0 or number.is_percent or number.unit:
        raise OptionError(f"Expect `{name}` to be a number of at least 0, got {text!r}.")
    return number.value


def _is_number(gold: str) -> bool:
    return parse_number(tidy(gold)) is not None


def _judge_number(rel_tol: Fraction, abs_tol: Fraction, gold: str, answer: str) -> Judged | None:
    """Judge an answer where a number is right, whose distance from it is at most a tolerance."""
    if judged := judge_alike(gold, answer):
        return judged
    right = parse_number(tidy(gold))
    if right is None:
        return None
    number = read_number(right, tidy(answer))
    if not isinstance(number, Number):
        return False, number or "not a single number"
    if right.kind == "integer" and number.kind == "quotient":
        return False, "a division that is left to do"
    tolerance = max(abs(right.value) * rel_tol, abs_tol)
    is_near = any(abs(value - right.value) <= tolerance for value in _values_beside(right, number))
    return (True, "within the tolerance") if is_near else (False, "another number")


def _values_beside(gold: Number, answer: Number) -> list[Fraction]:
    """What an answer's value may be, in percent if the right answer is, where a percent sign may be missing or added.

    >>> def values(a, b): return [str(value) for value in _values_beside(parse_number(a), parse_number(b))]
    >>> values("25%", "0.25"), values("25", "25%"), values("0.25", "25%"), values("0.25", "0.25")
    (['25', '1/4'], ['1/4', '25'], ['1/4'], ['1/4'])
    """
    if gold.is_percent == answer.is_percent:
        return [answer.value]
    if gold.is_percent:
        return [answer.value * 100, answer.value]
    return [answer.value / 100, answer.value] if gold.kind == "integer" else [answer.value / 100]


# --- choices, sets, intervals ----------------------------------------------------------------------------------


def _can_read(read: Callable[[str], object], gold: str) -> bool:
    return read(gold) is not None


def _judge_choice(gold: str, answer: str) -> Judged | None:
    if judged := judge_alike(gold, answer):
        return judged
    letters = read_choice(answer)
    if letters is None:
        return False, "no letter of a choice"
    return (True, "the same choice") if letters == read_choice(gold) else (False, "another choice")


def _judge_parts(kind: str, read: Callable[[str], object], gold: str, answer: str) -> Judged | None:
    """Leave to the grading process what can be read, since it takes as long as the answer says."""
    if judged := judge_alike(gold, answer):
        return judged
    return (False, f"cannot be read as {kind}") if read(answer) is None else None


_TYPES: Final = {
    "math": AnswerType(judge=judge_text),
    "number": _number({}),
    "choice": AnswerType(can_read=partial(_can_read, read_choice), judge=_judge_choice),
    "set": AnswerType(
        compare="set", can_read=partial(_can_read, read_set), judge=partial(_judge_parts, "a set", read_set)
    ),
    "interval": AnswerType(
        compare="interval",
        can_read=partial(_can_read, read_intervals),
        judge=partial(_judge_parts, "an interval", read_intervals),
    ),
}
_OPTIONS: Final = {"number": ("rel_tol", "abs_tol")}


# --- verifiers -------------------------------------------------------------------------------------------------


def _find_verifier(name: str) -> str:
    """Return a verifier as ``module:function``, having tried here, where it can be mended, what is done later there."""
    if ":" in name:
        found = {name}
    else:
        offered = entry_points(group=GROUP)
        found = {f"{entry.module}:{entry.attr}" for entry in offered.select(name=name)}
        if not found:
            types = ", ".join(map(repr, _TYPES))
            raise OptionError(
                f"Expect an answer type {types}, a verifier of the group {GROUP!r} or 'module:function', got {name!r}."
                f"{did_you_mean(name, [*_TYPES, *offered.names])}"
            )
        if len(found) > 1:
            raise OptionError(f"Expect one verifier of the name {name!r}, got {' and '.join(sorted(found))}.")
    (value,) = found
    if value.partition(":")[0] == "__main__":
        raise OptionError(f"Expect a verifier in a module that the grading process can import, got {value!r}.")
    _check_verifier(value, import_function("verifier", value))
    return value


def _check_verifier(value: str, verifier: Any) -> None:
    try:
        inspect.signature(verifier).bind("gold", "answer")
    except TypeError:
        raise OptionError(f"Expect the verifier {value!r} to take (gold, answer), got other parameters.") from None
    except ValueError:  # a function in C may not say what it takes
        pass
