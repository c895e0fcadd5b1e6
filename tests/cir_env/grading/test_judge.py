"""Which answers are right, case by case with the reason."""

from collections.abc import Iterator

import pytest

from cir_env.grading.grader import Grader, Verdict
from cir_env.grading.judge import MAX_ANSWER_CHARS, judge_text
from cir_env.grading.latex import tidy


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


NUMBERS = [
    # gold, answer, correct, why
    ("1234", "1,234", True, "a thousands separator"),
    ("1234", "1{,}234", True, "a thousands separator in braces"),
    ("11,\\! 111", "11111", True, "a thousands separator with a negative space"),
    ("1769307", r"1\,769\,307", True, "thin spaces between thousands"),
    ("1234", "1.234", False, "a point is not a thousands separator"),
    ("1,000", "1", False, "the separator does not end the number"),
    ("7", "7.0", True, "the same value"),
    ("7", "+7.", True, "a sign and a full stop"),
    ("7", " $7$ ", True, "dollar signs"),
    ("7", r"\boxed {7}", True, "a box within the box, with a space"),
    ("-3", "\N{MINUS SIGN}3", True, "a typographical minus"),
    ("0.5", ".5", True, "a missing zero"),
    ("1000000", "1e6", True, "as Python prints it"),
    ("1200", r"1.2 \times 10^{3}", True, "scientific notation"),
    ("110", "110.00000000000001", True, "the noise of floating point"),
    ("7", "6.9999999", False, "an integer is not rounded to"),
    ("25", "0.25", False, "not the percentage as a fraction"),
    ("25", "2500", False, "not a hundred times as much"),
    ("25", r"25\%", True, "only the percent sign is added"),
    (r"25\%", "25", True, "only the percent sign is missing"),
    (r"12.5\%", "12.5", True, "only the percent sign is missing, of a decimal"),
    ("0.25", r"25\%", True, "the same value"),
    ("0.25", r"0.25\%", False, "another value"),
    (r"\frac{1}{3}", "0.333333", True, "rounded to six places"),
    (r"\frac{1}{3}", "0.33", False, "rounded too much"),
    ("0.0000001", "0.0000002", False, "twice as much, though both round to 0"),
    (r"\frac{3}{2}", r"1\frac{1}{2}", True, "a mixed number"),
    (r"\frac{3}{2}", "1 1/2", True, "a mixed number with a slash"),
    (r"\frac34", "3/4", True, "a fraction without braces"),
    (r"-\frac{3}{4}", r"\frac{-3}{4}", True, "the sign's place"),
    (r"\frac{3}{7}", "6/14", True, "not reduced, but the same value"),
    ("90^\\circ", "90", True, "only the degree sign is missing"),
    ("90", "90 degrees", True, "only the unit is added"),
    (r"12\text{ km}", "12", True, "only the unit is missing"),
    (r"12\text{ km}", r"12\text{ kilometers}", True, "the same unit"),
    (r"12\text{ km}", r"12\text{ m}", False, "another unit"),
    ("12", r"12\text{ cm}^2", True, "a unit of area"),
    ("5", r"\$5.00", True, "a currency sign"),
    ("7", r"7\text{ million}", False, "a million times as much"),
    ("7", "7 apples", True, "a word after the number"),
    ("7", r"\text{7 apples}", True, "number and word as text"),
    ("7", r"\text{(B) } 7", True, "the letter of a choice before the number"),
    ("7", "x = 7", True, "an assignment"),
    ("7", "3 + 4 = 7", True, "the last side is the number"),
    ("7", "7 = 3 + 4", True, "one side is the number"),
    ("8", "7 = 3 + 4", False, "no side is the number"),
    ("7", "x >= 7", False, "a bound is not a value"),
    ("7", "a = 1, b = 7", False, "two values"),
    ("1234", "n = 1,234", True, "a thousands separator is not a list"),
    ("7", r"7 \pmod{10}", True, "a modulus after the number"),
    ("7", "7x", False, "a variable after the number"),
    ("7", "7 or 8", False, "two numbers"),
    ("7", "7, 7", False, "two numbers"),
    ("15", "7 8", False, "two numbers are not their sum (math-verify says so)"),
    ("2211", r"841^{9} \bmod 2211", False, "not just the last number (math-verify says so)"),
    ("111_8", "111", True, "the base may be omitted"),
    ("111_8", "111_{8}", True, "the base in braces"),
    ("111_8", "111_7", False, "another base (math-verify accepts it)"),
    ("111_8", "73", False, "the value in base 10"),
    ("7", "7_{10}", True, "base 10"),
    ("111", "111_8", False, "a base that was not asked for"),
]

UNEVALUATED = [
    ("1769307", r"4821 \times 367"),
    ("1769307", "4821*367"),
    ("1769307", r"4821 \cdot 367"),
    ("1769307", "(4821)(367)"),
    ("1769307", r"x = 4821 \times 367"),
    ("1769307", r"0 = 4821 \times 367"),
    ("7", "3+4"),
    ("7", r"\frac{14}{2}"),
    ("7", r"\sqrt{49}"),
    ("7", r"\lfloor 7.5 \rfloor"),
    ("1024", "2^{10}"),
    ("120", "5!"),
    ("120", r"\binom{10}{3}"),
    ("55", r"\sum_{k=1}^{10} k"),
    ("2", r"\gcd(4, 6)"),
    ("2011", r"841^{1494} \mod 2211"),
    (r"\frac{5}{6}", r"\frac{1}{2} + \frac{1}{3}"),
]

ALGEBRA = [
    (r"5\sqrt{2}", r"\sqrt{50}", True, "the same number"),
    (r"5\sqrt{2}", "7.0710678", True, "rounded to six places or more"),
    (r"5\sqrt{2}", "7.07", False, "rounded too much"),
    ("1/2004!", "1/2006!", False, "both close to zero (math-verify accepts it)"),
    (r"\frac{1}{2004!}", r"\frac{1}{2004!+0}", True, "the same tiny number"),
    ("2^{99}-1", "633825300114114700748351602687", True, "a huge power, evaluated"),
    ("2^{2023}", "2^2023", True, "a power without braces"),
    (r"2\cdot 3^{5}", "486", True, "evaluated further than the gold answer"),
    ("7", r"\{7\}", True, "braces around one number"),
    ("7", r"\text{The answer is } 7", True, "words before the number"),
    ("7", "7i", False, "an imaginary number"),
    ("[7,47]", "(7,47)", False, "an open interval for a closed one"),
    ("(7,47)", "[7,47]", False, "a closed interval for an open one, or for a pair"),
    ("[0,1)", "(0,1]", False, "the other end is open"),
    ("(7,47)", "7,47", True, "only the brackets are missing"),
    ("(7,47)", "47,7", False, "the order of a pair counts"),
    ("(1,2,3)", "(3,2,1)", False, "the order of a triple counts"),
    (r"\{7,47\}", r"\{47,7\}", True, "the order of a set does not count"),
    ("7,47", r"47 \text{ and } 7", True, "the order of a list does not count"),
    ("(7,47)", r"\{7,47\}", False, "a set for a pair (math-verify accepts it)"),
    (r"\{1,2\}", "(1,2)", False, "a pair for a set (math-verify accepts it)"),
    (r"\{(1,2),(3,4)\}", "(1,2),(3,4)", True, "a list of pairs for a set of them"),
    (r"(-\infty,2]", r"x \le 2", True, "an inequality for an interval"),
    (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", True, "both values"),
    ("-2, 1", r"x=-2 \text{ or } x=1", True, "as assignments"),
    ("x=5", "y=5", False, "another variable"),
    ("y=2x+3", "2x - y + 3 = 0", True, "the same line"),
    ("(x+1)^2", "x^2+2x+1", True, "expanded"),
    ("p - q", "q - p", False, "the other sign"),
    (r"\text{east}", "East", True, "capital letters"),
    (r"\text{even}", r"\text{odd}", False, "another word"),
    (r"\text{(A)}", "A", True, "the letter of a choice"),
    (r"\frac{3\pi}{4}", r"135^\circ", False, "degrees for radians"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}", True, "other brackets of a matrix"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}", False, "another vector"),
    (r"5\sqrt{2}", "7)}(", False, "not mathematics"),
]


@pytest.mark.parametrize(("gold", "answer", "correct", "why"), NUMBERS)
def test_a_number_is_judged_by_its_value_and_form(
    grader: Grader, gold: str, answer: str, correct: bool, why: str
) -> None:
    verdict = grader.grade(gold, answer)
    assert (verdict.correct, verdict.valid) == (correct, True), (why, verdict)


@pytest.mark.parametrize(("gold", "answer"), UNEVALUATED)
def test_unevaluated_arithmetic_is_not_an_answer(gold: str, answer: str) -> None:
    judged = judge_text(gold, answer)
    assert judged is not None
    assert not judged[0]
    assert "left to do" in judged[1] or "another number" in judged[1]


@pytest.mark.parametrize(("gold", "answer", "correct", "why"), ALGEBRA)
def test_other_answers_are_judged_by_algebra(grader: Grader, gold: str, answer: str, correct: bool, why: str) -> None:
    verdict = grader.grade(gold, answer)
    assert (verdict.correct, verdict.valid) == (correct, True), (why, verdict)


def test_the_same_text_is_always_right(grader: Grader) -> None:
    gold = r"\text{no } " + "(" * 2 * MAX_ANSWER_CHARS
    assert grader.grade(gold, gold) == Verdict(correct=True, reason="same text")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "no answer"),
        ("", "empty"),
        (r" \text{ } $", "empty"),
        ("7 " * MAX_ANSWER_CHARS, "longer than 1000 characters"),
        ("8", "another number"),
        (r"\sqrt{49}", "arithmetic is left to do"),
    ],
)
def test_a_wrong_answer_is_a_valid_verdict_with_a_reason(grader: Grader, answer: str | None, reason: str) -> None:
    assert grader.grade("7", answer) == Verdict(correct=False, reason=reason, valid=True)


@pytest.mark.parametrize(
    ("gold", "reason"),
    [(" ", "the gold answer is blank"), ("(((", "the gold answer cannot be read as mathematics")],
)
def test_a_broken_gold_answer_makes_the_verdict_invalid(grader: Grader, gold: str, reason: str) -> None:
    assert grader.grade(gold, r"\sqrt{2}") == Verdict(correct=False, reason=reason, valid=False)


def test_tidying_keeps_the_rows_of_a_matrix_apart() -> None:
    assert tidy(r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}") == r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"
