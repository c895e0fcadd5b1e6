r"""Parses plain numbers and compares them.

Every function is pure and total on strings.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

_MAX_DIGITS = 4_000  # int() itself rejects more than 4,300
_LENGTHS, _TIMES, _MASSES, _MONEY = "metres", "seconds", "grams", "dollars"
_MEASURES: dict[str, tuple[str, Fraction] | None] = {
    "mm millimeter millimeters millimetre millimetres": (_LENGTHS, Fraction(1, 1000)),
    "cm centimeter centimeters centimetre centimetres": (_LENGTHS, Fraction(1, 100)),
    "m meter meters metre metres": (_LENGTHS, Fraction(1)),
    "km kilometer kilometers kilometre kilometres": (_LENGTHS, Fraction(1000)),
    "inches inch in": (_LENGTHS, Fraction(254, 10_000)),
    "feet foot ft": (_LENGTHS, Fraction(3048, 10_000)),
    "yards yard yd": (_LENGTHS, Fraction(9144, 10_000)),
    "miles mile mi": (_LENGTHS, Fraction(1609344, 1000)),
    "seconds second sec s": (_TIMES, Fraction(1)),
    "minutes minute min": (_TIMES, Fraction(60)),
    "hours hour hr h": (_TIMES, Fraction(3600)),
    "days day": (_TIMES, Fraction(86400)),
    "grams gram g": (_MASSES, Fraction(1)),
    "kg kilogram kilograms": (_MASSES, Fraction(1000)),
    "dollars dollar": (_MONEY, Fraction(1)),
    "cents cent": (_MONEY, Fraction(1, 100)),
    "degrees degree °": None,
    "radians radian rad": None,
}
_UNITS = {name: names.split()[0] for names in _MEASURES for name in names.split()}
_SCALES = {names.split()[0]: scale for names, scale in _MEASURES.items() if scale}
# fmt: off
NOT_UNITS = {
    "percent", "hundred", "thousand", "million", "billion", "trillion", "dozen", "squared", "cubed",
    "factorial", "half", "halves", "times", "pi", "mod", "choose", "plus", "minus", "and", "or", "not", "wrong",
}
# fmt: on
_TRAILING_UNIT = re.compile(
    r"(?:\\(?:text|mathrm|mbox|operatorname)\s*\{\s*(?P<text>[A-Za-z ]+?)\.?\s*\}"
    r"|(?<![A-Za-z\\])(?P<word>[A-Za-z]+(?: [A-Za-z]+)*)|(?P<degree>°))"
    r"(?P<power>\s*\^\s*\{?[23]\}?)?$"
)
_CURRENCY = re.compile(r" ?(?P<sign>-?) ?[$€£] ?")
_PERCENT = re.compile(r"\s*(?:%|(?<=\d)\s*percent|\\text\s*\{\s*percent\s*\})$")
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:[ ]\d{3})+|\d+)(?!\d)"
NUMBER = re.compile(
    rf"""(?P<sign>-\ ?)?(?:
        (?:(?P<whole>\d+)\ ?)?\\frac\ ?\{{\ ?(?P<top>-?\d+)\ ?\}}\ ?\{{\ ?(?P<bottom>-?\d+)\ ?\}}
      | (?:(?P<whole2>\d+)\ )?(?P<top2>\d+)\ ?/\ ?(?P<bottom2>\d+)
      | (?:(?P<factor>(?:{_INTEGER})?\.\d+|{_INTEGER}\.?)\ ?(?:\\times|\\cdot|\*)\ ?)?
            10\ ?\^\ ?(?:\{{\ ?(?P<power>-?\d+)\ ?\}}|(?P<power2>\d)(?!\d))
      | (?P<start>\d*\.\d*)\ ?\\(?:overline|bar)\ ?\{{\ ?(?P<period>\d+)\ ?\}}
      | (?P<mantissa>(?:{_INTEGER})?\.\d+|{_INTEGER}\.?)(?:[eE](?P<exponent>[+-]?\d+))?
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number as it was written."""

    value: Fraction
    """Its value; of a percentage, the number before the percent sign."""
    kind: Literal["integer", "decimal", "quotient"]
    """How it was written; a decimal may have been rounded."""
    is_percent: bool = False
    """Whether a percent sign follows."""
    unit: str = ""
    """Its unit in canonical form, if known; areas and volumes end with ``^2`` or ``^3``."""

    def in_unit(self, unit: str) -> "Number | None":
        r"""Convert to another unit; None if the units are not compatible.

        >>> parse_number(r"50\text{ cents}").in_unit("dollars").value
        Fraction(1, 2)
        """
        if self.unit.partition("^")[0] == unit.partition("^")[0]:
            return self
        own, other = _SCALES.get(self.unit), _SCALES.get(unit)
        if own is None or other is None or own[0] != other[0]:
            return None
        return replace(self, value=self.value * own[1] / other[1], unit=unit)


def parse_number(text: str) -> Number | None:
    r"""Parse a tidy text that is a single number, optionally with a unit or a percent, degree or currency sign.

    >>> [str(parse_number(t).value) for t in (r"1\frac{1}{2}", "-1,234.5", "1.2e3", r"3 \times 10^{2}", "12 cm")]
    ['3/2', '-2469/2', '1200', '300', '12']
    >>> [parse_number(t) for t in ("3 + 4", "7x", "1 2", r"\sqrt{49}", "7 million")]
    [None, None, None, None, None]
    >>> parse_number(r"0.1\overline{6}").value
    Fraction(1, 6)
    """
    if len(text) > _MAX_DIGITS:
        return None
    text, unit = _split_unit(text)
    bare = _PERCENT.sub("", text)
    currency = _CURRENCY.match(bare)
    if currency and "$" in currency[0] and not bare.endswith("$"):
        unit = unit or "dollars"
    match = NUMBER.fullmatch(_CURRENCY.sub(r"\g<sign>", bare).strip("$€£ "))
    part = {name: value for name, value in match.groupdict().items() if value} if match else {}
    value = _value(part)
    if value is None:
        return None
    is_quotient = "top" in part or "top2" in part
    written = part.get("mantissa") or part.get("factor") or part.get("start") or ""
    is_decimal = "." in written.rstrip(".") or "exponent" in part or "period" in part
    return Number(
        value=-value if "sign" in part else value,
        kind="quotient" if is_quotient else "decimal" if is_decimal else "integer",
        is_percent=bare != text,
        unit=unit,
    )


def _split_unit(text: str) -> tuple[str, str]:
    match = _TRAILING_UNIT.search(text)
    if not match or match.start() == 0:
        return text, ""
    name = (match["text"] or match["word"] or match["degree"]).lower()
    is_word = match["text"] or (len(name) > 2 and text[match.start() - 1] == " ")  # "7 apples", but not "7x"
    is_unit = name in _UNITS and (len(name) > 1 or not match["word"])  # "12m" may be a product
    if is_unit or (is_word and NOT_UNITS.isdisjoint(name.split())):
        power = re.sub(r"[\s{}]", "", match["power"] or "")
        return text[: match.start()].rstrip(), _UNITS[name] + power if name in _UNITS else ""
    return text, ""


def _value(part: dict[str, str]) -> Fraction | None:
    """Return the absolute value of a number from its parts; None if they are not a number."""
    exponent = part.get("exponent") or part.get("power") or part.get("power2") or "0"
    if len(exponent) > 5 or abs(int(exponent)) > _MAX_DIGITS:
        return None
    mantissa = part.get("mantissa") or part.get("factor") or ("1" if exponent != "0" else "")
    if mantissa:
        return Fraction(re.sub("[, ]", "", mantissa).rstrip(".")) * Fraction(10) ** int(exponent)
    if "period" in part:
        start, period = part["start"], part["period"]
        places = len(start) - start.index(".") - 1
        return Fraction(f"0{start}0") + Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    top, bottom = part.get("top") or part.get("top2"), part.get("bottom") or part.get("bottom2")
    if top is None or bottom is None or int(bottom) == 0:
        return None
    whole = part.get("whole") or part.get("whole2")
    if whole and not 0 < int(top) < int(bottom):
        return None
    return int(whole or 0) + Fraction(int(top), int(bottom))


def same_number(gold: Number, answer: Number) -> bool:
    """Whether two numbers are equal: exactly, or to six decimal places if one of them is a rounded decimal.

    An integer must match exactly (up to floating-point noise), since there is nothing to round. A percentage equals its
    value, and also the bare number if only the percent sign is missing or added.

    >>> def same(a, b): return same_number(parse_number(a), parse_number(b))
    >>> same("1/3", "0.333333"), same("1/3", "0.33"), same("7", "6.9999999"), same("110", "110.00000000000001")
    (True, False, False, True)
    >>> same("25%", "25"), same("1/4", "25%"), same("0.25", "0.25%"), same("25", "0.25"), same("25", "2500")
    (True, True, False, False, False)
    """
    rounded = "decimal" in (gold.kind, answer.kind)
    if gold.is_percent == answer.is_percent:
        return _close(gold.value, answer.value, rounded)
    percent, other = (gold, answer) if gold.is_percent else (answer, gold)
    if _close(percent.value / 100, other.value, rounded):
        return True
    return (gold.is_percent or gold.kind == "integer") and _close(percent.value, other.value, rounded)


def _close(a: Fraction, b: Fraction, rounded: bool) -> bool:
    if a == b or not rounded:
        return a == b
    larger = max(abs(a), abs(b))
    if a.denominator == 1 or b.denominator == 1:
        return abs(a - b) <= larger / 10**12
    return abs(a - b) <= min(Fraction(1, 2 * 10**6), larger / 1000)
