"""Properties of grading: total, reflexive, symmetric, and independent of cosmetics; unevaluated answers are wrong."""

from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import ANY_TEXT, LATEX

from cir_env.grading.grader import Grader
from cir_env.grading.judge import judge_text
from cir_env.grading.latex import for_algebra, layout, tidy
from cir_env.grading.numeric import parse_number

INTEGERS = st.integers(-(10**30), 10**30)
WRAPPERS = st.sampled_from(
    ["{}", " {} ", "${}$", r"\boxed{{{}}}", r"\boxed {{{}}}", "{}.", r"\text{{{}}}", r"$\boxed{{{}}}$", r"\({}\)"]
)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(time_limit_s=0.5) as grader:
        yield grader


@given(ANY_TEXT, ANY_TEXT)
def test_judging_by_text_is_total(gold: str, answer: str) -> None:
    judged = judge_text(gold, answer)
    assert judged is None or (isinstance(judged[0], bool) and judged[1])


@given(ANY_TEXT)
def test_every_answer_equals_itself_unless_it_is_empty(text: str) -> None:
    judged = judge_text(text, text)
    assert judged is not None
    assert judged[0] == (text != "")


@given(INTEGERS, WRAPPERS)
def test_an_integer_equals_itself_in_any_notation(n: int, wrapper: str) -> None:
    assert judge_text(str(n), wrapper.format(n)) == judge_text(wrapper.format(n), str(n))
    assert (judge_text(str(n), wrapper.format(n)) or (False,))[0]


@given(st.integers(-(10**12), 10**12), st.sampled_from([",", "{,}", r"\,", ",\\!"]))
def test_thousands_separators_do_not_change_a_number(n: int, separator: str) -> None:
    assert (judge_text(str(n), f"{n:,}".replace(",", separator)) or (False,))[0]


@given(INTEGERS, INTEGERS)
def test_integers_are_equal_only_if_they_are(a: int, b: int) -> None:
    assert (judge_text(str(a), str(b)) or (None,))[0] == (a == b)


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_grading_fractions_is_symmetric(a: Fraction, b: Fraction) -> None:
    assert (judge_text(str(a), str(b)) or (None,))[0] == (judge_text(str(b), str(a)) or (None,))[0] == (a == b)


@given(st.fractions(max_denominator=10**6))
def test_a_fraction_means_the_same_in_latex_and_with_a_slash(value: Fraction) -> None:
    sign = "-" if value < 0 else ""
    number = parse_number(rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}")
    assert number is not None
    assert number.value == value


@given(st.decimals(-(10**6), 10**6, places=4))
def test_a_decimal_is_read_exactly(value: object) -> None:
    number = parse_number(f"{value:f}")
    assert number is not None
    assert number.value == Fraction(str(value))


@given(
    st.integers(2, 10**6),
    st.integers(2, 10**6),
    st.sampled_from([r"{} \times {}", "{}*{}", "{} * {}", r"{} \cdot {}", "({})({})", r"x = {} \times {}", "{}×{}"]),
)
def test_an_unevaluated_product_is_never_right(a: int, b: int, form: str) -> None:
    judged = judge_text(str(a * b), form.format(a, b))
    assert judged is not None
    assert not judged[0]


@given(ANY_TEXT)
def test_tidying_leaves_no_whitespace_at_the_ends(text: str) -> None:
    assert tidy(text) == tidy(text).strip()
    assert "\n" not in for_algebra(layout(text))


@settings(max_examples=15, deadline=None)
@given(LATEX)
def test_no_text_breaks_the_grader_or_makes_a_verdict_invalid(grader: Grader, answer: str) -> None:
    verdict = grader.grade(r"5\sqrt{2}", answer)
    assert verdict.valid
    assert verdict.reason


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 50), st.integers(2, 50), st.sampled_from([2, 3, 5, 7]))
@pytest.mark.slow
def test_algebra_is_symmetric_for_square_roots(grader: Grader, a: int, b: int, root: int) -> None:
    left, right = rf"{a}\sqrt{{{root}}}", rf"\sqrt{{{root * b * b}}}"
    assert grader.grade(left, right).correct == grader.grade(right, left).correct == (a == b)
