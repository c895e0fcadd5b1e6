"""No fuzzed answer with another value is right, and no dressing that changes a value is paid.

`pytest --hypothesis-profile thorough tests/cir_env/grading/test_grading_fuzz.py` tries 10,000 answers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cir_env.grading.grader import Grader

mpmath.mp.dps = 60
EXAMPLES = 1_000 if settings.get_current_profile_name() == "thorough" else 6

OBJECTIONS = (
    r"\text{ is wrong}",
    r"\text{ is not the answer}",
    r"\text{ or more}",
    r"\text{ at most}",
    r"\text{ million}",
    r"\text{ tenths}",
    r"\mbox{ or }17",
    r"\text{, unless } x = 0",
    r", 17",
    r" \Rightarrow 17",
    r"\text{ dozen}",
    r", \ldots",
    r" = 17",
    r" \quad 17",
)
COSMETICS = (
    "{}",
    "${}$",
    "{}.",
    r"\boxed{{{}}}",
    r"\displaystyle {}",
    "{{{}}}",
    r"\boldsymbol{{{}}}",
    r"\text{{The answer is }} {}",
    "x = {}",
    r"\color{{red}} {}",
    r"{} \quad",
)


@dataclass(frozen=True)
class Expression:
    latex: str
    value: mpmath.mpf


def _power(base: Expression, exponent: int) -> Expression:
    return Expression(rf"({base.latex})^{{{exponent}}}", base.value**exponent)


def _combined(children: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    pairs = st.tuples(children, children)
    nonzero = children.filter(lambda e: abs(e.value) > 1e-9)
    return st.one_of(
        pairs.map(lambda p: Expression(f"{p[0].latex} + {p[1].latex}", p[0].value + p[1].value)),
        pairs.map(lambda p: Expression(f"{p[0].latex} - ({p[1].latex})", p[0].value - p[1].value)),
        pairs.map(lambda p: Expression(rf"({p[0].latex}) \cdot ({p[1].latex})", p[0].value * p[1].value)),
        st.tuples(children, nonzero).map(
            lambda p: Expression(rf"\frac{{{p[0].latex}}}{{{p[1].latex}}}", p[0].value / p[1].value)
        ),
        st.tuples(children, st.integers(2, 4)).map(lambda p: _power(*p)),
        children.filter(lambda e: e.value > 0).map(lambda e: Expression(rf"\sqrt{{{e.latex}}}", mpmath.sqrt(e.value))),
    )


INTEGERS = st.integers(1, 40).map(lambda n: Expression(str(n), mpmath.mpf(n)))
IRRATIONAL = st.one_of(
    st.just(Expression(r"\pi", +mpmath.pi)),
    st.sampled_from([2, 3, 5, 7, 11]).map(lambda n: Expression(rf"\sqrt{{{n}}}", mpmath.sqrt(n))),
    st.integers(2, 9).map(lambda n: Expression(rf"\ln {n}", mpmath.log(n))),
)
EXPRESSIONS = st.recursive(st.one_of(INTEGERS, IRRATIONAL), _combined, max_leaves=6)
GOLDS = st.tuples(IRRATIONAL, EXPRESSIONS).map(
    lambda p: Expression(f"{p[0].latex} + {p[1].latex}", p[0].value + p[1].value)
)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader() as grader:
        yield grader


def nearly_equal(a: mpmath.mpf, b: mpmath.mpf) -> bool:
    return bool(abs(a - b) <= max(abs(a), abs(b)) * mpmath.mpf(10) ** -40)


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(GOLDS, st.lists(EXPRESSIONS, min_size=5, max_size=5), st.data())
def test_only_equal_values_are_right_whatever_stands_around_them(
    grader: Grader, gold: Expression, others: list[Expression], data: st.DataObject
) -> None:
    wrong = [other.latex for other in others if not nearly_equal(other.value, gold.value)]
    wrong += [f"{gold.latex} + {n}" for n in data.draw(st.lists(st.integers(1, 99), min_size=2, max_size=2))]
    wrong += [gold.latex + data.draw(st.sampled_from(OBJECTIONS)) for _ in range(3)]
    verdicts = [(answer, grader.submit(gold.latex, answer)) for answer in wrong]
    paid = [answer for answer, future in verdicts if future.result().correct]
    assert paid == [], f"paid for {gold.latex}"


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(GOLDS, st.sampled_from(COSMETICS))
def test_the_gold_answer_is_right_in_every_layout(grader: Grader, gold: Expression, layout: str) -> None:
    verdict = grader.grade(gold.latex, layout.format(gold.latex))
    assert verdict.correct, verdict.reason
