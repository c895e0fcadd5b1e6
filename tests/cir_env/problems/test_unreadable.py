"""Gold answers that cannot be read as their answer type: reported by file and line, or excluded with a warning."""

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import cir_env  # noqa: F401  registers the environment
from cir_env.errors import OptionError, ProblemError
from cir_env.problems import rows
from cir_env.problems.load import load_problems, load_sets
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet

GOOD = {"problem": "What is 1 + 1?", "answer": "2"}
BAD = {"problem": "What is abc?", "answer": "abc", "answer_type": "number"}
HINT = " Correct it, or drop such rows: set `unreadable` to 'exclude'."


def write(path: Path, *written: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    return path


def message(action: Callable[[], object]) -> str:
    with pytest.raises(ProblemError) as error:
        action()
    return str(error.value)


def test_the_type_of_a_row_is_checked_by_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, BAD)
    assert message(lambda: load_problems(path)) == (
        f"{path}, line 2: Expect a right answer of type 'number', got 'abc'. The type comes from field 'answer_type'."
        + HINT
    )


@pytest.mark.parametrize("spec", ["{}", "{}*1+products"])
def test_the_type_of_the_environment_is_checked_by_file_and_line(tmp_path: Path, spec: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, {"problem": "?", "answer": r"\sqrt 2", "answer_type": "sett"})
    assert message(lambda: gymnasium.make("CodeMath-v0", problems=spec.format(path), answer_type="number")) == (
        f"{path}, line 2: Expect a right answer of type 'number', got '\\\\sqrt 2'." + HINT
    )


def test_whatever_the_grading_cannot_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_gold(spec: str, gold: str) -> None:
        if gold == "???":
            raise OptionError("Expect mathematics, got '???'.")

    monkeypatch.setattr(rows, "check_gold", check_gold)
    path = write(tmp_path / "a.jsonl", GOOD, {"problem": "?", "answer": "???"})
    assert message(lambda: load_problems(path)) == f"{path}, line 2: Expect mathematics, got '???'." + HINT
    assert len(ProblemSet.from_jsonl(path, unreadable="exclude")) == 1


def test_excluded_rows_are_counted_and_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", BAD, GOOD, {**BAD, "problem": "What is it?"})
    for _ in range(2):
        env = gymnasium.make("CodeMath-v0", problems=str(path), unreadable="exclude")
    assert [problem.statement for problem in env.get_wrapper_attr("problems")] == ["What is 1 + 1?"]
    assert env.get_wrapper_attr("data_summary").startswith("1 problems of 'a'; unreadable answers excluded: 2;")
    reason = "Expect a right answer of type 'number', got 'abc'. The type comes from field 'answer_type'."
    assert caplog.record_tuples == [
        (
            "cir_env",
            logging.WARNING,
            "Excluding 2 problems of 'a', whose answers cannot be read:\n"
            f"  {path}, line 1: {reason}\n  {path}, line 3: {reason}",
        )
    ]


def test_a_long_list_of_excluded_rows_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, *({**BAD, "problem": f"What is {n}?"} for n in range(1500)))
    assert load_problems(path, unreadable="exclude").skipped == 1500
    (line,) = caplog.messages
    assert line.startswith("Excluding 1500 problems of 'a', ")
    assert line.endswith("\n  ... and 1,480 more")
    assert line.count("\n") == 21


def test_problems_without_a_file_are_excluded_by_id(caplog: pytest.LogCaptureFixture) -> None:
    mixed = ProblemSet.generate("mixed", size=50)
    arguments: dict[str, Any] = {"problems": mixed, "answer_type": "number?rel_tol=0.1"}
    assert len(gymnasium.make("CodeMath-v0", **arguments).get_wrapper_attr("problems")) == 50
    with pytest.raises(ProblemError, match=r"^Problem 'mixed-\w+': Expect a right answer of type 'choice', got "):
        load_problems(mixed, answer_type="choice")
    with pytest.raises(ProblemError, match=r"^Expect at least one problem in 'mixed/train', got none \(50 bad rows "):
        load_problems(mixed, answer_type="choice", unreadable="exclude")
    assert caplog.messages[0].splitlines()[1].startswith(f"  Problem {mixed[0].id!r}: Expect a right answer of type")


def test_what_is_left_is_pickled_without_the_excluded_problems(caplog: pytest.LogCaptureFixture) -> None:
    lettered = ProblemSet.generate("products", size=3)
    some = ProblemSet([Problem(id="c", statement="?", answer="C"), *lettered])
    left = load_problems(some, answer_type="number", unreadable="exclude")
    assert pickle.loads(pickle.dumps(left)) == left
    assert [problem.id for problem in left] == [problem.id for problem in lettered]
    assert "Problem 'c': " in caplog.text


def test_a_row_with_an_unknown_type_is_bad_whatever_is_excluded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, {**BAD, "answer_type": "numbr"})
    text = message(lambda: load_problems(path, unreadable="exclude"))
    assert text.startswith(f"{path}, line 2: Expect an answer type 'math', ")
    assert not text.endswith(HINT)


def test_a_file_is_excluded_from_before_it_is_divided(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", BAD, *({"problem": f"What is {n}?", "answer": n} for n in range(100)))
    train, test = (load_problems(path, split, unreadable="exclude") for split in ("train", "test"))
    assert len(train) + len(test) == 100
    assert test.notes == ("unreadable answers excluded: 1", "held out of 100")


def test_the_sets_of_an_evaluation_are_read_in_the_same_way(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", GOOD, BAD))
    assert len(load_sets([path], None, unreadable="exclude")[path]) == 1
    (problem,) = load_sets([path], None, answer_type="number", unreadable="exclude")[path]
    assert (problem.answer, problem.answer_type) == ("2", "number")


def test_an_unknown_choice_is_rejected(tmp_path: Path) -> None:
    for action in (
        lambda: load_problems("products", unreadable="drop"),  # type: ignore[arg-type]
        lambda: ProblemSet.from_jsonl(write(tmp_path / "a.jsonl", GOOD), unreadable="drop"),  # type: ignore[arg-type]
    ):
        with pytest.raises(OptionError, match=r"^Expect `unreadable` to be 'error' or 'exclude', got 'drop'\.$"):
            action()
