"""An answer is found in an output by its value or its text, and never raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.core.blocks import count_used, occurs_in


@pytest.mark.parametrize(
    ("answer", "output", "found"),
    [
        ("42", "```output\n42\n```\n", True),
        ("42", "x=42, y=7", True),
        ("x = 42", "[41, 42]", True),
        ("42", "142 4.2 0.42 42a 1/42", False),
        ("-3", "root: -3.0", True),
        ("3", "-3", False),
        ("0.5", "1/2", False),
        (r"\dfrac{3}{4}", "Fraction 3/4", True),
        ("$1,234,567$", "1234567", True),
        (r"\left(1, 2\right)", "answer (1, 2)", True),
        (r"2\sqrt{3}", "2*sqrt(3)", False),
        ("odd", "the number is odd", True),
        ("", "anything", False),
        ("12", "1\n2", False),
    ],
)
def test_an_answer_is_found_as_a_number_or_as_a_text_of_its_own(answer: str, output: str, found: bool) -> None:
    assert occurs_in(answer, output) is found


@given(st.integers(), st.integers())
def test_an_integer_is_found_exactly_where_it_was_printed(answer: int, printed: int) -> None:
    assert occurs_in(str(answer), f"The result is {printed}.") is (answer == printed)


@given(st.text() | st.none(), st.text())
def test_no_answer_and_no_output_raises(answer: str | None, output: str) -> None:
    assert count_used([output], answer) in (0, 1)


@pytest.mark.parametrize("text", ["9" * 5000, "1/0", "1.5/2", "007", "\u0663"])
def test_odd_numbers_are_found_in_themselves(text: str) -> None:
    assert occurs_in(text, f"printed {text}")
