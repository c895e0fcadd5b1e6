r"""Parses plain numbers and units, and compares them; pint knows the units.

Every function is pure and total on strings.
"""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, Final, Literal

from cir_env.grading.latex import closing_bracket

# --- units -----------------------------------------------------------------------------------------------------

UNKNOWN: Final = "?"
"""What is counted, such as apples: no unit of measurement."""

_LETTERS: Final = {"m", "g", "s", "h", "L", "l", "N", "J", "W", "V"}
"""Units of one letter that are read; pint knows more, which are variables here."""


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


_NOT_UNITS: Final = _names(
    """
    fifth fifths am pm are as at count counts mil mils point points unit units us percent quarter quarters half rod
    rods hand hands chain chains turn turns cycle pi max all no so to we an is has of off
    """
)
"""Names that pint takes for units, and that mean something else in an answer."""
_NAMES: Final = {
    **{"sec": "second", "secs": "second", "mins": "minute", "hrs": "hour", "ins": "inch", "lbs": "pound"},
    **{"°": "degree", "deg": "degree", "degs": "degree", "usd": "dollar", "eur": "euro", "kmh": "kph"},
}
_TOKEN: Final = re.compile(
    r"(?P<name>[A-Za-z]+|°)|(?P<power>\^ ?\{? ?-?\d ?\}?)|(?P<divide>/)|(?P<times>\\cdot|\*|-)| +"
)


@cache
def _registry() -> Any:
    import pint  # takes half a second, and most answers have no unit

    registry: Any = pint.UnitRegistry()
    registry.define("dollar = [money]")
    registry.define("cent = dollar / 100")
    registry.define("euro = [euros]")
    return registry


@lru_cache(maxsize=4096)
def read_unit(text: str) -> str:
    r"""Parse a unit; "" if it is none.

    >>> read_unit("cm"), read_unit("square meters"), read_unit("km/h"), read_unit("miles per hour"), read_unit("ft^{2}")
    ('centimeter', 'meter ** 2', 'kilometer / hour', 'mile / hour', 'foot ** 2')
    >>> read_unit("apples"), read_unit("dozen"), read_unit("x"), read_unit("cents")
    ('', '', '', 'cent')
    """
    parts: list[tuple[str, int]] = []
    position, sign, square = 0, 1, 1
    text = text.strip()
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or len(parts) > 6:
            return ""
        position = token.end()
        if name := token["name"]:
            if name.lower() in ("square", "sq", "cubic", "cu"):
                square = 2 if name[0] in "sS" else 3
            elif name.lower() in ("squared", "cubed") and parts:
                parts[-1] = (parts[-1][0], parts[-1][1] * (2 if name[0] in "sS" else 3))
            elif name.lower() == "per" and parts:
                sign = -1
            else:
                known = _unit_name(name)
                if not known:
                    return ""
                parts.append((known, sign * square))
                square = 1
        elif token["power"]:
            if not parts:
                return ""
            parts[-1] = (parts[-1][0], parts[-1][1] * int(re.sub(r"[^\d-]", "", token["power"])))
        elif token["divide"]:
            sign = -1
    if not parts or square != 1:
        return ""
    unit = _registry().Unit("")
    for name, power in parts:
        unit = unit * _registry().Unit(name) ** power
    is_number = unit.dimensionless and not any(name.endswith(("degree", "radian")) for name, _ in parts)
    return "" if is_number else f"{unit:D}"


def _unit_name(name: str) -> str:
    if (len(name) == 1 and name not in _LETTERS and name != "°") or name.lower() in _NOT_UNITS:
        return ""
    for spelling in (_NAMES.get(name.lower(), name), name, name.lower()):
        try:
            found = _registry().parse_unit_name(spelling)
        except Exception:  # pint raises errors of several kinds for names that it does not know
            continue
        if not found:
            continue
        prefix, base, _ = found[0]
        is_symbol = prefix and not spelling.startswith(prefix)  # "units" is no micronit
        if (len(name) > 2 or base in _SHORT) and not (is_symbol and len(name) > 3):
            return str(prefix + base)
    return ""


_SHORT: Final = _names(
    "meter gram second hour liter newton joule watt volt inch foot yard mile degree pound ounce hertz ampere dollar"
)
"""Base units that have names of one or two letters; other short names are mostly variables."""


def same_dimension(unit: str, other: str) -> bool:
    """Whether two units that `read_unit` returned measure the same."""
    return bool(_registry().Unit(unit).is_compatible_with(_registry().Unit(other)))


@lru_cache(maxsize=4096)
def scale(unit: str, other: str) -> Fraction:
    """Return how many of the other unit are one of a unit of the same dimension.

    >>> scale("kilometer", "meter"), scale("cent", "dollar"), scale("mile / hour", "kilometer / hour")
    (Fraction(1000, 1), Fraction(1, 100), Fraction(25146, 15625))
    """
    if unit == other:
        return Fraction(1)
    factor = _registry().Quantity(1, unit).to(other).magnitude
    return Fraction(factor).limit_denominator(10**9)


# --- numbers ---------------------------------------------------------------------------------------------------

_MAX_DIGITS = 4_000  # int() itself rejects more than 4,300
_CURRENCY = re.compile(r" ?(?P<sign>-?) ?[$€£¥₹] ?")
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
    """Its unit as `cir_env.grading.numeric.read_unit` returns it; "?" for a noun, "" for none."""

    def in_unit(self, unit: str) -> "Number | None":
        """Convert to another unit; None if the units are not compatible.

        >>> Number(value=Fraction(50), kind="integer", unit="cent").in_unit("dollar").value
        Fraction(1, 2)
        """
        if unit in ("", UNKNOWN) or self.unit in ("", unit):
            return self
        if self.unit == UNKNOWN or not same_dimension(self.unit, unit):
            return None
        return replace(self, value=self.value * scale(self.unit, unit), unit=unit)


def parse_number(text: str, unit: str = "") -> Number | None:
    r"""Parse a text of normal layout that is a single number, optionally with a percent, degree or currency sign.

    >>> [str(parse_number(t).value) for t in (r"1\frac{1}{2}", "-1,234.5", "1.2e3", r"3 \times 10^{2}", "(12)")]
    ['3/2', '-2469/2', '1200', '300', '12']
    >>> [parse_number(t) for t in ("3 + 4", "7x", "1 2", r"\sqrt{49}", "7 million")]
    [None, None, None, None, None]
    >>> parse_number(r"0.1\overline{6}").value
    Fraction(1, 6)
    """
    if len(text) > _MAX_DIGITS:
        return None
    while text[:1] in ("(", "{") and closing_bracket(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    bare = _PERCENT.sub("", text)
    if bare.endswith("°"):
        bare, unit = bare[:-1].rstrip(), unit or "degree"
    currency = _CURRENCY.match(bare)
    if currency:
        unit = unit or ("dollar" if "$" in currency[0] else UNKNOWN)
    match = NUMBER.fullmatch(_CURRENCY.sub(r"\g<sign>", bare).strip("$€£¥₹ "))
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
        is_percent=(bare != text and "%" in text) or "percent" in text,
        unit=unit,
    )


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
    """Whether two numbers are equal: exactly, or up to `tolerance` if one of them is a decimal.

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
        return abs(a - b) <= larger / 10**14
    return abs(a - b) <= max(tolerance(larger), larger / 10**12)


def tolerance(size: Fraction) -> Fraction:
    """Return by how much two numbers of this size may differ: half of the sixth decimal place, or of the sixth digit.

    The sixth significant digit counts below 0.1, so that small numbers need as many digits as others.

    >>> tolerance(Fraction(1)), tolerance(Fraction(2, 100))
    (Fraction(1, 2000000), Fraction(1, 20000000))
    """
    allowed, power = Fraction(1, 2 * 10**6), Fraction(1, 10)
    while 0 < size < power and allowed.denominator < 10**400:
        allowed, power = allowed / 10, power / 10
    return allowed


def last_place(text: str) -> Fraction:
    """Return the unit of the last digit of a number as it was written.

    >>> last_place("3.14"), last_place("6.37e+3"), last_place("17")
    (Fraction(1, 100), Fraction(10, 1), Fraction(1, 1))
    """
    mantissa, _, exponent = text.strip().lower().partition("e")
    power = int(exponent) if re.fullmatch(r"[+-]?\d{1,3}", exponent) else 0
    return Fraction(10) ** (power - len(mantissa.partition(".")[2]))
