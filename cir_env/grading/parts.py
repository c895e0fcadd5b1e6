r"""Answers with parts: the letters of a choice, the elements of a set, the pieces of a union of intervals.

Parsing is by text and total on strings. Elements and interval ends are compared like answers of type "math" (`judge`,
then algebra), so sets and intervals are compared in the grading process.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, TypeVar

from cir_env.grading.judge import UnreadableGold, judge_text
from cir_env.grading.latex import closing_bracket, tidy
from cir_env.grading.structure import Interval, read_interval, split

Part = TypeVar("Part", bound=Hashable)
Same = Callable[[str, str], bool]
"""Whether an element of the gold answer and one of the policy's answer are equal."""

# --- choices ---------------------------------------------------------------------------------------------------

_TEXT: Final = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|bf|rm)\s*\{([^{}]*)\}")
_LEAD: Final = re.compile(r"(?:(?:the |correct |final )*(?:answers?|options?|choices?)(?: is| are)?(?: ?: ?| ))+", re.I)
_LETTER: Final = r"(?:\( ?[A-Ja-j] ?\)|\[ ?[A-Ja-j] ?\]|(?<![A-Za-z])[A-Ja-j](?![A-Za-z]))[).:]?"
_AND: Final = r" ?(?:, ?)?(?:[,;/&]|\band\b|\bor\b)? ?"
_LETTERS: Final = re.compile(rf"{_LETTER}(?>{_AND}{_LETTER})*")  # atomic, to avoid exponential backtracking
_RUN: Final = re.compile("[A-J]{2,}")
_LETTER_AND_TEXT: Final = re.compile(
    r"(?:[(\[] ?(?P<inside>[A-Ja-j]) ?[)\]]|(?P<before>[A-Ja-j])[).:])[).:]? ?(?P<text>.+)"
)
_ANOTHER: Final = re.compile(
    r"(?<![A-Za-z0-9\\])\( ?([A-Ja-j]) ?\)|(?<![A-Za-z0-9(\\])([A-J])\)|(?:[,;/&]|\band\b|\bor\b) ?([A-J])(?![A-Za-z])"
)


def read_choice(text: str) -> frozenset[str] | None:
    r"""Parse one or several choice letters, A to J; a letter may be followed by the text of its choice.

    >>> [sorted(read_choice(text)) for text in ("B", r"\text{(B)}", "B) 42", "option b", "A and C", "(A) 3 or (B) 4")]
    [['B'], ['B'], ['B'], ['B'], ['A', 'C'], ['A', 'B']]
    >>> [read_choice(text) for text in ("42", "Bob", "K", "")]
    [None, None, None, None]
    """
    previous, text = None, tidy(text).replace("$", "")
    while text != previous:
        previous, text = text, _TEXT.sub(r"\1", text)
    text = tidy(_LEAD.sub("", text.strip("{} *"), count=1) if _LEAD.match(text) else text.strip("{} *"))
    if _LETTERS.fullmatch(text):
        return frozenset(re.findall("(?<![A-Z])[A-J](?![A-Z])", re.sub(r"\b(?:and|or)\b", ",", text).upper()))
    if _RUN.fullmatch(text):
        return frozenset(text)
    match = _LETTER_AND_TEXT.fullmatch(text)
    if match is None:
        return None
    others = "".join(letter for found in _ANOTHER.findall(match["text"]) for letter in found)
    return frozenset(((match["inside"] or match["before"]) + others).upper())


# --- sets and intervals ----------------------------------------------------------------------------------------

_THOUSANDS: Final = re.compile(r"(?<=\d)\s*(?:\{\s*,\s*\}|,\s*\\!)\s*(?=\d{3}(?!\d))")
_MEMBER: Final = re.compile(r"[A-Za-z] ?(?:\\in(?![a-zA-Z])|=(?= ?\\?\{)) ?")
_WORDS: Final = re.compile(r",? ?(?:\\text ?\{ ?,? ?(?:and|or) ?\}|(?<=[ })\d])(?:and|or)(?=[ \\{(\d])) ?")
_COMMA: Final = re.compile("[,;]")
_CUP: Final = re.compile(r" ?(?:\\cup(?![a-zA-Z])|(?<=[\])]) ?U ?(?=[(\[])) ?")
_REALS: Final = re.compile(r"\\mathbb ?\{ ?R ?\}")


def read_set(text: str) -> tuple[str, ...] | None:
    r"""Parse the elements of a set, with or without braces, as written; None if one is blank.

    A comma between digits separates elements; a thousands separator must be in braces, ``1{,}234``.

    >>> read_set(r"\{1, (2,3), \sqrt{5}\}"), read_set(r"2 \text{ or } 3"), read_set("1{,}234")
    (('1', '(2,3)', '\\sqrt{5}'), ('2', '3'), ('1234',))
    >>> read_set(r"\emptyset"), read_set("1,,2"), read_set("(1,2")
    ((), None, None)
    """
    text = _MEMBER.sub("", tidy(_THOUSANDS.sub("", text)).replace("$", ""), count=1)
    if text == r"\emptyset":
        return ()
    start = text.find("{", 0, 2)
    if text.startswith(("{", r"\{")) and closing_bracket(text, start) == len(text) - 1:
        text = text[start + 1 : -1].removesuffix("\\")
    elements = split(_WORDS.sub(",", text), _COMMA, most=None)
    return tuple(elements) if elements and all(elements) else None


def read_intervals(text: str) -> tuple[Interval, ...] | None:
    r"""Parse a union of intervals; None if it is not one, such as a triple or a closed bracket at infinity.

    >>> [(part.brackets, part.left, part.right) for part in read_intervals(r"(-\infty, 0] \cup (\frac12, 3)")]
    [('(]', '-∞', '0'), ('()', '\\frac{1}{2}', '3')]
    >>> read_intervals("(1,2,3)"), read_intervals("1,2"), read_intervals(r"[1,\infty]")
    (None, None, None)
    """
    text = _MEMBER.sub("", tidy(_THOUSANDS.sub("", text)).replace("$", ""), count=1)
    pieces = [read_interval(piece.strip()) for piece in _CUP.split(_REALS.sub(r"(-\\infty,\\infty)", text))]
    return tuple(piece for piece in pieces if piece) if all(pieces) else None


# --- comparing, in the grading process -------------------------------------------------------------------------


def judge_parts(kind: str, gold: str, answer: str, algebra: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    """Compare two sets or two unions of intervals: each part must have an equal one on the other side, in any order.

    Args:
        kind: "set" or "interval".
        gold: The right answer, which can be parsed.
        answer: The policy's answer, which can be parsed.
        algebra: Compares two elements if their text does not decide; `judge` of the grading process.

    Returns:
        `correct`, `reason` and `valid`, like `algebra`.
    """

    def same(gold_part: str, part: str) -> bool:
        judged = judge_text(gold_part, part)
        if judged is not None:
            return judged[0]
        verdict = algebra(gold_part, part)
        if not verdict["valid"]:
            raise UnreadableGold(verdict["reason"])
        return bool(verdict["correct"])

    try:
        if kind == "set":
            equal = _same_parts(read_set(gold) or (), read_set(answer) or (), same)
        else:
            equal = _same_parts(
                read_intervals(gold) or (), read_intervals(answer) or (), lambda a, b: _same_interval(a, b, same)
            )
    except UnreadableGold as error:
        return {"correct": False, "reason": str(error), "valid": False}
    return {"correct": equal, "reason": f"equal {kind}s" if equal else f"another {kind}", "valid": True}


def _same_parts(golds: Sequence[Part], answers: Sequence[Part], same: Callable[[Part, Part], bool]) -> bool:
    """Whether each part has an equal one on the other side; parts with the same text need no comparison."""
    gold_texts, answer_texts = set(golds), set(answers)
    return all(
        answer in gold_texts or any(same(gold, answer) for gold in gold_texts) for answer in answer_texts
    ) and all(gold in answer_texts or any(same(gold, answer) for answer in answer_texts) for gold in gold_texts)


def _same_interval(gold: Interval, answer: Interval, same: Same) -> bool:
    ends = ((gold.left, answer.left), (gold.right, answer.right))
    return gold.brackets == answer.brackets and all(a == b if "∞" in (a[-1], b[-1]) else same(a, b) for a, b in ends)
