r"""Judges answers by their text, before any algebra.

Most gold answers are plain numbers. The answer must then *be* a number too: an expression that only has the right
value, such as ``4821 \times 367`` for 1769307, is wrong, since otherwise a policy would be rewarded for boxing the
question. For other gold answers, this module rejects what algebra would accept by mistake: other brackets, another
base. `judge_text` decides most answers exactly, without another process.

Every function is pure and total on strings.
"""

import re

from cir_env.grading.latex import closing_bracket, same_text, tidy
from cir_env.grading.numeric import NOT_UNITS, NUMBER, Number, parse_number, same_number

MAX_ANSWER_CHARS = 1_000
"""A longer answer is wrong unless it equals the gold answer exactly."""

_BASED = re.compile(
    r"(?P<open>\( ?)?(?P<digits>[0-9][0-9A-Za-z]*|[A-Z][0-9A-Z]*)(?(open) ?\))"
    r" ?_ ?\{? ?(?P<base>[0-9]+|\\text ?\{ ?[a-z]+ ?\}) ?\}?"
)
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_CHOICE = re.compile(r"^(?:\\text(?:bf)? ?\{ ?\((?P<text>[A-E])\) ?\} ?|\((?P<plain>[A-E])\) ?)")
_LEAD = re.compile(r"^(?:\\text ?\{)?[A-Za-z][A-Za-z ,']*(?:\b(?:is|are|equals)\b|:) ?(?:\} ?)?")
_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z](?: ?_ ?(?:\w|\{[^{}]*\}))?) ?= ?(?P<value>[^=]+)")
_SET_BUILDER = re.compile(r"\\\{ ?[A-Za-z] ?(?:\\in|\\mid|\\?\||:)")
_MODULUS = re.compile(r"\s*(?:\\pmod\s*\{[^{}]*\}|\(\\?mod\s[^()]*\))$")
_EQUALS = re.compile(r"(?<![<>!])=")
_APPROXIMATELY = re.compile(r"\\approx(?![A-Za-z])")
_SEVERAL = re.compile(  # "a = 1, b = 7", "x = 6 or x = 7", "a = 1 b = 7"
    r"[,;]|\\\\|=.*(?<![A-Za-z])(?:or|and|but|not)(?![A-Za-z]).*=|=[^=]*\d\}? (?:[^=]*[ }])?[A-Za-z]\w* ?="
)
_AREA = re.compile(r"(?<![A-Za-z])(?:[cmk]?m|in|ft|\\(?:text|mathrm|mbox)\s*\{[A-Za-z. ]*\})\s*\^\s*\{?[23]\}?")
_HARMLESS_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|boxed|in)(?![A-Za-z])|\\[{}]")
_ARITHMETIC = re.compile(
    r"[\\+*^!|_√∑]|sqrt|log|ln|exp|sin|cos|tan|gcd|lcm|max|min|floor|ceil|abs|binom|factorial|mod|choose|times"
)


def judge_text(gold: str, answer: str) -> tuple[bool, str] | None:
    r"""Judge an answer by its text, if the text decides it.

    Args:
        gold: The right answer.
        answer: The policy's answer.

    Returns:
        Whether the answer is right, and the reason; None if only algebra can tell.

    >>> judge_text("1769307", "1{,}769{,}307"), judge_text("1769307", r"4821 \times 367")[0]
    ((True, 'equal numbers'), False)
    >>> judge_text(r"5\sqrt{2}", r"\sqrt{50}") is None
    True
    """
    return judge_trivial(gold, answer) or _judge_tidy(tidy(gold), tidy(answer))


def judge_trivial(gold: str, answer: str) -> tuple[bool, str] | None:
    """Judge what needs no parsing: the same text is right, an empty or overlong answer is wrong."""
    if gold == answer != "":
        return True, "same text"
    if len(answer) > max(MAX_ANSWER_CHARS, 2 * len(gold)):
        return False, f"longer than {MAX_ANSWER_CHARS} characters"
    gold, answer = tidy(gold), tidy(answer)
    if same_text(gold, answer):
        return True, "same text"
    return None if answer.strip("$ ") else (False, "empty")


def _judge_tidy(gold: str, answer: str) -> tuple[bool, str] | None:
    if based := _read_based(gold):
        return _judge_based(based, answer)
    if number := parse_number(gold):
        return _judge_number(number, answer)
    if (assignment := _ASSIGNMENT.fullmatch(gold)) and (number := parse_number(assignment["value"])):
        other = _ASSIGNMENT.fullmatch(answer)
        if other and other["name"] != assignment["name"]:
            return False, "another variable"
        return _judge_number(number, answer)
    return _judge_choice(gold, answer) or _judge_brackets(_brackets(gold), _brackets(answer))


def _read_based(text: str) -> tuple[str, int] | None:
    r"""Parse digits with a base.

    >>> _read_based("2a_{16}"), _read_based(r"(0101)_{\text{two}}"), _read_based("x_1"), _read_based("9_8")
    (('2A', 16), ('101', 2), None, None)
    """
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    name = match["base"].removeprefix(r"\text").strip("{} ")
    base = _BASES.get(name, 0) if name.isalpha() else int(name[:3])
    digits = match["digits"].upper().lstrip("0") or "0"
    return (digits, base) if base <= 36 and all(int(digit, 36) < base for digit in digits) else None


def _judge_based(gold: tuple[str, int], answer: str) -> tuple[bool, str]:
    """Judge an answer where digits in a certain base are right; the base is optional."""
    based = _read_based(answer)
    if based and based[1] != gold[1]:
        return False, f"in base {based[1]} instead of {gold[1]}"
    digits = based[0] if based else answer.replace(" ", "").lstrip("0") or answer
    return (True, "equal digits") if digits == gold[0] else (False, "other digits")


def _judge_choice(gold: str, answer: str) -> tuple[bool, str] | None:
    """Judge an answer that starts with a choice letter, where a letter is right."""
    match = _CHOICE.match(answer)
    if match is None or not match.end() < len(answer) or not re.fullmatch(r"\(?[A-E]\)?", gold):
        return None
    same = (match["text"] or match["plain"]) == gold.strip("()")
    return (True, "the same choice") if same else (False, "another choice")


def _judge_brackets(gold: str, answer: str) -> tuple[bool, str] | None:
    return (False, f"{answer} instead of {gold}") if gold and answer and gold != answer else None


def _judge_number(gold: Number, answer: str) -> tuple[bool, str] | None:
    """Judge an answer where a number is right."""
    number = read_number(gold, answer)
    if not isinstance(number, Number):
        return None if number is None else (False, number)
    return (True, "equal numbers") if same_number(gold, number) else (False, "another number")


def read_number(gold: Number, answer: str) -> Number | str | None:
    """Parse the number in a tidy answer, where the number `gold` is right.

    The answer may have the form ``x = 7``, ``3 + 4 = 7`` (sides that are numbers must be equal) or a modulus. What
    follows an "approximately" sign counts only if no number precedes it. A leading choice letter is ignored.

    Returns:
        The number; the reason why the answer is not a number; or None if it may be a number in words.
    """
    if (based := _read_based(answer)) and based[1] == 10:
        answer = based[0]
    answer = tidy(_LEAD.sub("", _CHOICE.sub("", answer)))
    numbers: list[Number] = []
    if not _SEVERAL.search(NUMBER.sub("0", answer)):
        exact, *rounded = _APPROXIMATELY.split(answer)
        numbers = _numbers(_EQUALS.split(exact)) or _numbers(rounded)
    number = numbers[-1] if numbers else None
    if number and not all(same_number(number.in_unit(other.unit) or number, other) for other in numbers):
        return "two numbers"
    if number is None:
        if _may_be_a_number(answer):
            return None
        return "not a single number: arithmetic is left to do, or more stands beside it"
    if gold.unit and number.unit:
        in_unit = number.in_unit(gold.unit)
        if in_unit is None:
            return f"in {number.unit} instead of {gold.unit}"
        number = in_unit
    if gold.kind == "integer" and number.kind == "quotient" and number.value.denominator == 1:
        return "a division that is left to do"
    return number


def _numbers(sides: list[str]) -> list[Number]:
    numbers = (parse_number(_MODULUS.sub("", side).strip()) for side in sides)
    return [number for number in numbers if number is not None]


def _may_be_a_number(text: str) -> bool:
    r"""Whether a text contains exactly one number and no arithmetic, so that the rest is only words.

    >>> _may_be_a_number("7 apples"), _may_be_a_number(r"\{7\}"), _may_be_a_number("(4821)(367)")
    (True, True, False)
    >>> _may_be_a_number(r"\sqrt{49}"), _may_be_a_number("5!"), _may_be_a_number("7 or 8")
    (False, False, False)
    """
    text, numbers = NUMBER.subn("", _AREA.sub("", text))
    words = re.findall("[a-z]+", text.lower())
    is_plain = not _ARITHMETIC.search(_HARMLESS_COMMAND.sub("", text)) and NOT_UNITS.isdisjoint(words)
    return numbers == 1 and is_plain


def _brackets(text: str) -> str:
    r"""Return the kind of brackets that enclose a whole tidy text.

    >>> _brackets("(1,2)"), _brackets(r"\{1,2\}"), _brackets("(1,2),(3,4)")
    ('a tuple or an interval', 'a set', '')
    """
    if text[:1] in ("(", "[") and closing_bracket(text, 0) == len(text) - 1:
        return "a tuple or an interval"
    if text[:2] == r"\{" and not _SET_BUILDER.match(text) and closing_bracket(text, 1) == len(text) - 1:
        return "a set"
    return ""
