"""Answer types: which answers each accepts, and which specs and gold answers are rejected before grading."""

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from fakes import FakeGrader, begun, fakes, make

from cir_env.errors import OptionError, ProblemError
from cir_env.grading.answer_types import find_answer_type
from cir_env.grading.grader import Grader, Verdict
from cir_env.problems.load import load_problems, with_answer_type
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(time_limit_s=1) as grader:
        yield grader


NUMBERS = [
    # type, gold, answer, correct
    ("number?abs_tol=0.5", "10", "10.5", True),
    ("number?abs_tol=0.5", "10", "9.5", True),
    ("number?abs_tol=0.5", "10", "10.5000000000000000001", False),
    ("number?rel_tol=0.1", "3", "3.3", True),
    ("number?rel_tol=0.1", "3", "3.30000000000000000001", False),
    ("number?rel_tol=0.1", "-3", "-2.7", True),
    ("number?rel_tol=0.1&abs_tol=1", "3", "4", True),
    ("number?rel_tol=0.1&abs_tol=1", "300", "330", True),
    ("number?rel_tol=1e-3", "1e6", r"1.001 \times 10^{6}", True),
    ("number?rel_tol=0.1", "0", "0.0001", False),
    ("number", "0.3", "0.30", True),
    ("number", r"\frac{1}{3}", "0.333333", False),
    ("number?rel_tol=0.01", r"12\text{ km}", "12.1", True),
    ("number?rel_tol=0.01", r"12\text{ km}", r"12\text{ m}", False),
    ("number?abs_tol=1", r"25\%", "0.26", True),
    ("number?abs_tol=1", r"25\%", "26", True),
    ("number?abs_tol=1", r"25\%", "0.7", False),
    ("number?rel_tol=0.01", "3.14", "x = 3.15", True),
    ("number?rel_tol=0.01", "3.14", "22/7", True),
    ("number?rel_tol=0.01", "142857", "1000000/7", False),
    ("number?rel_tol=0.01", "1769307", r"4821 \times 367", False),
    ("number?rel_tol=0.01", "7", r"\sqrt{49}", False),
    ("number?rel_tol=0.01", "7", "7, 7", False),
    ("number?rel_tol=0.01", "7", "[7]", False),
    ("number?rel_tol=0.01", "7", "nan", False),
    ("number?rel_tol=0.01", "7", r"\infty", False),
    ("number?rel_tol=0.01", "7", "inf", False),
    ("number?rel_tol=0.01", "7", "1e999999999", False),
]

CHOICES = [
    # gold, answer, correct
    *(("B", answer, True) for answer in ("B", "(B)", r"\text{(B)}", "B) 42", "option B", "b", "B.", "[B]", "$B$")),
    *(("B", answer, True) for answer in (r"\textbf{(B) } 42", "The answer is (B).", r"\mathrm{B}", "B: 42", "B, B")),
    *(("B", answer, False) for answer in ("C", "A, B", "AB", "B or C", "42", "", "A) 1 or (B) 2", "Bob", "B) 1, C) 2")),
    ("(B) 42", "B", True),
    ("A, C", "C and A", True),
    ("AC", "(A)(C)", True),
    ("A, C", "A", False),
    ("A, C", "A, B, C", False),
    ("B", "B " * 400 + "!", False),
]

SETS = [
    (r"\{1, 2, 3\}", "3, 1, 2", True),
    ("1, 2", r"\{2, 1, 1, 2\}", True),
    (r"\{\sqrt{8}, \frac12\}", r"0.5, 2\sqrt{2}", True),
    ("-2, 1", r"x=-2 \text{ or } x=1", True),
    (r"\{(1,2), (3,4)\}", r"(3,4), (1,2)", True),
    (r"\{1, 2\}", r"x \in \{1, 2\}", True),
    (r"\{1, 2\}", r"x = \{1, 2\}", True),
    (r"\{1{,}234, 5\}", "5, 1{,}234", True),
    (r"\{1{,}234, 5\}", "5, 1234", True),
    (r"\emptyset", r"\{\}", True),
    (r"\emptyset", "0", False),
    (r"\{1, 2\}", "(1, 2)", False),
    (r"\{1, 2\}", "1", False),
    (r"\{1, 2\}", "1, 2, 3", False),
    (r"\{1, 6\}", r"1, 2 \cdot 3", False),
    (r"\{1, 2\}", r"\{1, 2", False),
    (r"\{\text{red}, \text{blue}\}", "blue, red", True),
]

INTERVALS = [
    ("[1, 2)", "[1,2)", True),
    ("[1, 2)", r"\left[1; \frac{4}{2}\right)", False),  # an unevaluated division
    (r"[1, \sqrt{8})", r"[1, 2\sqrt{2})", True),
    ("[1, 2)", "(1, 2)", False),
    ("[1, 2)", "[1, 2]", False),
    ("(1, 2)", "1, 2", False),
    ("(1, 2)", "(1, 2, 3)", False),
    (r"(-\infty, 0) \cup (1, \infty)", r"(1, +\infty) ∪ (-∞, 0)", True),
    (r"(-\infty, 0) \cup (1, \infty)", r"(1, \infty)", False),
    (r"(-\infty, 0) \cup (1, \infty)", r"(-\infty, 0) \cup [1, \infty)", False),
    (r"(-\infty, \infty)", r"\mathbb{R}", True),
    (r"(0, \infty)", r"(0, 10^{99})", False),
    (r"(0, \infty)", r"x \in (0, \infty)", True),
    (r"(0, \infty)", r"(0, \infty]", False),
]


@pytest.mark.parametrize(("answer_type", "gold", "answer", "correct"), NUMBERS)
def test_a_number_may_differ_by_its_tolerance_and_no_more(
    grader: Grader, answer_type: str, gold: str, answer: str, correct: bool
) -> None:
    verdict = grader.grade(gold, answer, answer_type)
    assert (verdict.correct, verdict.valid) == (correct, True), verdict


@pytest.mark.parametrize(("gold", "answer", "correct"), CHOICES)
def test_a_choice_is_its_letter_in_any_notation(grader: Grader, gold: str, answer: str, correct: bool) -> None:
    verdict = grader.grade(gold, answer, "choice")
    assert (verdict.correct, verdict.valid) == (correct, True), verdict


@pytest.mark.parametrize(("gold", "answer", "correct"), SETS)
def test_a_set_has_no_order_and_no_duplicates(grader: Grader, gold: str, answer: str, correct: bool) -> None:
    verdict = grader.grade(gold, answer, "set")
    assert (verdict.correct, verdict.valid) == (correct, True), verdict


@pytest.mark.parametrize(("gold", "answer", "correct"), INTERVALS)
def test_an_interval_is_its_brackets_and_its_ends(grader: Grader, gold: str, answer: str, correct: bool) -> None:
    verdict = grader.grade(gold, answer, "interval")
    assert (verdict.correct, verdict.valid) == (correct, True), verdict


@pytest.mark.parametrize("answer_type", ["number", "choice", "set", "interval"])
def test_no_answer_and_an_empty_one_are_wrong_for_every_type(grader: Grader, answer_type: str) -> None:
    gold = {"number": "7", "choice": "B", "set": "1, 2", "interval": "[1, 2]"}[answer_type]
    assert grader.grade(gold, None, answer_type) == Verdict(correct=False, reason="no answer")
    assert grader.grade(gold, " ", answer_type) == Verdict(correct=False, reason="empty")
    assert grader.grade(gold, "7" * 5_000, answer_type).reason == "longer than 1000 characters"


@pytest.mark.slow
def test_a_gold_of_ten_thousand_elements_is_graded_within_the_limits() -> None:
    gold = r"\{" + ", ".join(rf"\sqrt{{{k}}}" for k in range(2, 10_002)) + r"\}"
    backwards = ", ".join(rf"\sqrt{{{k}}}" for k in range(10_001, 1, -1))
    other = backwards.replace(r"\sqrt{77}", "77")
    with Grader(time_limit_s=4) as grader:
        large = [grader.submit(gold, answer, "set") for answer in (backwards, other)]
        good = [grader.submit(rf"{k}\sqrt{{7}}", rf"\sqrt{{{7 * k * k}}}") for k in range(2, 12)]
        assert all(future.result().correct for future in good)
        assert large[0].result() == Verdict(correct=True, reason="equal sets")
        assert not large[1].result().correct
        assert large[1].result().valid


@pytest.mark.slow
def test_an_element_that_never_ends_makes_a_set_wrong(grader: Grader) -> None:
    verdict = grader.grade(r"\{\sqrt{7}, 1\}", r"\gcd(9^{10^{8}}, 3) + 1, 1", "set")
    assert verdict == Verdict(correct=False, reason="takes more than 1 s to compare")


def test_an_unreadable_part_of_the_gold_answer_makes_the_verdict_invalid(grader: Grader) -> None:
    verdict = grader.grade("[1, {(})", r"[1, \sqrt{2})", "interval")
    assert (verdict.correct, verdict.valid) == (False, False)


# --- rejected specs and gold answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("numbr", "got 'numbr'. Did you mean 'number'?"),
        ("", "got ''."),
        (
            "number?rel_tl=0.1",
            "Expect the options of 'number' to be 'rel_tol' and 'abs_tol', got 'rel_tl'. Did you mean 'rel_tol'?",
        ),
        ("set?abs_tol=1", "Expect the options of 'set' to be none, got 'abs_tol'."),
        ("number?rel_tol=-0.1", "Expect `rel_tol` to be a number of at least 0, got '-0.1'."),
        ("number?rel_tol=nan", "Expect `rel_tol` to be a number of at least 0, got 'nan'."),
        ("number?abs_tol=inf", "Expect `abs_tol` to be a number of at least 0, got 'inf'."),
        ("number?abs_tol", "Expect `abs_tol` to be a number of at least 0, got ''."),
        ("number?abs_tol=1&abs_tol=2", "Expect each option only once, got 'number?abs_tol=1&abs_tol=2'."),
        (None, "Expect an answer type to be a string, got NoneType."),
        (["set"], "Expect an answer type to be a string, got list."),
    ],
)
def test_a_bad_spec_is_reported(spec: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        find_answer_type(spec)
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(
    ("answer_type", "gold"),
    [
        ("number?abs_tol=1", r"\sqrt{2}"),
        ("number", "nan"),
        ("choice", "42"),
        ("choice", "DNE"),
        ("set", "1,,2"),
        ("set", r"\{1, 2"),
        ("interval", "1, 2"),
        ("interval", "(1, 2, 3)"),
        ("interval", r"[-\infty, 2]"),
        ("interval", ""),
    ],
)
def test_a_gold_answer_that_does_not_fit_its_type_is_rejected(grader: Grader, answer_type: str, gold: str) -> None:
    with pytest.raises(ProblemError) as caught:
        Problem(id="p", statement="?", answer=gold, answer_type=answer_type)
    assert str(caught.value) == f"Problem 'p': Expect a right answer of type {answer_type!r}, got {gold!r}."
    assert not grader.grade(gold, "7", answer_type).valid


def test_a_long_gold_answer_is_quoted_shortened() -> None:
    with pytest.raises(ProblemError) as caught:
        Problem(id="p", statement="?", answer="x" * 10_000, answer_type="choice")
    assert len(str(caught.value)) < 200


# --- from a row to the grader ----------------------------------------------------------------------------------


ROWS = [
    {"problem": "1?", "answer": "1"},
    {"problem": "2?", "answer": "2.5", "answer_type": "number?rel_tol=0.01"},
    {"problem": "3?", "answer": "C", "answer_type": "choice"},
]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_row_may_set_its_answer_type(tmp_path: Path) -> None:
    problems = load_problems(write(tmp_path / "a.jsonl", ROWS))
    assert [problem.answer_type for problem in problems] == ["math", "number?rel_tol=0.01", "choice"]
    assert pickle.loads(pickle.dumps(problems)) == problems
    assert copy.deepcopy(problems) is problems


def test_the_field_of_the_answer_type_may_have_another_name(tmp_path: Path) -> None:
    rows = [{"problem": "3?", "answer": "C", "kind": "choice", "answer_type": "Categorical"}]
    (problem,) = load_problems(f"{write(tmp_path / 'a.jsonl', rows)}?answer_type=kind")
    assert problem.answer_type == "choice"


def test_a_parquet_file_may_set_the_answer_type(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(list(reversed(ROWS))), tmp_path / "a.parquet")
    problems = load_problems(tmp_path / "a.parquet")
    assert [problem.answer_type for problem in problems] == ["choice", "number?rel_tol=0.01", "math"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"problem": "?", "answer": "42", "answer_type": "choice"},
            "Expect a right answer of type 'choice', got '42'. The type comes from field 'answer_type'. Correct it, or "
            "drop such rows: set `unreadable` to 'exclude'.",
        ),
        (
            {"problem": "?", "answer": "42", "answer_type": "sett"},
            "got 'sett'. Did you mean 'set'? The type comes from field 'answer_type'.",
        ),
        ({"problem": "?", "answer": "42", "answer_type": ["set"]}, "to be text or a number, got list."),
        (
            {"problem": "?", "answer": "42", "answer_type": "os.path:samefile"},
            "Expect the name of a type or a verifier in field 'answer_type', got 'os.path:samefile'. Pass "
            "'module:function' as `answer_type` to the environment.",
        ),
    ],
)
def test_a_bad_row_is_reported_by_line_or_skipped(tmp_path: Path, row: dict[str, str], reason: str) -> None:
    path = write(tmp_path / "a.jsonl", [ROWS[0], row])
    with pytest.raises(ProblemError) as caught:
        load_problems(path, "train")
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert str(caught.value).endswith(reason)
    assert ProblemSet.from_jsonl(path, on_bad_row="skip").skipped == 1


def test_the_environment_passes_the_answer_type_to_the_grader() -> None:
    problems = ProblemSet([Problem(id="p", statement="?", answer="6", answer_type="number?abs_tol=1")])
    grader = FakeGrader()
    begun(problems=problems, grader=grader).step("\\boxed{6}")
    begun(grader=grader).step("\\boxed{6}")
    begun(problems=problems, answer_type="set", grader=grader).step("\\boxed{6}")
    assert grader.answer_types == ["number?abs_tol=1", "math", "set"]


def test_the_answer_type_of_the_environment_decides_the_reward(grader: Grader) -> None:
    arguments = fakes() | {"grader": grader, "answer_type": "number?rel_tol=0.2"}
    env = gymnasium.make("CodeMath-v0", **arguments)
    env.reset(options={"problem_index": 0})
    assert env.step("\\boxed{6.5}")[1] == 1.0
    env.reset(options={"problem_index": 0})
    assert env.step("\\boxed{7.5}")[1] == -1.0


@pytest.mark.parametrize(
    ("answer_type", "error", "message"),
    [
        ("sett", OptionError, "Did you mean 'set'?"),
        (7, OptionError, "Expect an answer type to be a string, got int."),
        ("choice", ProblemError, "Problem 'product-2': Expect a right answer of type 'choice'"),
    ],
)
def test_an_answer_type_that_does_not_fit_is_rejected_at_construction(
    answer_type: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        make(answer_type=answer_type)
    assert message in str(caught.value)


@pytest.mark.slow
def test_environments_share_retyped_problems_and_pickle_them_as_a_recipe() -> None:
    first, second = (make(problems="products", answer_type="set").problems for _ in range(2))
    assert first is second
    data = pickle.dumps(first)
    assert len(data) < 1_000
    assert pickle.loads(data) == first != with_answer_type(first, "math")


@pytest.mark.slow
def test_the_answer_type_survives_the_spec_as_json() -> None:
    spec = gymnasium.make("CodeMath-v0", answer_type="number?rel_tol=0.01").spec
    assert spec is not None
    again = gymnasium.envs.registration.EnvSpec.from_json(spec.to_json()).make()
    assert {problem.answer_type for problem in again.get_wrapper_attr("problems")} == {"number?rel_tol=0.01"}
