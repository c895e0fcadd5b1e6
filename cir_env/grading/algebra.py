"""Compares expressions with sympy, which math-verify reads from LaTeX; runs in the grading process.

Numbers are equal if they agree in more digits than any part of them has. Expressions with variables are equal if they
agree at points where both are real; random points decide that faster, and for more expressions, than simplification.
What has no value (sets, for example) is left to math-verify.
"""

import math
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import permutations
from typing import Any, Final

import sympy  # type: ignore[import-untyped, unused-ignore]
from math_verify import parse, verify  # type: ignore[import-untyped, unused-ignore]
from math_verify.parser import LatexExtractionConfig, NormalizationConfig  # type: ignore[import-untyped, unused-ignore]
from sympy.core.function import AppliedUndef  # type: ignore[import-untyped, unused-ignore]

from cir_env.grading.judge import UnreadableGold
from cir_env.grading.latex import for_algebra
from cir_env.grading.numeric import tolerance
from cir_env.grading.structure import Relation

_DIGITS: Final = 30
_MAX_DIGITS: Final = 12_000
"""Numbers of more digits are equal only if they are written alike."""
_POINTS: Final = 10
"""Points at which two expressions must agree."""
_TRIES: Final = 32
_DECIMAL: Final = re.compile(r"\(?-? ?[\d.]+(?:e-?\d+)?(?: ?[+-] ?[\d.]+ ?\*? ?\\?i)?\)?|-? ?[\d.]+ ?\*? ?i")
"""Numbers that may have been rounded."""
_CONSTANT: Final = re.compile(r"[a-dk](?:_\w+)?")


class Unreadable(Exception):
    """An answer cannot be read as mathematics."""


class SympyAlgebra:
    """The algebra of `cir_env.grading.judge.judge`; time and memory are unbounded."""

    def same(self, gold: str, answer: str) -> bool:
        """Whether two expressions are equal; a decimal in the answer may be rounded."""
        golds, answers = _read_gold(gold), _read_answer(answer)
        if isinstance(golds, sympy.Expr) != isinstance(answers, sympy.Expr):
            return False
        if not isinstance(golds, sympy.Expr):
            return bool(verify([golds], [answers], timeout_seconds=None))
        if golds == answers:
            return True
        has_decimals = answers.has(sympy.Float) and _DECIMAL.fullmatch(answer) is not None
        golds, answers = _exact(golds), _exact(answers)
        if _same_expression(golds, answers, has_decimals) or _same_expression(
            _with_imaginary_unit(golds), _with_imaginary_unit(answers), has_decimals
        ):
            return True
        return any(_same_expression(golds, other, has_decimals) for other in _renamed_constants(gold, golds, answers))

    def same_relation(self, gold: Relation, answer: Relation) -> bool:
        """Whether the differences of the sides are proportional, for an inequality with a positive factor."""
        golds, answers = (
            _difference(relation, read) for relation, read in ((gold, _read_gold), (answer, _read_answer))
        )
        signs = [relation.signs[0].strip() for relation in (gold, answer)]
        if ("=" in signs or r"\ne" in signs) and signs[0] != signs[1]:
            return False
        if len({sign in ("<", ">") for sign in signs}) > 1 or golds.free_symbols != answers.free_symbols:
            return False
        if signs[0] != signs[1]:
            answers = -answers
        values = _values(golds, answers)
        if any(None in pair for pair in values):
            return False
        ratios = [a / b for a, b in values if b != 0]
        if len(ratios) < _POINTS:
            return bool(verify([sympy.Eq(golds, 0)], [sympy.Eq(answers, 0)], timeout_seconds=None))
        is_positive = signs[0] in ("=", r"\ne") or ratios[0].is_positive
        return bool(ratios[0] != 0 and is_positive and all(_close(ratio, ratios[0], _DIGITS - 12) for ratio in ratios))

    def value(self, text: str) -> Fraction | None:
        """Return the value of a real expression, to 30 digits; None if it has none."""
        expression = _read(text)
        if not isinstance(expression, sympy.Expr) or expression.free_symbols:
            return None
        value = _exact(expression).evalf(_DIGITS)
        return (
            Fraction(sympy.Rational(value).p, sympy.Rational(value).q) if value.is_Float and value.is_finite else None
        )


def can_read(expression: str) -> bool:
    """Whether an expression can be read as mathematics."""
    return _read(expression) is not None


@lru_cache(maxsize=256)
def _read(text: str) -> Any:
    normal = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
    )
    config = [LatexExtractionConfig(normalization_config=normal)]
    found = parse(f"${for_algebra(text)}$", extraction_config=config, fallback_mode="no_fallback", parsing_timeout=None)
    return next((expression for expression in found if not isinstance(expression, str)), None)


def _read_gold(text: str) -> Any:
    expression = _read(text)
    if expression is None:
        raise UnreadableGold("the gold answer cannot be read as mathematics")
    return expression


def _read_answer(text: str) -> Any:
    expression = _read(text)
    if expression is None:
        raise Unreadable("cannot be read as mathematics")
    return expression


def _exact(expression: Any) -> Any:
    """Replace decimals by fractions, and values of unknown functions by variables."""
    decimals = {value: sympy.Rational(str(value)) for value in expression.atoms(sympy.Float)}
    functions = {value: sympy.Symbol(str(value)) for value in expression.atoms(AppliedUndef)}
    return expression.xreplace({**decimals, **functions})


def _with_imaginary_unit(expression: Any) -> Any:
    """Read the letter i as the imaginary unit; math-verify keeps it a variable."""
    letters = [symbol for symbol in expression.free_symbols if symbol.name == "i"]
    return expression.xreplace(dict.fromkeys(letters, sympy.I))


def _renamed_constants(gold: str, golds: Any, answers: Any) -> Iterator[Any]:
    """Rename the constants of integration of an answer to those of the gold answer."""
    own, others = (sorted(a.free_symbols - b.free_symbols, key=str) for a, b in ((golds, answers), (answers, golds)))
    if not re.search(r"(?<![A-Za-z\\])C(?![A-Za-z])", gold) or len(own) != len(others) or not 1 <= len(own) <= 3:
        return
    if all(_CONSTANT.fullmatch(symbol.name) for symbol in (*own, *others)):
        for order in permutations(own):
            yield answers.xreplace(dict(zip(others, order, strict=True)))


def _same_expression(gold: Any, answer: Any, has_decimals: bool) -> bool:
    if not gold.free_symbols:
        return not answer.free_symbols and _same_number(gold, answer, has_decimals)
    values = _values(gold, answer)
    if any(None in pair for pair in values):
        return False
    if len(values) < _POINTS:
        return bool(verify([gold], [answer], timeout_seconds=None))
    return all(_close(a, b, _DIGITS - 12) for a, b in values)


def _values(*expressions: Any) -> list[tuple[Any, ...]]:
    """Evaluate expressions at points of small fractions of either sign; None stands for a value that is not real."""
    symbols = sorted(set().union(*(expression.free_symbols for expression in expressions)), key=str)
    restricted = [_restricted(expression) for expression in expressions]
    is_complex = any(expression.has(sympy.I) for expression in expressions)
    numbers = random.Random(str(expressions[0]))
    found: list[tuple[Any, ...]] = []
    for attempt in range(_TRIES):
        signs, size = (((1,), 300), ((-1,), 3000), ((-1,), 30), ((1,), 3000), ((1, -1), 3000))[attempt % 5]
        point = {
            symbol: sympy.Rational(numbers.randint(size // 2, size) * numbers.choice(signs), 101) for symbol in symbols
        }
        values = tuple(
            _at(expression, point, is_complex) if all(_is_real(part, point) for part in parts) else None
            for expression, parts in zip(expressions, restricted, strict=True)
        )
        if any(value is not None for value in values):
            found.append(values)
        if len(found) == _POINTS:
            break
    return found


def _is_real(part: Any, point: dict[Any, Any]) -> bool:
    value = _at(part, point)
    return value is not None and value >= 0


def _restricted(expression: Any) -> list[Any]:
    """Return the parts of a real expression that must not be negative: below roots, and inside logarithms."""
    roots = [
        power.base for power in expression.atoms(sympy.Pow) if not power.exp.is_integer and power.base.free_symbols
    ]
    return roots + [log.args[0] for log in expression.atoms(sympy.log) if log.free_symbols]


def _at(expression: Any, point: dict[Any, Any], is_complex: bool = False) -> Any:
    value = expression.xreplace(point).evalf(_DIGITS)
    is_value = (value.is_Float or value.is_Integer or value.is_Rational) and value.is_finite
    return value if is_value or (is_complex and value.is_number and value.is_finite) else None


def _same_number(gold: Any, answer: Any, has_decimals: bool) -> bool:
    if has_decimals:
        return _rounds_to(gold, answer)
    digits = _DIGITS + max(_size(gold), _size(answer))
    if digits > _MAX_DIGITS:
        return False
    values = [expression.evalf(digits, maxn=2 * digits + 100) for expression in (gold, answer)]
    if not all(value.is_number and value.is_finite for value in values):
        return bool(values[0] == values[1] and values[0] is not sympy.nan)
    return _close(values[0], values[1], digits - 15)


def _rounds_to(gold: Any, answer: Any) -> bool:
    values = [expression.evalf(_DIGITS).as_real_imag() for expression in (gold, answer)]
    for exact, rounded in zip(*values, strict=True):
        if not (exact.is_number and rounded.is_number and exact.is_finite and rounded.is_finite):
            return False
        size = Fraction(str(max(abs(exact), abs(rounded), sympy.Float("1e-300"))))
        if Fraction(str(abs(exact - rounded))) > tolerance(size):
            return False
    return True


def _size(expression: Any) -> int:
    """Return the number of digits of the largest powers, factorials and binomials in a number, added up."""
    total = 0
    for part in sympy.postorder_traversal(expression):
        if isinstance(part, sympy.Integer | sympy.Rational):
            total += int(math.log10(abs(part.p) * part.q or 1)) if part.p else 0
        elif isinstance(part, sympy.Pow | sympy.factorial | sympy.binomial | sympy.exp):
            value = abs(part.evalf(15))
            if value.is_Float and value.is_finite and value > 0:
                total += abs(int(sympy.log(value, 10).evalf(15)))
        if total > _MAX_DIGITS:
            return total
    return total


def _close(a: Any, b: Any, digits: int) -> bool:
    if a == b:
        return True
    return bool(abs(a - b) <= max(abs(a), abs(b)) * sympy.Float(10) ** -digits)


def _difference(relation: Relation, read: Any) -> Any:
    sides = [read(side) for side in relation.sides]
    if not all(isinstance(side, sympy.Expr) for side in sides):
        raise Unreadable("cannot be compared as an equation")
    return _exact(sides[0] - sides[1])
