r"""Judges whether an answer is right: by its text, by its structure, and by algebra where only that can tell.

`judge` reads gold answer and answer as a fair reader would (`latex`, `words`, `structure`) and compares them part by
part. A plain number must be answered by a number: an expression that only has the right value, such as
``4821 \times 367`` for 1769307, is wrong, since otherwise a policy would be rewarded for boxing the question. The same
holds for the elements of lists, sets and tuples, the ends of intervals and the cells of matrices. Relations count when
they are solved.

Expressions are compared by an `Algebra`, which needs sympy and therefore runs in the grading process. In the process of
the environment, `judge_text` decides what text can decide, which is most answers.

Every function is total on strings.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, NoReturn, Protocol

from cir_env.grading import structure
from cir_env.grading.latex import closing_bracket, layout, same_text, squeeze, tidy
from cir_env.grading.numeric import UNKNOWN, last_place, parse_number, scale
from cir_env.grading.plain import (
    ORDERED,
    Judged,
    judge_based,
    judge_choice,
    judge_number,
    judge_quantity,
    judge_ratio,
    named_number,
    number_as_quantity,
    other_variable,
    read_based,
    read_quantity,
    unit_objection,
    with_short_unit,
)
from cir_env.grading.structure import ELLIPSIS, Interval, Region, Relation, Values, letters
from cir_env.grading.words import Reading, has_words, mark, read, tokens, unmark

MAX_ANSWER_CHARS: Final = 1_000
"""A longer answer is wrong unless it equals the gold answer exactly, or is one integer."""

_MAX_DEPTH: Final = 12
"""An expression that is nested more deeply than this and than the gold answer is not compared."""

_UNFINISHED: Final = re.compile(
    r"\\(?:sum|prod|max|min|int|oint|iint|lim|det|bmod|mod|pmod|cap|cup|setminus|sout|x?cancel|not|neg|Rightarrow|implies|to|iff)"
    r"(?![A-Za-z])"
    r"|\\frac ?\{ ?d ?\}|\\frac ?\{ ?d\^|vmatrix|\\prime|\)'|\\begin|[?!]{2,}|[?#@&~]|(?<![A-Za-z]) ?\\equiv"
)


_NOTHING: Final = re.compile(r"(?:the )?empty set|(?:there (?:is|are) )?no (?:real )?solutions?|none", re.IGNORECASE)

_FORMULA: Final = re.compile(
    r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|\\begin\{(?:align|equation|gather)\*?\}(.+?)\\end\{", re.S
)
_SIDES: Final = re.compile(
    r"(?<![<>!:])=|&=?|\\\\|\\(?:le|ge|leq|geq|ne|neq)(?![A-Za-z])|[<>]|(?<=[^\d]),|,(?=[^\d])|;"
)


class Algebra(Protocol):
    """Compares what text cannot; `cir_env.grading.algebra` implements it."""

    def same(self, gold: str, answer: str) -> bool:
        """Whether two expressions are equal."""

    def same_relation(self, gold: Relation, answer: Relation) -> bool:
        """Whether two equations or inequalities say the same."""

    def value(self, text: str) -> Any:
        """Return the real value of an expression, which compares with other values; None if it has none."""


class Undecided(Exception):
    """Only algebra can tell."""


class UnreadableGold(Exception):
    """The gold answer, or a part of it, cannot be read as mathematics."""


class _NoAlgebra:
    def same(self, gold: str, answer: str) -> NoReturn:
        raise Undecided

    def same_relation(self, gold: Relation, answer: Relation) -> NoReturn:
        raise Undecided

    def value(self, text: str) -> NoReturn:
        raise Undecided


def judge_text(gold: str, answer: str, statement: str = "") -> Judged | None:
    r"""Judge an answer by its text, if the text decides it; arguments as in `judge`.

    >>> judge_text("1769307", "1{,}769{,}307"), judge_text("1769307", r"4821 \times 367")[0]
    ((True, 'equal numbers'), False)
    >>> judge_text(r"5\sqrt{2}", r"\sqrt{50}") is None
    True
    """
    try:
        return judge(gold, answer, _NoAlgebra(), statement)
    except (Undecided, UnreadableGold):
        return None


def judge(gold: str, answer: str, algebra: Algebra, statement: str = "") -> Judged:
    r"""Judge an answer.

    Args:
        gold: The right answer.
        answer: The policy's answer.
        algebra: Compares expressions.
        statement: The problem. An answer that is one of its formulas is refused, unless it is a number or the gold
            answer.

    Returns:
        Whether the answer is right, and the reason.

    Raises:
        UnreadableGold: The gold answer cannot be read as mathematics.
        Undecided: Only algebra can tell, and there is none.
    """
    if judged := judge_trivial(gold, answer):
        return judged
    gold_text, answer_text = mark(layout(gold)), mark(layout(answer))
    if statement and _is_copied(gold_text, answer_text, statement):
        return False, "copied from the statement"
    known = _words_of(statement) if statement else frozenset()
    return _Judge(algebra=algebra, known_words=known).judge(gold_text, answer_text)


def judge_trivial(gold: str, answer: str) -> Judged | None:
    """Judge what needs no parsing: the same text is right, an empty or overlong answer is wrong."""
    if gold == answer != "":
        return True, "same text"
    if len(answer) > max(MAX_ANSWER_CHARS, 2 * len(gold)) and not re.fullmatch(r"\s*\$?-?[\d,]{1,4000}\$?\s*", answer):
        return False, f"longer than {MAX_ANSWER_CHARS} characters"
    tidy_gold, tidy_answer = tidy(gold), tidy(answer)
    if same_text(tidy_gold, tidy_answer):
        return True, "same text"
    return None if tidy_answer.strip("$ ") else (False, "empty")


@lru_cache(maxsize=1024)
def _words_of(statement: str) -> frozenset[str]:
    return frozenset(re.findall("[a-z]{3,}", statement.lower()))


# --- copies of the statement ------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _formulas(statement: str) -> frozenset[str]:
    """Return the formulas of a statement and their sides, up to layout."""
    formulas = set()
    for match in _FORMULA.finditer(statement):
        formula = next(group for group in match.groups() if group)
        for part in (formula, *_SIDES.split(formula)):
            formulas.add(_bare(mark(layout(part))))
    return frozenset(formulas) - {""}


def _bare(text: str) -> str:
    r"""Return a formula without what does not change it: spaces, multiplication signs, brackets around it.

    >>> _bare(r"\arcsin(-\frac{1}{2})"), _bare(r"2 \cdot x^{2}"), _bare("2*x**2")
    ('\\arcsin-1/2', '2x^2', '2x^2')
    """
    text = structure.unwrap(squeeze(text.replace("$", "").replace("**", "^")).strip(" ,.;:"))
    text = re.sub(r"\\(?:cdot|times)(?![A-Za-z]) ?|[* ]", "", text)
    text = re.sub(r"\\frac\{(\w+)\}\{(\w+)\}", r"\1/\2", text.replace(r"\sqrt[2]", r"\sqrt"))
    text = re.sub(r"\\(sin|cos|tan)\^\{?-1\}?", r"\\arc\1", text)
    return re.sub(r"(?<=[a-z°])\(([^()+]*)\)", r"\1", re.sub("[{}]", "", text))


def _is_copied(gold: str, answer: str, statement: str) -> bool:
    r"""Whether an answer, or the value that it states, is a formula of the statement up to layout.

    A plain number, and the gold answer's own text, is no copy; but a fraction is if a decimal is right.

    >>> [_is_copied(r"11\sqrt{2}", answer, r"Simplify $\sqrt{242}$.") for answer in (r"x = \sqrt{242}", r"11\sqrt{2}")]
    [True, False]
    >>> _is_copied(r"\frac{3}{2}", "3/2", "Reduce $3/2$."), _is_copied("1.5", "3/2", "Write $3/2$ as a decimal.")
    (False, True)
    """
    if len(statement) > 20_000:
        statement = statement[:20_000]
    formulas = _formulas(statement)
    reading = read(answer)
    sides = [_bare(reading.value), *(_bare(side) for side in _SIDES.split(reading.value)[-1:])]
    golds = {_bare(gold), *(_bare(side) for side in _SIDES.split(gold))}
    if not any(side in formulas and side not in golds for side in sides):
        return False
    number, right = (parse_number(_SIDES.split(text)[-1].strip()) for text in (reading.value, gold))
    return number is None or (right is not None and {number.kind, right.kind} == {"quotient", "decimal"})


# --- one answer ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    algebra: Algebra
    known_words: frozenset[str] = frozenset()

    def judge(self, gold: str, answer: str) -> Judged:
        """Judge a marked text."""
        if same_text(gold, answer):
            return True, "same text"
        if gold == r"\emptyset" and _NOTHING.fullmatch(unmark(read(answer).value)):
            return True, "nothing"
        if answer[:1] == "(" and has_words(answer) and closing_bracket(answer, 0) == len(answer) - 1:
            answer = answer[1:-1].strip()
        if judged := judge_choice(unmark(gold), answer):
            return judged
        gold_reading = read(gold)
        if (total := read_quantity(gold)) and (len(total.parts) > 1 or total.unit not in ("", UNKNOWN)):
            answered = read_quantity(_lead_free(answer)) or number_as_quantity(read(answer))
            if answered and max(len(total.parts), len(answered.parts)) > 1:
                return judge_quantity(total, answered)
        if gold_reading.refused or _is_wordy(gold_reading.value) or gold_reading.noun.lower() in ("am", "pm"):
            return self._judge_words(gold, answer)
        reading = read(with_short_unit(answer) if gold_reading.unit else answer, self.known_words)
        if based := read_based(gold_reading.value):
            return judge_based(based, reading)
        number, name = named_number(gold_reading)
        if number:
            judged = judge_number(number, name, reading)
            return self._with_other_sides(judged, reading.value) if judged[0] and "=" in reading.value else judged
        if reading.refused:
            return False, reading.refused
        if objection := unit_objection(gold_reading, reading):
            return False, objection
        gold_value, value = gold_reading.value, reading.value
        if reading.unit == UNKNOWN and isinstance(structure.read_region(gold_value), Region):
            return False, f'says "{reading.noun}"'
        if ratio := judge_ratio(gold_value, value):
            return ratio
        if gold_reading.unit not in ("", UNKNOWN) and reading.unit not in ("", UNKNOWN, gold_reading.unit):
            factor = scale(reading.unit, gold_reading.unit)
            if factor != 1:
                value = rf"\frac{{{factor.numerator}}}{{{factor.denominator}}} \cdot ({value})"
        if reading.unit == "degree" and not gold_reading.unit:
            return False, "in degrees"
        if same_text(gold_value, value):
            return True, "same text"
        return self._judge_value(gold_value, value)

    def _with_other_sides(self, judged: Judged, text: str) -> Judged:
        """Check that calculations beside a right number have its value."""
        sides = structure.split(text, re.compile(" ?(?::=|(?<![<>!:])=+) ?")) or []
        value = next((side for side in reversed(sides) if parse_number(side)), None)
        for side in sides:
            is_calculation = not letters(side) and not structure.is_name(side) and not parse_number(side)
            if value and is_calculation and re.search(r"[\d\\]", side) and not self._agree(value, side):
                return False, "two values that are not equal"
        return judged

    def same(self, gold: str, answer: str) -> bool:
        """Whether two parts are equal."""
        return self.judge(gold.strip(), answer.strip().removeprefix("+").lstrip())[0]

    def _judge_words(self, gold: str, answer: str) -> Judged:
        """Judge an answer where words are right: the same words in the same order, and equal values between them."""
        reading = read(answer)
        golds = tokens(gold)
        for text in (answer, reading.value):
            answers = tokens(text)
            if answers[-2:] == ["is", "answer"]:
                answers = answers[:-2]
            if len(answers) == len(golds) and all(map(self._same_token, golds, answers)):
                is_other = reading.is_named and not _is_quantity_name(answer)
                return (False, "other words") if is_other else (True, "equal words")
        return False, "other words"

    def _same_token(self, gold: str, answer: str) -> bool:
        if gold == answer or gold.rstrip("s") == answer.rstrip("s"):
            return True
        return not gold.isalpha() and not answer.isalpha() and self.same(gold, answer)

    # --- structure ---------------------------------------------------------------------------------------------

    def _judge_value(self, gold: str, answer: str) -> Judged:
        region = structure.read_region(gold)
        if isinstance(region, Region) and not _is_pair(region, gold):
            return self._judge_region(region, answer)
        golds = structure.read_values(gold)
        if isinstance(region, Relation) or isinstance(golds, Relation):
            relation = region if isinstance(region, Relation) else golds
            assert isinstance(relation, Relation)
            return self._judge_relation(relation, answer)
        if (
            isinstance(region, Region)
            and isinstance(found := structure.read_region(answer), Region)
            and not _is_pair(found, answer)
        ):
            return self._judge_region(region, answer)
        if matrix := structure.read_matrix(_items(gold)[0]):
            return self._judge_matrix(matrix, answer)
        if golds is None:
            return self._judge_leaf(gold, answer)
        if has_words(answer) and any(has_words(item) for item in _items(answer)):
            return False, "words stand beside the value"
        values = structure.read_values(answer)
        if golds.names and isinstance(values, Relation | Values):
            if isinstance(values, Relation) and not letters(" ".join(golds.items)):
                return False, "an equation that is not solved"
            if isinstance(values, Relation) or (
                golds.kind == values.kind == "single" and values.names and _is_rearranged(golds, values)
            ):
                relation = Relation(sides=(golds.names[0], *golds.items), signs=("=",))
                return self._judge_relation(relation, answer)
            if (
                golds.kind == values.kind == "single"
                and values.names
                and other_variable(golds.names[0], values.names[0])
            ):
                return False, "another variable"
        if isinstance(values, Relation):
            return self._judge_equation_of_value(golds, values)
        if values is None:
            return False, "cannot be read as mathematics"
        return self._judge_values(golds, values)

    def _judge_values(self, golds: Values, values: Values) -> Judged:
        if objection := self._side_objection(golds, values):
            return False, objection
        if golds.kind == "tuple" and values.kind == "tuple" and golds.brackets != values.brackets:
            return False, "other brackets"
        gold_items, items = _expanded(golds), _expanded(values)
        if any(map(ELLIPSIS.search, items)) or any(map(ELLIPSIS.search, gold_items)):
            return self._judge_ordered(gold_items, items)
        if golds.kind == "single" and len(gold_items) == 1:
            if len(items) != 1 or values.kind == "tuple":
                return False, f"{len(items)} values instead of one"
            return self._judge_leaf(gold_items[0], items[0])
        if len(items) != len(gold_items):
            return False, f"{len(items)} values instead of {len(gold_items)}"
        if golds.kind == "set" and values.kind == "tuple" and values.brackets != "[]":
            return False, "a tuple or an interval instead of a set"
        if golds.kind == "tuple" and values.kind == "set":
            return False, "a set instead of a tuple or an interval"
        is_printed = values.brackets == "[]" and golds.kind != "tuple"  # a list of Python
        if ("tuple" in (golds.kind, values.kind) and not is_printed) or max(len(golds.names), len(values.names)) > 1:
            return self._judge_ordered(gold_items, _in_order(golds, values, items))
        remaining = list(items)
        for gold_item in gold_items:
            found = next((item for item in remaining if squeeze(item) == squeeze(gold_item)), None)
            found = (
                found if found is not None else next((item for item in remaining if self.same(gold_item, item)), None)
            )
            if found is None:
                return False, "another value"
            remaining.remove(found)
        return True, "equal values"

    def _agree(self, value: str, side: str) -> bool:
        """Whether two sides of an answer are equal."""
        try:
            return self.algebra.same(value, side)
        except UnreadableGold:  # it is the answer that cannot be read
            return False

    def _judge_ordered(self, golds: Sequence[str], items: Sequence[str]) -> Judged:
        if len(golds) != len(items):
            return False, f"{len(items)} values instead of {len(golds)}"
        for gold, item in zip(golds, items, strict=True):
            if ELLIPSIS.search(gold) or ELLIPSIS.search(item):
                if not same_text(gold, item):
                    return False, "another sequence"
            elif not self.same(gold, item):
                return False, "another value"
        return True, "equal values"

    def _side_objection(self, golds: Values, values: Values) -> str:
        """Check the other sides of the equation that states the answer, which must not be other values."""
        if values.kind == "single" and (about := parse_number(values.rounded)):
            number = parse_number(values.items[0])
            value = number.value if number else self.algebra.value(values.items[0])
            if value is not None and abs(value - about.value) > last_place(values.rounded):
                return "two values that are not equal"
        if not values.sides:
            return ""
        if values.kind != "single":
            return "several values"
        value = values.items[0]
        for side in values.sides:
            if has_words(side) or ORDERED.search(side):
                return "more stands beside the value"
            if golds.sides and any(same_text(side, gold_side) for gold_side in golds.sides):
                continue
            own = letters(side)
            if (not own or own & letters(value)) and not self._agree(value, side):
                return "two values that are not equal"
        return ""

    def _judge_leaf(self, gold: str, answer: str) -> Judged:
        """Judge two expressions."""
        gold, answer = structure.unwrap(gold), structure.unwrap(answer)
        if same_text(gold, answer):
            return True, "same text"
        if ELLIPSIS.search(gold):
            return False, "another text, where dots allow no comparison"
        if has_words(gold):
            return self._judge_words(gold, answer)
        if has_words(answer):
            return False, "words stand beside the value"
        if number := parse_number(gold):
            return judge_number(number, "", Reading(value=answer))
        if objection := _unfinished(gold, answer):
            return False, objection
        if answer[:1] == "[" and gold[:1] != "[" and closing_bracket(answer, 0) == len(answer) - 1:
            return False, "in square brackets"
        if _depth(answer) > max(_MAX_DEPTH, _depth(gold)):
            return False, "nested too deeply"
        number = parse_number(answer)
        if number and number.is_percent and "%" not in gold:
            answer = f"{number.value / 100}"
        return (True, "equal by algebra") if self.algebra.same(gold, answer) else (False, "not equal by algebra")

    def _judge_matrix(self, gold: structure.Matrix, answer: str) -> Judged:
        values = structure.read_values(answer)
        text = values.items[0] if isinstance(values, Values) and values.kind == "single" else answer
        if isinstance(values, Values) and values.sides:
            return False, "more stands beside the matrix"
        if vector := re.fullmatch(r"\\langle (.*?) ?\\rangle", text):
            values = structure.read_values(f"({vector[1]})")
        if isinstance(values, Values) and values.kind == "tuple" and 1 in (len(gold), len(gold[0])):
            cells = [cell for row in gold for cell in row]
            return self._judge_ordered(cells, values.items)
        scaled = re.match(r"(.*?)[ ]?(?:\\cdot|\\times|\*)? ?(?=[(\[]? ?\\begin)", text)
        factor = parse_number(scaled[1].strip() or "1") if scaled else None
        matrix = structure.read_matrix(text[scaled.end() :].strip()) if scaled and factor else None
        if matrix is None or factor is None:
            return False, "not a matrix that is worked out"
        if [len(row) for row in matrix] != [len(row) for row in gold]:
            return False, "a matrix of another shape"
        if factor.value != 1:
            scaled_cells = [[parse_number(cell) for cell in row] for row in matrix]
            if any(cell is None for row in scaled_cells for cell in row):
                return False, "not a matrix that is worked out"
            matrix = tuple(tuple(str(cell.value * factor.value) for cell in row if cell) for row in scaled_cells)
        pairs = zip((cell for row in gold for cell in row), (cell for row in matrix for cell in row), strict=True)
        return (True, "equal matrices") if all(self.same(a, b) for a, b in pairs) else (False, "another matrix")

    # --- intervals and relations -------------------------------------------------------------------------------

    def _judge_region(self, gold: Region, answer: str) -> Judged:
        values = structure.read_values(answer)
        if isinstance(values, Values) and values.kind == "single" and values.names and not values.sides:
            answer = values.items[0] if structure.read_interval(values.items[0]) else answer
        region = structure.read_region(answer)
        if isinstance(region, Relation):
            return False, "a relation that is not solved for a variable"
        if region is None:
            return False, "no interval"
        if gold.name and region.name and gold.name != region.name:
            return False, "another variable"
        try:
            golds, intervals = self._canonical(gold), self._canonical(region)
        except _NoOrder:
            golds, intervals = [], None
        if intervals is None:
            return False, "intervals that overlap or have no order"
        if golds is None or len(golds) != len(intervals):
            return False, "another interval"
        same = all(self._same_interval(a, b) for a, b in zip(golds, intervals, strict=True))
        return (True, "equal intervals") if same else (False, "another interval")

    def _same_interval(self, gold: Interval, answer: Interval) -> bool:
        ends = ((gold.left, answer.left), (gold.right, answer.right))
        return gold.brackets == answer.brackets and all(
            a == b if "∞" in (a[-1], b[-1]) else self.same(a, b) for a, b in ends
        )

    def _canonical(self, region: Region) -> list[Interval] | None:
        """Return disjoint intervals in ascending order; None if the alternatives overlap."""
        if len(region.alternatives) == 1 and len(region.alternatives[0]) == 1 and len(region.alternatives[0][0]) == 1:
            return list(region.alternatives[0][0])
        pieces: list[Interval] = []
        alternatives = region.alternatives
        if region.is_listed and not self._common(alternatives[0]):  # "x < 1, x > 2"
            alternatives = tuple((condition,) for condition in alternatives[0])
        for conditions in alternatives:
            pieces.extend(self._common(conditions))
        pieces.sort(key=lambda piece: (self._value(piece.left), piece.brackets[0] == "("))
        merged: list[Interval] = []
        for piece in pieces:
            last = merged[-1] if merged else None
            if last is None or self._value(last.right) < self._value(piece.left):
                merged.append(piece)
            elif self._value(last.right) > self._value(piece.left):
                return None
            elif last.brackets[1] == "]" or piece.brackets[0] == "[":
                merged[-1] = replace(last, brackets=last.brackets[0] + piece.brackets[1], right=piece.right)
            else:
                merged.append(piece)
        return merged

    def _common(self, conditions: structure.Conditions) -> list[Interval]:
        """Return the intervals that fulfil all conditions."""
        found = list(conditions[0])
        for condition in conditions[1:]:
            found = [piece for a in found for b in condition if (piece := self._intersection(a, b))]
        return found

    def _intersection(self, a: Interval, b: Interval) -> Interval | None:
        left = max((a, b), key=lambda piece: (self._value(piece.left), piece.brackets[0] == "("))
        right = min((a, b), key=lambda piece: (self._value(piece.right), piece.brackets[1] == "]"))
        low, high = self._value(left.left), self._value(right.right)
        brackets = left.brackets[0] + right.brackets[1]
        if low > high or (low == high and brackets != "[]"):
            return None
        return Interval(brackets=brackets, left=left.left, right=right.right)

    def _value(self, end: str) -> Any:
        if end.endswith("∞"):
            return float("-inf") if end.startswith("-") else float("inf")
        number = parse_number(end)
        value = number.value if number else self.algebra.value(end)
        if value is None:
            raise _NoOrder
        return value

    def _judge_relation(self, gold: Relation, answer: str) -> Judged:
        """Judge an answer where an equation or inequality that is not solved is right."""
        if has_words(answer):
            return False, "words stand beside the equation"
        values, region = structure.read_values(answer), structure.read_region(answer)
        relation = region if isinstance(region, Relation) else values if isinstance(values, Relation) else None
        if relation is None and isinstance(values, Values) and values.kind == "single":
            if values.names or values.sides:
                relation = Relation(sides=((*values.names, *values.sides)[0], *values.items), signs=("=",))
            elif gold.signs == ("=",) and structure.is_name(gold.sides[0]):
                return self._judge_leaf(gold.sides[1], values.items[0])
        if relation is None or "" in relation.signs or len(relation.sides) != 2:
            return False, "no equation"
        if len(gold.sides) != 2:
            return (True, "same text") if gold == relation else (False, "another relation")
        if [squeeze(side) for side in gold.sides] == [
            squeeze(side) for side in relation.sides
        ] and gold.signs == relation.signs:
            return True, "same text"
        if _has_brackets(relation) and not _has_brackets(gold):
            return False, "an equation that is left to expand"
        same = self.algebra.same_relation(gold, relation)
        return (True, "equal relations") if same else (False, "another relation")

    def _judge_equation_of_value(self, golds: Values, relation: Relation) -> Judged:
        """Judge an equation where a value is right: its last side counts if the other one is of other variables."""
        left, right = relation.sides[0], relation.sides[-1]
        if len(relation.sides) != 2 or relation.signs != ("=",):
            return False, "a relation that is not solved"
        if (
            golds.kind == "single"
            and letters(right) & letters(left)
            and letters(golds.items[0]) & letters(left) == letters(golds.items[0])
        ):
            if not self._agree(right, left):
                return False, "an equation that is not solved"
        elif (
            letters(left) & letters(right)
            or not letters(left)
            or (parse_number(right) and not any(parse_number(item) for item in golds.items))
        ):
            return False, "an equation that is not solved"
        value = structure.read_values(right)
        return (
            self._judge_values(golds, value) if isinstance(value, Values) else (False, "cannot be read as mathematics")
        )


class _NoOrder(Exception):
    """The ends of intervals have no order."""


def _items(answer: str) -> tuple[str, ...]:
    values = structure.read_values(answer)
    return values.items if isinstance(values, Values) else (answer,)


def _is_pair(region: Region, text: str) -> bool:
    """Whether a text that may be an open interval may also be a pair of values."""
    if (
        len(region.alternatives) > 1
        or not re.match(r"(?:[^=\\]*=)? ?\(", text)
        or not text.endswith(")")
        or r"\in" in text
    ):
        return False
    intervals = [interval for condition in region.alternatives[0] for interval in condition]
    return not any("∞" in interval.left + interval.right for interval in intervals)


def _expanded(values: Values) -> list[str]:
    r"""Return the values with every ``\pm`` expanded; a tuple as it is."""
    if values.kind == "tuple":
        return list(values.items)
    return [one for item in values.items for one in structure.both_signs(item)]


def _in_order(golds: Values, values: Values, items: list[str]) -> list[str]:
    """Bring named values into the order of the gold answer's."""
    if not values.names or len(values.names) != len(items):
        return items
    names = [squeeze(name) for name in values.names]
    order = [squeeze(name) for name in golds.names] if golds.names else names
    if not golds.names and (
        set(names) <= set("xyzw")
        or set(names) <= set("abcdefgh")
        or set(names) <= set("pqrs")
        or set(names) <= set("uv")
    ):
        order = sorted(names, key="abcdefghpqrsuvxyzw".index)
    return [items[names.index(name)] for name in order] if sorted(order) == sorted(names) else ["", *items]


def _is_rearranged(golds: Values, values: Values) -> bool:
    return (
        values.names[0] != golds.names[0]
        and bool(letters(values.names[0]) & letters(golds.items[0]))
        and "(" not in values.names[0]
    )


def _has_brackets(relation: Relation) -> bool:
    """Whether a side multiplies a sum in brackets, or divides by a variable."""
    return any(
        re.search(r"\([^()]*[+\-][^()]*\)", side) or re.search(r"\\frac\{[^{}]*\}\{[^{}]*[A-Za-z]", side)
        for side in relation.sides
    )


def _depth(text: str) -> int:
    """Return how deeply brackets, braces and bars are nested at most."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return max(deepest, text.count("|") // 2, text.count("!") * 3)


def _unfinished(gold: str, answer: str) -> str:
    """Return what is left to do in an answer and not in the gold answer; "" if nothing is."""
    for match in _UNFINISHED.finditer(answer):
        if match[0].strip() not in gold:
            return f"{match[0].strip()} is left to do, or is no mathematics"
    if re.search(r"\d \d(?!\d*(?: \d+)* ?/)", re.sub(r"(?<!\d)\d{1,3}(?: \d{3})+(?!\d)", "0", answer)):
        return "several numbers side by side"
    if "\ufffd" in answer or (re.search(r"[\"`'’]$|''", answer) and "'" not in gold):
        return "cannot be read as mathematics"
    return ""


# --- choices and words -----------------------------------------------------------------------------------------


def _is_wordy(value: str) -> bool:
    """Whether a gold answer has words other than "and", "or" and those of a set of numbers."""
    if not has_words(value):
        return False
    if isinstance(structure.read_region(value), Region):
        return False
    parts = structure.split(structure.without_qualifier(value))
    return not parts or any(has_words(read(part).value) for part in parts)


def _is_quantity_name(answer: str) -> bool:
    return not {"area", "winner", "name", "person", "day", "month", "shape", "type"}.isdisjoint(tokens(answer))


def _lead_free(answer: str) -> str:
    reading = read(answer)
    prefix = answer.find(reading.value) if reading.value else 0
    return answer[max(prefix, 0) :]
