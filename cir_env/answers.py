r"""Answers as text: what can be judged, or must be refused, before any algebra is done.

Most gold answers are plain numbers. Then the answer has to *be* a number too: an expression that only has the
right value, such as ``4821 \times 367`` for 1769307, is refused, since a policy that boxes the question would
otherwise be paid for it. For other gold answers, what algebra would wave through is refused: another kind of
brackets, another base. `judge_text` decides most answers so, exactly and without another process.

Every function is pure and total on strings.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

MAX_ANSWER_CHARS = 1_000
"""A longer answer is wrong unless it is the gold answer, letter by letter."""

_MAX_DIGITS = 4_000  # of a number; int() itself refuses more than 4,300
_WRAPPERS = ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BOX_OR_TEXT = re.compile(r"\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf|mathit|mbox)\s*\{")
_REPLACEMENTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"[\u2212\u2013]", "-"),
        (r"\\text\s*\{\s*\}", ""),
        (r"\\(?:left|right|displaystyle)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac\s*(\d)", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"(?<=\d)\s*(?:\{\s*,\s*\}|,\s*\\!)\s*(?=\d)", ","),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\(?:[,;: ]|quad(?![a-zA-Z]))|~", " "),
        (r"\\\$", "$"),
        (r"\\%", "%"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])", "°"),
        (r"\s+", " "),
    )
)


def tidy(text: str) -> str:
    r"""The same answer without cosmetics: dollar signs, wrappers, spacing commands, a full stop, a leading plus.

    >>> tidy(r" $\boxed{\dfrac{1}{2}}.$ "), tidy(r"1{,}234"), tidy(r"\text{ east }"), tidy("+7.")
    ('\\frac{1}{2}', '1,234', 'east', '7')
    """
    return _strip(text, _BOX_OR_TEXT)


def for_algebra(text: str) -> str:
    r"""An answer as a parser of LaTeX wants it: tidy, but with text marked as text.

    >>> for_algebra(r"$\text{east}.$"), for_algebra("25%"), for_algebra(r"\boxed{90°}")
    ('\\text{east}', '25\\%', '90^{\\circ}')
    """
    text = _strip(text, _BOX)
    return text.replace("$", "").replace("%", r"\%").replace("°", r"^{\circ}")


def _strip(text: str, command: re.Pattern[str]) -> str:
    for pattern, new in _REPLACEMENTS:
        text = pattern.sub(new, text)
    previous = None
    while text != previous:
        previous = text
        text = text.strip().removesuffix(".").rstrip().removeprefix("+").lstrip()
        text = _unwrap(text, command)
    return text


def _unwrap(text: str, command: re.Pattern[str]) -> str:
    for start, end in _WRAPPERS:
        if len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end):
            inner = text[len(start) : -len(end)]
            return text if start in inner or end in inner else inner
    match = command.match(text)
    if match and partner(text, match.end() - 1) == len(text) - 1:
        return text[match.end() : -1]
    return text


def partner(text: str, start: int) -> int:
    """Where the bracket at `start` closes, counting all kinds alike; -1 if it does not."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] in "([{") - (text[index] in ")]}")
        if depth == 0:
            return index
    return -1


def same_text(gold: str, answer: str) -> bool:
    r"""Whether two tidy answers are the same but for blanks that carry no meaning.

    >>> same_text(r"(3, \frac{\pi}{2})", r"(3,\frac{\pi}{2})"), same_text("12", "1 2")
    (True, False)
    """
    return _squeeze(gold) == _squeeze(answer) != ""


def _squeeze(text: str) -> str:
    # A blank between two letters or digits separates them; any other only looks nice.
    return re.sub(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])", "", text)


# --- plain numbers ---------------------------------------------------------------------------------------------

_UNITS = {
    name: names.split()[0]
    for names in (
        "mm millimeter millimeters millimetre millimetres",
        "cm centimeter centimeters centimetre centimetres",
        "m meter meters metre metres",
        "km kilometer kilometers kilometre kilometres",
        "inches inch in",
        "feet foot ft",
        "yards yard yd",
        "miles mile mi",
        "seconds second sec s",
        "minutes minute min",
        "hours hour hr h",
        "days day",
        "grams gram g",
        "kg kilogram kilograms",
        "degrees degree °",
        "radians radian rad",
        "dollars dollar",
        "cents cent",
    )
    for name in names.split()
}
# fmt: off
_NOT_UNITS = {
    "percent", "hundred", "thousand", "million", "billion", "trillion", "dozen", "squared", "cubed",
    "factorial", "half", "halves", "times", "pi", "mod", "choose", "plus", "minus", "and", "or",
}
# fmt: on
_TRAILING_UNIT = re.compile(
    r"(?:\\(?:text|mathrm|mbox)\s*\{\s*(?P<text>[A-Za-z ]+?)\.?\s*\}"
    r"|(?<![A-Za-z\\])(?P<word>[A-Za-z]+(?: [A-Za-z]+)*)|(?P<degree>°))"
    r"(?:\s*\^\s*\{?[23]\}?)?$"
)
_PERCENT = re.compile(r"\s*(?:%|(?<=\d)\s*percent|\\text\s*\{\s*percent\s*\})$")
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:[ ]\d{3})+|\d+)(?!\d)"
_NUMBER = re.compile(
    rf"""(?P<sign>-\ ?)?(?:
        (?:(?P<whole>\d+)\ ?)?\\frac\ ?\{{\ ?(?P<top>-?\d+)\ ?\}}\ ?\{{\ ?(?P<bottom>\d+)\ ?\}}
      | (?:(?P<whole2>\d+)\ )?(?P<top2>\d+)\ ?/\ ?(?P<bottom2>\d+)
      | (?:(?P<factor>(?:{_INTEGER})?\.\d+|{_INTEGER}\.?)\ ?(?:\\times|\\cdot|\*|×|⋅)\ ?)?
            10\ ?\^\ ?(?:\{{\ ?(?P<power>-?\d+)\ ?\}}|(?P<power2>\d)(?!\d))
      | (?P<mantissa>(?:{_INTEGER})?\.\d+|{_INTEGER}\.?)(?:[eE](?P<exponent>[+-]?\d+))?
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number as it was written."""

    value: Fraction
    """Its value; of a percentage, the number before the sign."""
    kind: Literal["integer", "decimal", "quotient"]
    """How it was written; a decimal may have been rounded."""
    is_percent: bool = False
    """Whether a percent sign follows."""
    unit: str = ""
    """Its unit in canonical form, if it has one that we know."""


def parse_number(text: str) -> Number | None:
    r"""Read a tidy text that is one number, perhaps with a unit, a percent, degree or currency sign.

    >>> [str(parse_number(t).value) for t in (r"1\frac{1}{2}", "-1,234.5", "1.2e3", r"3 \times 10^{2}", "12 cm")]
    ['3/2', '-2469/2', '1200', '300', '12']
    >>> [parse_number(t) for t in ("3 + 4", "7x", "1 2", r"\sqrt{49}", "7 million")]
    [None, None, None, None, None]
    """
    if len(text) > _MAX_DIGITS:
        return None
    text, unit = _split_unit(text)
    bare = _PERCENT.sub("", text)
    match = _NUMBER.fullmatch(bare.strip("$€£ "))
    part = {name: value for name, value in match.groupdict().items() if value} if match else {}
    value = _value(part)
    if value is None:
        return None
    is_quotient = "top" in part or "top2" in part
    is_decimal = "." in (part.get("mantissa") or part.get("factor") or "").rstrip(".") or "exponent" in part
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
    if is_unit or (is_word and _NOT_UNITS.isdisjoint(name.split())):
        return text[: match.start()].rstrip(), _UNITS.get(name, "")
    return text, ""


def _value(part: dict[str, str]) -> Fraction | None:
    """The value of a number's parts, without its sign; None where there is none."""
    exponent = part.get("exponent") or part.get("power") or part.get("power2") or "0"
    if len(exponent) > 5 or abs(int(exponent)) > _MAX_DIGITS:
        return None
    mantissa = part.get("mantissa") or part.get("factor") or ("1" if exponent != "0" else "")
    if mantissa:
        return Fraction(re.sub("[, ]", "", mantissa).rstrip(".")) * Fraction(10) ** int(exponent)
    top, bottom = part.get("top") or part.get("top2"), part.get("bottom") or part.get("bottom2")
    if top is None or bottom is None or int(bottom) == 0:
        return None
    whole = part.get("whole") or part.get("whole2")
    if whole and not 0 < int(top) < int(bottom):
        return None
    return int(whole or 0) + Fraction(int(top), int(bottom))


def same_number(gold: Number, answer: Number) -> bool:
    """Whether two numbers are equal: exactly, or, where one is a rounded decimal, to six decimal places.

    An integer asks for the exact value (but for the noise of floating point), since there is nothing to round. A
    percentage equals its value; where only the percent sign is missing or added, it equals the bare number too.

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


# --- verdicts --------------------------------------------------------------------------------------------------

_BASED = re.compile(r"(?P<digits>[0-9A-Z]+) ?_ ?\{? ?(?P<base>\d+) ?\}?")
_CHOICE = re.compile(r"^\\text(?:bf)? ?\{ ?\([A-E]\) ?\} ?|^\([A-E]\) ?")
_MODULUS = re.compile(r"\s*(?:\\pmod\s*\{[^{}]*\}|\(\\?mod\s[^()]*\))$")
_SIDES = re.compile(r"(?<![<>!])=|\\approx|≈")
_AREA = re.compile(r"(?<![A-Za-z])(?:[cmk]?m|in|ft|\\(?:text|mathrm|mbox)\s*\{[A-Za-z. ]*\})\s*\^\s*\{?[23]\}?")
_HARMLESS_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|boxed|in)(?![A-Za-z])|\\[{}]")
_ARITHMETIC = re.compile(
    r"[\\+*^!|_×÷·⋅√∑]|sqrt|log|ln|exp|sin|cos|tan|gcd|lcm|max|min|floor|ceil|abs|binom|factorial|mod|choose|times"
)


def judge_text(gold: str, answer: str) -> tuple[bool, str] | None:
    r"""Judge an answer by its text, as far as that goes.

    Args:
        gold: The right answer.
        answer: The policy's.

    Returns:
        Whether the answer is right, and why; None if only algebra can tell.

    >>> judge_text("1769307", "1{,}769{,}307"), judge_text("1769307", r"4821 \times 367")[0]
    ((True, 'equal numbers'), False)
    >>> judge_text(r"5\sqrt{2}", r"\sqrt{50}") is None
    True
    """
    return judge_alike(gold, answer) or _judge_tidy(tidy(gold), tidy(answer))


def judge_alike(gold: str, answer: str) -> tuple[bool, str] | None:
    """Judge what needs no reading: the same text is right, an empty or overlong one is wrong."""
    if gold == answer != "":
        return True, "same text"
    if len(answer) > max(MAX_ANSWER_CHARS, 2 * len(gold)):
        return False, f"longer than {MAX_ANSWER_CHARS} characters"
    gold, answer = tidy(gold), tidy(answer)
    if same_text(gold, answer):
        return True, "same text"
    return None if answer.strip("$ ") else (False, "empty")


def _judge_tidy(gold: str, answer: str) -> tuple[bool, str] | None:
    if based := _BASED.fullmatch(gold):
        return _judge_based(based, answer)
    if number := parse_number(gold):
        return _judge_number(number, answer)
    return _judge_brackets(_brackets(gold), _brackets(answer))


def _judge_based(gold: re.Match[str], answer: str) -> tuple[bool, str]:
    """Judge an answer where digits in a certain base are right; the base may be left out."""
    based = _BASED.fullmatch(answer)
    if based and based["base"] != gold["base"]:
        return False, f"in base {based['base']} instead of {gold['base']}"
    digits = based["digits"] if based else answer.replace(" ", "")
    return (True, "equal digits") if digits == gold["digits"] else (False, "other digits")


def _judge_brackets(gold: str, answer: str) -> tuple[bool, str] | None:
    return (False, f"{answer} instead of {gold}") if gold and answer and gold != answer else None


def _judge_number(gold: Number, answer: str) -> tuple[bool, str] | None:
    """Judge an answer where a number is right."""
    number = read_number(gold, answer)
    if not isinstance(number, Number):
        return None if number is None else (False, number)
    return (True, "equal numbers") if same_number(gold, number) else (False, "another number")


def read_number(gold: Number, answer: str) -> Number | str | None:
    """Read the number that a tidy answer gives where `gold` is right, or say why it gives none.

    It may be written as ``x = 7`` or ``3 + 4 = 7`` (the last side that is a number counts) or with a modulus. What
    is not plainly a number, but could be one in words, is None. The letter of a choice is passed over.
    """
    if (based := _BASED.fullmatch(answer)) and based["base"] == "10":
        answer = based["digits"]
    answer = _CHOICE.sub("", answer)
    is_list = re.search("[,;]", _NUMBER.sub("", answer))  # "a = 1, b = 7" names two values
    sides = [answer] if is_list else reversed(_SIDES.split(answer))
    numbers = (parse_number(_MODULUS.sub("", side).strip()) for side in sides)
    number = next((number for number in numbers if number is not None), None)
    if number is None:
        if _may_be_a_number(answer):
            return None
        return "not a single number: arithmetic is left to do, or more stands beside it"
    if gold.unit and number.unit and gold.unit != number.unit:
        return f"in {number.unit} instead of {gold.unit}"
    if gold.kind == "integer" and number.kind == "quotient" and number.value.denominator == 1:
        return "a division that is left to do"
    return number


def _may_be_a_number(text: str) -> bool:
    r"""Whether a text holds exactly one number and nothing to work out, so that words alone stand around it.

    >>> _may_be_a_number("7 apples"), _may_be_a_number(r"\{7\}"), _may_be_a_number("(4821)(367)")
    (True, True, False)
    >>> _may_be_a_number(r"\sqrt{49}"), _may_be_a_number("5!"), _may_be_a_number("7 or 8")
    (False, False, False)
    """
    text, numbers = _NUMBER.subn("", _AREA.sub("", text))
    words = re.findall("[a-z]+", text.lower())
    is_plain = not _ARITHMETIC.search(_HARMLESS_COMMAND.sub("", text)) and _NOT_UNITS.isdisjoint(words)
    return numbers == 1 and is_plain


def _brackets(text: str) -> str:
    r"""What kind of brackets encloses a whole tidy text.

    >>> _brackets("(1,2)"), _brackets(r"\{1,2\}"), _brackets("(1,2),(3,4)")
    ('a tuple or an interval', 'a set', '')
    """
    if text[:1] in ("(", "[") and partner(text, 0) == len(text) - 1:
        return "a tuple or an interval"
    if text[:2] == r"\{" and partner(text, 1) == len(text) - 1:
        return "a set"
    return ""
