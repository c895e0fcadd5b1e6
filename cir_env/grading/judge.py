r"""Answers as text: what can be judged, or must be refused, before any algebra is done.

Most gold answers are plain numbers. Then the answer has to *be* a number too: an expression that only has the
right value, such as ``4821 \times 367`` for 1769307, is refused, since a policy that boxes the question would
otherwise be paid for it. For other gold answers, what algebra would wave through is refused: another kind of
brackets, another base. `judge_text` decides most answers so, exactly and without another process.

Every function is pure and total on strings.
"""

import re

from cir_env.grading.latex import partner, same_text, tidy
from cir_env.grading.numeric import NOT_UNITS, NUMBER, Number, parse_number, same_number

MAX_ANSWER_CHARS = 1_000
"""A longer answer is wrong unless it is the gold answer, letter by letter."""

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
    r"""Read digits and their base.

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
    """Judge an answer where digits in a certain base are right; the base may be left out."""
    based = _read_based(answer)
    if based and based[1] != gold[1]:
        return False, f"in base {based[1]} instead of {gold[1]}"
    digits = based[0] if based else answer.replace(" ", "").lstrip("0") or answer
    return (True, "equal digits") if digits == gold[0] else (False, "other digits")


def _judge_choice(gold: str, answer: str) -> tuple[bool, str] | None:
    """Judge an answer that begins with the letter of a choice, where a letter is right."""
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
    """Read the number that a tidy answer gives where `gold` is right, or say why it gives none.

    It may be written as ``x = 7``, as ``3 + 4 = 7`` (sides that are numbers must be equal) or with a modulus; what
    follows a sign "approximately" counts only where no number stands before it. What is not plainly a number, but
    could be one in words, is None. The letter of a choice is passed over.
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
    r"""Whether a text holds exactly one number and nothing to work out, so that words alone stand around it.

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
    r"""What kind of brackets encloses a whole tidy text.

    >>> _brackets("(1,2)"), _brackets(r"\{1,2\}"), _brackets("(1,2),(3,4)")
    ('a tuple or an interval', 'a set', '')
    """
    if text[:1] in ("(", "[") and partner(text, 0) == len(text) - 1:
        return "a tuple or an interval"
    if text[:2] == r"\{" and not _SET_BUILDER.match(text) and partner(text, 1) == len(text) - 1:
        return "a set"
    return ""
