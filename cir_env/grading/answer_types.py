r"""Answer types: how to compare an answer with the right one.

A type is a name, optionally followed by options:

- ``math``: the default. Numbers by value and form, everything else by algebra; see `cir_env.grading.judge`.
- ``number?rel_tol=0.01&abs_tol=0.5``: a number whose exact distance from the right one is at most ``rel_tol`` times the
  right one or ``abs_tol``, whichever is larger; without options the value must be equal. Answers that are not a single
  number for ``math``, such as ``4821*367``, are wrong; if an integer is right, a fraction is an unevaluated division.
- ``choice``: a letter from A to J: ``B``, ``(B)``, ``\text{(B)}``, ``B) 42`` and "option B" mean the same. Several
  letters are right only if the right answer consists of the same letters.
- ``set``: elements in any order, with or without braces, compared as ``math``; duplicates count once.
- ``interval``: an interval or a union of intervals in any order. The ends are compared as ``math``; the brackets must
  be the same. Intervals are not merged: ``(0,2)`` differs from ``(0,1] \cup (1,2)``.
- any other name: a verifier, that is a function ``(gold: str, answer: str) -> bool`` that an installed distribution
  provides under this name as an entry point of the group ``cir_env.verifiers``.
- ``module:function``: the verifier itself. Rows of a file or data set cannot use this form, so that a data set cannot
  choose what runs on this machine.

A verifier receives both strings unchanged, the right answer first; one whose parameters are named the other way round,
such as ``(answer, gold)`` or ``(prediction, target)``, is rejected. A verifier with a parameter ``metadata`` also
receives the metadata of the problem, a dict, by this name.

Each call of a verifier runs in its own fork of the grading process, within the limits of the `cir_env.Grader`: 1.5 s of
CPU time, 18 s by the clock, and 256 MB in addition to its imports. Its module is imported once, with the import path of
the trainer but a clean environment: only the variables PATH, HOME, TMPDIR, LANG, LC_ALL and LD_LIBRARY_PATH. It may
read files but not write any, and may be called twice for the same answer. A verifier that raises, exceeds a limit, ends
its process or returns anything but a bool is an infrastructure error, not a wrong answer: the verdict is not valid.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from importlib.metadata import entry_points
from typing import Any, Final, Literal

from cir_env.errors import OptionError, did_you_mean, import_function, parse_spec
from cir_env.grading.judge import judge_text, judge_trivial
from cir_env.grading.numeric import Number, parse_number
from cir_env.grading.parts import read_choice, read_intervals, read_set
from cir_env.grading.plain import gold_number, read_number

GROUP: Final = "cir_env.verifiers"
"""The entry-point group of verifiers."""

Judged = tuple[bool, str]
"""Whether an answer is right, and the reason."""


def _anything(gold: str) -> bool:
    return True


def _undecided(gold: str, answer: str) -> Judged | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerType:
    """One way to compare answers."""

    compare: str = "math"
    """How the grading process compares answers that `judge` does not decide: "math", "set", "interval" or
    "module:function"."""
    can_read: Callable[[str], bool] = _anything
    """Whether a gold answer is of this type."""
    judge: Callable[..., Judged | None] = _undecided
    """Judges an answer by its text, gold answer first; None if the text does not decide."""
    reads_statement: bool = False
    """Whether `judge` takes the statement of the problem as a third argument."""
    takes_metadata: bool = False
    """Whether it compares by the metadata of the problem, too."""


def find_answer_type(spec: str) -> AnswerType:
    """Return the answer type that a spec names.

    Raises:
        OptionError: It is not a string, no type or verifier has that name, the verifier cannot be imported, or an
            option is unknown or out of range.

    >>> find_answer_type("number?rel_tol=0.01").judge("314", "317")
    (True, 'within the tolerance')
    >>> find_answer_type("numbers")
    Traceback (most recent call last):
    cir_env.errors.OptionError: Expect an answer type 'math', 'number', 'choice', 'set', 'interval', a verifier of the \
group 'cir_env.verifiers' or 'module:function', got 'numbers'. Did you mean 'number'?
    """
    if not isinstance(spec, str):
        raise OptionError(f"Expect an answer type to be a string, got {type(spec).__name__}.")
    return _find(spec)


@lru_cache(maxsize=256)
def _find(spec: str) -> AnswerType:
    name, pairs = parse_spec(spec)
    options = dict(pairs)
    known = _OPTIONS.get(name, ())
    for option in options:
        if option not in known:
            listed = " and ".join(map(repr, known)) or "none"
            raise OptionError(
                f"Expect the options of {name!r} to be {listed}, got {option!r}.{did_you_mean(option, known)}"
            )
    if len(options) < len(pairs):
        raise OptionError(f"Expect each option only once, got {spec!r}.")
    return _number(options) if name == "number" else _TYPES.get(name) or _find_verifier(name)


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
    return gold_number(gold) is not None


def _judge_number(rel_tol: Fraction, abs_tol: Fraction, gold: str, answer: str) -> Judged | None:
    """Judge an answer where a number is right, up to a tolerance."""
    if judged := judge_trivial(gold, answer):
        return judged
    right = gold_number(gold)
    if right is None:
        return None
    number = read_number(right, answer)
    if not isinstance(number, Number):
        return False, number
    if right.kind == "integer" and number.kind == "quotient":
        return False, "a division that is left to do"
    tolerance = max(abs(right.value) * rel_tol, abs_tol)
    is_near = any(abs(value - right.value) <= tolerance for value in _possible_values(right, number))
    return (True, "within the tolerance") if is_near else (False, "another number")


def _possible_values(gold: Number, answer: Number) -> list[Fraction]:
    """Return the values that an answer may mean if its percent sign may be missing or added, in percent if `gold` is.

    >>> def values(a, b): return [str(value) for value in _possible_values(parse_number(a), parse_number(b))]
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
    if judged := judge_trivial(gold, answer):
        return judged
    letters = read_choice(answer)
    if letters is None:
        return False, "no letter of a choice"
    return (True, "the same choice") if letters == read_choice(gold) else (False, "another choice")


def _judge_parts(kind: str, read: Callable[[str], object], gold: str, answer: str) -> Judged | None:
    """Judge only what cannot be parsed; comparing may take long, so it is left to the grading process."""
    if judged := judge_trivial(gold, answer):
        return judged
    return (False, f"cannot be read as {kind}") if read(answer) is None else None


_TYPES: Final = {
    "math": AnswerType(judge=judge_text, reads_statement=True),
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


def _find_verifier(name: str) -> AnswerType:
    """Return the type of a verifier; import it here first, where an error can still be reported."""
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
            raise OptionError(f"Expect one verifier named {name!r}, got {' and '.join(sorted(found))}.")
    (value,) = found
    if value.partition(":")[0] == "__main__":
        raise OptionError(f"Expect a verifier in a module that the grading process can import, got {value!r}.")
    takes_metadata = _check_verifier(value, import_function("verifier", value))
    return AnswerType(compare=value, takes_metadata=takes_metadata)


def _check_verifier(value: str, verifier: Any) -> bool:
    """Check the parameters of a verifier; return whether ``metadata`` is one of them."""
    try:
        signature = inspect.signature(verifier)
        parameter = signature.parameters.get("metadata")
        takes_metadata = parameter is not None and parameter.kind in _BY_NAME
        signature.bind("gold", "answer", **{"metadata": {}} if takes_metadata else {})
    except TypeError:
        raise OptionError(f"Expect the verifier {value!r} to take (gold, answer), got other parameters.") from None
    except ValueError:  # a C function may have no signature
        return False
    names = [name for name, parameter in signature.parameters.items() if parameter.kind in _POSITIONAL][:2]
    if _are_swapped(*names, *[""] * (2 - len(names))):
        raise OptionError(
            f"Expect the verifier {value!r} to take (gold, answer), the right answer first, got ({', '.join(names)}): "
            "swap its parameters, or call them gold and answer if they are in this order."
        )
    return takes_metadata


_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_Role = Literal["gold", "given", "either"]
_ROLES: Final[tuple[tuple[_Role, frozenset[str]], ...]] = (  # the first that a name has a word of
    ("given", frozenset({"pred", "predicted", "prediction", "generated"})),
    ("gold", frozenset({"gold", "golden", "truth", "groundtruth", "gt", "true", "correct", "expected"})),
    ("gold", frozenset({"reference", "ref", "target", "label"})),
    ("given", frozenset({"response", "reply", "completion", "generation", "output"})),
    ("either", frozenset({"answer", "solution"})),
)


def _are_swapped(first: str, second: str) -> bool:
    """Whether the names of two parameters say that the right answer is not the first.

    >>> [_are_swapped(*names.split()) for names in ("answer gold", "solution_str groundTruth", "x target", "output y")]
    [True, True, True, True]
    >>> [_are_swapped(*names.split()) for names in ("gold target", "expected_output output", "answer response", "a b")]
    [False, False, False, False]
    """
    one, other = _role(first), _role(second)
    if one is None:
        return other == "gold"
    return one == "given" or (one == "either" and other != "given")


def _role(name: str) -> _Role | None:
    """Return which answer the name of a parameter stands for; "answer" and "solution" may stand for either."""
    words = {word.lower().removesuffix("s") for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)}
    if "right" in words and len(words) > 1:  # else of (left, right)
        return "gold"
    return next((role for role, of_role in _ROLES if words & of_role), None)
