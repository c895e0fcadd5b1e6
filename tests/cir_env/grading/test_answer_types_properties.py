"""Properties of answer types: total, reflexive, independent of order, and exact at the edge of a tolerance."""

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import ANY_TEXT

from cir_env.grading.answer_types import find_answer_type
from cir_env.grading.parts import judge_parts, read_choice, read_intervals, read_set

INTEGERS = st.integers(-(10**6), 10**6)
ENDS = INTEGERS.map(str) | st.sampled_from([r"\sqrt{2}", r"\frac{1}{3}", "1{,}234"])
INTERVALS = st.builds(
    lambda left, a, b, right: f"{left}{a}, {b}{right}", st.sampled_from("(["), ENDS, ENDS, st.sampled_from(")]")
) | st.just(r"(-\infty, \infty)")


def no_algebra(gold: str, answer: str) -> dict[str, Any]:
    return {"correct": False, "reason": "another text", "valid": True}


@pytest.mark.parametrize("read", [read_choice, read_set, read_intervals])
@given(text=ANY_TEXT)
def test_reading_is_total(read: Callable[[str], object], text: str) -> None:
    read(text)


@pytest.mark.parametrize("spec", ["number?abs_tol=1", "choice", "set", "interval"])
@given(gold=ANY_TEXT, answer=ANY_TEXT)
def test_judging_by_text_is_total_for_every_type(spec: str, gold: str, answer: str) -> None:
    kind = find_answer_type(spec)
    if kind.can_read(gold):
        assert kind.judge(gold, gold) in ((True, "same text"), (False, "empty"))
        judged = kind.judge(gold, answer)
        assert judged is None or (isinstance(judged[0], bool) and judged[1])


@given(st.sets(st.sampled_from("ABCDEFGHIJ"), min_size=1), st.sampled_from(["{}", r"\text{{({})}}", "{}.", "$({})$"]))
def test_reading_a_choice_is_idempotent(letters: set[str], form: str) -> None:
    read = read_choice(", ".join(form.format(letter) for letter in letters))
    assert read == letters
    assert read_choice(", ".join(sorted(read or ()))) == read


@given(st.lists(INTEGERS, min_size=1, max_size=12), st.booleans(), st.randoms(use_true_random=False))
def test_the_order_and_the_repetition_of_elements_do_not_matter(
    elements: list[int], has_braces: bool, dice: random.Random
) -> None:
    again = elements + dice.choices(elements, k=3)
    dice.shuffle(again)
    answer = ", ".join(map(str, again))
    verdict = judge_parts("set", str(elements)[1:-1], rf"\{{{answer}\}}" if has_braces else answer, no_algebra)
    assert verdict["correct"]


@given(st.sets(INTEGERS, min_size=1), st.sets(INTEGERS, min_size=1))
def test_sets_of_integers_are_equal_only_if_they_are(a: set[int], b: set[int]) -> None:
    texts = (", ".join(map(str, elements)) for elements in (a, b))
    assert judge_parts("set", *texts, no_algebra)["correct"] == (a == b)


@given(st.lists(INTERVALS, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_a_union_of_intervals_equals_itself_in_any_order(pieces: list[str], dice: random.Random) -> None:
    union = r" \cup ".join(pieces)
    assert find_answer_type("interval").can_read(union)
    dice.shuffle(pieces)
    assert judge_parts("interval", union, " ∪ ".join(pieces), no_algebra)["correct"]


@given(st.decimals(-1000, 1000, places=3), st.decimals(0, 10, places=3), st.decimals(-20, 20, places=3))
def test_a_tolerance_is_kept_exactly(gold: Any, tolerance: Any, difference: Any) -> None:
    judged = find_answer_type(f"number?abs_tol={tolerance:f}").judge(f"{gold:f}", f"{gold + difference:f}")
    assert judged is not None
    assert judged[0] == (abs(Fraction(difference)) <= Fraction(tolerance))
