r"""Judges plain answers by their text: numbers, digits in a base, times and ratios, quantities, letters of a choice.

Every function is pure and total on strings of normal layout in which words are marked.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from cir_env.grading import structure
from cir_env.grading.latex import layout, squeeze
from cir_env.grading.numeric import (
    NUMBER,
    UNKNOWN,
    Number,
    last_place,
    parse_number,
    read_unit,
    same_dimension,
    same_number,
    scale,
)
from cir_env.grading.structure import letters
from cir_env.grading.words import Reading, has_words, mark, read, unmark, word

Judged = tuple[bool, str]
"""Whether an answer is right, and the reason."""

_NUMERALS: Final = "two three four five six seven eight nine ten eleven twelve"
_BASES: Final = {
    **{name: base for base, name in enumerate(_NUMERALS.split(), 2)},
    "sixteen": 16,
}
_DIGITS: Final = r"(?:\\overline ?)?[({]? ?(?P<digits>[0-9][0-9A-Za-z]*|[A-Z][0-9A-Z]*) ?[)}]?"
_BASED: Final = re.compile(rf"{_DIGITS} ?_ ?\{{? ?\(? ?(?:base )?(?P<base>[0-9]+|[a-z]+) ?\)? ?\}}?")
_IN_BASE: Final = re.compile(rf"{_DIGITS} ?[,(]? ?(?:in )?base[ -]?(?P<base>[0-9]+|[a-z]+) ?\)?")
_LETTER: Final = re.compile(r"[(\[]? ?([A-J]) ?[)\].:]*")
_CHOICE: Final = re.compile(r"(?:[(\[] ?([A-J]) ?[)\]]|([A-J])[).:])[.:]? *")
_MODULUS: Final = re.compile(r" ?(?:\\pmod ?\{[^{}]*\}|\(?\\?(?:mod|bmod) ?[^()]*\)?)$")
ORDERED: Final = re.compile(
    r"[<>]|\\(?:le|ge|ne|to|Rightarrow|implies|iff|in|notin|subset|not|rightarrow|Longrightarrow)(?![A-Za-z])"
)
_ENDS_WITH_A_NAME: Final = re.compile(r"\d\}? ?\\?[A-Za-z]\w*$")
"""A number followed by the next name, as on the second side of ``a=3 b=5``."""
_TIME: Final = re.compile(r"0?(\d{1,2}):([0-5]\d)")
_RATIO: Final = re.compile(r"\d+(?: ?: ?\d+)+")
_PAIR_OF_UNIT: Final = re.compile(
    rf" ?,? ?(?:{word('and')} ?)?((?=[\d\\])(?:[\d.,]*\d)? ?(?:\\frac\{{\d+\}}\{{\d+\}})?)"
    rf" ?((?:(?!{word('and')}){word('[^ ]*')} ?)+)"
)


# --- numbers, bases, ratios ------------------------------------------------------------------------------------


def gold_number(gold: str) -> Number | None:
    r"""Parse a gold answer that is a plain number, possibly with words, a unit and a name.

    >>> gold_number(r"x = 12\text{ cm}").unit, gold_number(r"\sqrt{2}")
    ('centimeter', None)
    """
    return named_number(read(mark(layout(gold))))[0]


def other_variable(gold: str, answer: str) -> bool:
    """Whether two names are different letters."""
    return all(re.fullmatch(r"[A-Za-z]", name) for name in (gold, answer)) and gold != answer


def named_number(reading: Reading) -> tuple[Number | None, str]:
    """Parse an answer that is a number, possibly with a name; return the number, or None, and the name."""
    if number := parse_number(reading.value, reading.unit):
        return number, ""
    sides = structure.split(reading.value, re.compile(" ?= ?"))
    if sides and len(sides) == 2 and structure.is_name(sides[0]) and (number := parse_number(sides[1], reading.unit)):
        return number, sides[0]
    return None, ""


def read_number(gold: Number, answer: str) -> Number | str:
    """Parse the number in an answer, where the number `gold` is right; return the reason why if it is not a number."""
    reading = read(with_short_unit(mark(layout(answer))) if gold.unit else mark(layout(answer)))
    return _number_in(gold, reading)


def judge_number(gold: Number, name: str, reading: Reading) -> Judged:
    """Judge an answer where a number is right."""
    number = _number_in(gold, reading)
    if not isinstance(number, Number):
        return False, number
    side, equals, _ = structure.without_qualifier(reading.value).partition("=")
    side = side.removesuffix(":").strip()
    is_head = structure.is_name(side) and side[:1] == name[:1]  # f or f(t) for f(x)
    if name and equals and letters(side) & letters(name) and squeeze(side) != squeeze(name) and not is_head:
        return False, "another quantity"
    if other_variable(name, side.strip()) and equals:
        return False, "another variable"
    return (True, "equal numbers") if same_number(gold, number) else (False, "another number")


def _number_in(gold: Number, reading: Reading) -> Number | str:
    """Parse the number in an answer.

    The answer may have the form ``x = 7``, ``3 + 4 = 7`` (sides that are numbers must be equal) or a modulus. What
    follows an "approximately" sign counts only if no number precedes it. A leading choice letter is ignored.
    """
    if reading.refused:
        return reading.refused
    text = structure.without_qualifier(reading.value)
    if (based := read_based(text)) and based[1] == 10:
        text = based[0]
    if choice := _CHOICE.match(unmark(text)):
        text = unmark(text)[choice.end() :]
    with_modulus = text
    text = re.sub(r"^\\\{ ?(.*?) ?\\\}$", r"\1", structure.unwrap(_MODULUS.sub("", text)))
    text = re.sub(r"^[A-Za-z] ?\\in ?\\\{(.*)\\\}$", r"\1", text)
    parts = structure.split(NUMBER.sub("0", text))
    if has_words(text) and not (parts and len(parts) > 1):
        return "words stand beside the number"
    exact, *rounded = re.split(r" ?\\(?:approx|simeq)(?![A-Za-z]) ?", text)
    sides = structure.split(exact, structure.EQUALS) or [exact]
    whole = parse_number(text)
    if not whole and ((parts and len(parts) > 1) or any(map(_ENDS_WITH_A_NAME.search, sides[1:-1]))):
        return "several values"
    stated = _numbers(sides)
    numbers = [whole] if whole else stated or _numbers(rounded)
    if not numbers or ORDERED.search(text):
        return "arithmetic is left to do" if re.search(r"\d", text) and not ORDERED.search(text) else "not a number"
    number = replace(numbers[-1], unit=reading.unit or numbers[-1].unit)
    modulus = re.search(r"\d+", removed[0]) if (removed := _MODULUS.search(with_modulus)) else None
    if modulus and abs(number.value) >= int(modulus[0]):
        return "not reduced by the modulus"
    for about in _numbers(rounded) if stated else []:
        if abs(about.value - number.value) >= last_place(rounded[-1]):
            return "two numbers"
    if not all(same_number(replace(number, unit=""), replace(other, unit="")) for other in numbers):
        return "two numbers"
    if gold.kind == "integer" and number.kind == "quotient" and number.value.denominator == 1:
        return "a division that is left to do"
    if number.is_percent and gold.unit not in ("", UNKNOWN):
        return f"a percentage instead of {gold.unit}"
    if gold.is_percent and number.unit not in ("", UNKNOWN):
        return f"in {number.unit} instead of percent"
    if objection := unit_objection(Reading(value="", unit=gold.unit), replace(reading, unit=number.unit)):
        return objection
    return number.in_unit(gold.unit) or number


def _numbers(sides: list[str]) -> list[Number]:
    numbers = (parse_number(_MODULUS.sub("", side).strip()) for side in sides)
    return [number for number in numbers if number is not None]


def unit_objection(gold: Reading, answer: Reading) -> str:
    """Return why the unit of an answer is not that of the gold answer; "" if it may be."""
    if (
        gold.unit == ""
        or answer.unit in ("", gold.unit)
        or (answer.unit == UNKNOWN and (gold.unit == UNKNOWN or _counts_units(answer.noun, gold.unit)))
    ):
        return ""
    if UNKNOWN in (gold.unit, answer.unit):
        return (
            ""
            if gold.unit == UNKNOWN and not gold.noun
            else f"in {answer.noun or answer.unit} instead of {gold.noun or gold.unit}"
        )
    return "" if same_dimension(gold.unit, answer.unit) else f"in {answer.unit} instead of {gold.unit}"


def _counts_units(noun: str, unit: str) -> bool:
    """Whether a noun such as "square units" stands for a unit."""
    powers = {"square": "** 2", "cubic": "** 3"}
    return noun.endswith("units") and all(power in unit for word, power in powers.items() if word in noun)


def with_short_unit(text: str) -> str:
    """Mark a letter or a prime behind a number as a unit, where the gold answer has one."""
    text = re.sub(r"(?<=\d) ?(?:\"|'')$", f" {_INCHES}", text)
    return re.sub(r"(?<=[\d}]) ([mgshLlN])(?= ?$| ?/| ?\^)", lambda match: f" {_marked_word(match[1])}", text)


def _marked_word(name: str) -> str:
    return mark(rf"\text{{{name}}}")


_INCHES, _HOUR, _HOURS, _METRE, _MINUTE = map(_marked_word, ("inches", "h", "hours", "m", "min"))


def read_based(text: str) -> tuple[str, int] | None:
    r"""Parse digits with a base.

    >>> [read_based(text) for text in ("2a_{16}", "(0101)_{two}", "x_1", "9_8", "12 base 5")]
    [('2A', 16), ('101', 2), None, None, ('12', 5)]
    """
    text = unmark(text)
    match = _BASED.fullmatch(text) or _IN_BASE.fullmatch(text)
    if match is None:
        return None
    base = _BASES.get(match["base"], 0) if match["base"].isalpha() else int(match["base"][:3])
    digits = match["digits"].upper().lstrip("0") or "0"
    return (digits, base) if base <= 36 and all(int(digit, 36) < base for digit in digits) else None


def judge_based(gold: tuple[str, int], reading: Reading) -> Judged:
    """Judge an answer where digits in a certain base are right; the base is optional."""
    text = re.sub(r"^[A-Za-z] ?= ?", "", reading.value)
    based = read_based(text)
    if based is None and reading.refused:
        return False, reading.refused
    if based and based[1] != gold[1]:
        return False, f"in base {based[1]} instead of {gold[1]}"
    digits = based[0] if based else text.replace(" ", "").lstrip("0") or text
    return (True, "equal digits") if digits == gold[0] else (False, "other digits")


def judge_ratio(gold: str, answer: str) -> Judged | None:
    """Judge an answer where a time or a ratio is right."""
    if time := _TIME.fullmatch(gold):
        other = _TIME.fullmatch(answer)
        return (True, "the same time") if other and other.groups() == time.groups() else (False, "another time")
    if not _RATIO.fullmatch(gold):
        return None
    terms = [int(term) for term in gold.split(":")]
    number = parse_number(answer)
    if _RATIO.fullmatch(answer):
        others = [int(term) for term in answer.split(":")]
    elif number and len(terms) == 2:
        others = [number.value.numerator, number.value.denominator]
    else:
        return False, "no ratio"
    same = len(terms) == len(others) and all(a * others[0] == b * terms[0] for a, b in zip(terms, others, strict=True))
    return (True, "the same ratio") if same and any(others) else (False, "another ratio")


# --- quantities of two units -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One or several numbers with units, such as 2 hours 30 minutes."""

    parts: tuple[Number, ...]

    @property
    def unit(self) -> str:
        """The unit of the first number."""
        return self.parts[0].unit


def read_quantity(text: str) -> Quantity | None:
    """Parse a marked text of numbers with known units of one dimension; None if it is none."""
    text = re.sub(r"(?<=\d) ?([hmsg])(?=[ \d]|$)", lambda match: f" {_marked_word(match[1])} ", text)
    text = text.replace(_HOUR, _HOURS)
    if _HOURS in text:  # m beside hours is no length
        text = text.replace(_METRE, _MINUTE)
    text = re.sub(rf"({word('[^ ]*')})\.", r"\1", text).strip()
    parts: list[Number] = []
    position = 0
    while position < len(text) and len(parts) < 5:
        match = _PAIR_OF_UNIT.match(text, position)
        number = parse_number(match[1].strip()) if match else None
        unit = read_unit(unmark(match[2])) if match else ""
        if match is None or number is None or not unit or (parts and not same_dimension(parts[0].unit, unit)):
            return None
        parts.append(replace(number, unit=unit))
        position = match.end()
    return Quantity(parts=tuple(parts)) if parts and position == len(text) else None


def number_as_quantity(reading: Reading) -> Quantity | None:
    """Return a number with a unit, such as an amount of money, as a quantity."""
    number, _ = named_number(reading)
    return Quantity(parts=(number,)) if number and number.unit not in ("", UNKNOWN) else None


def judge_quantity(gold: Quantity, answer: Quantity) -> Judged:
    """Judge an answer where a quantity is right: the sums must be equal."""
    if not same_dimension(gold.unit, answer.unit):
        return False, f"in {answer.unit} instead of {gold.unit}"
    totals = [
        sum((part.value * scale(part.unit, gold.unit) for part in quantity.parts), Fraction(0))
        for quantity in (gold, answer)
    ]
    kind = "decimal" if any(part.kind == "decimal" for part in (*gold.parts, *answer.parts)) else "quotient"
    same = same_number(Number(value=totals[0], kind="quotient"), Number(value=totals[1], kind=kind))  # type: ignore[arg-type]
    return (True, "equal quantities") if same else (False, "another quantity")


# --- choices ---------------------------------------------------------------------------------------------------


def judge_choice(gold: str, answer: str) -> Judged | None:
    """Judge an answer where the letter of a choice is right; its text may follow the letter."""
    letter = _LETTER.fullmatch(gold)
    if letter is None or (len(gold) == 1 and not gold.isupper()):
        return None
    reading = read(answer)
    text = unmark(reading.value).strip(" {}")
    if reading.refused:
        return False, reading.refused
    if same := re.fullmatch(r"[(\[]? ?([A-Ja-j]) ?[)\].:]*", text):
        return (True, "the same choice") if same[1].upper() == letter[1] else (False, "another choice")
    match = _CHOICE.match(text)
    if match is None:
        return False, "no single letter of a choice"
    if (match[1] or match[2]) != letter[1]:
        return False, "another choice"
    behind_letter = text[match.end() :].strip()
    rest = mark(layout(behind_letter))
    behind = read(f"0 {rest}" if has_words(rest[:1]) else rest)
    several = structure.split(rest)
    more = re.match(r"[=+\-*/(\[,;\\]", behind_letter) and not re.match(r"\\(?:frac|sqrt|pi|\$|\{)", behind_letter)
    if (
        behind.refused
        or more
        or re.search(r"\\quad", answer)
        or not several
        or len(several) > 1
        or re.search(r"(?<![A-Za-z\\])[A-J](?:[)\].]|$)", rest)
    ):
        return False, behind.refused or "more stands beside the letter"
    return (True, "the same choice")
