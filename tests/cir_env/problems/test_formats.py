"""Problems from CSV, JSON, lists of dicts and `datasets.Dataset`: what is read, and how bad input is reported."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import cir_env  # noqa: F401  registers the environment
from cir_env.env import CodeMathEnv
from cir_env.errors import ProblemError
from cir_env.problems import load
from cir_env.problems.load import load_problems, load_sets
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet

ROW = {"problem": "What is 1 + 1?", "answer": "2", "subject": "sums"}
OTHER = {"problem": "What is 2 * 3?", "answer": "6", "subject": "products"}


class FakeDataset:
    """A stand-in for `datasets.Dataset`: iterable, with `column_names`."""

    column_names = ("problem", "answer")

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def message(action: Callable[[], object]) -> str:
    with pytest.raises(ProblemError) as error:
        action()
    return str(error.value)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# --- what is read ------------------------------------------------------------------------------------------------


def as_csv(*rows: dict[str, str]) -> str:
    return "\r\n".join([",".join(ROW), *(",".join(row.values()) for row in rows)])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.json", json.dumps([ROW, OTHER], indent=2)),
        ("mine.json", f"{json.dumps(ROW)}\n{json.dumps(OTHER)}\n"),
        ("mine.csv", as_csv(ROW, OTHER)),
        ("mine.csv", "\ufeff" + as_csv(ROW, OTHER) + "\n,,\n\n"),
        ("mine.csv", as_csv(ROW, OTHER).replace("\r\n", "\r")),
    ],
)
def test_a_file_in_any_format_holds_the_same_problems(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path / name, text)
    expected = ProblemSet.from_rows([ROW, OTHER], name="mine")
    assert load_problems(path) == ProblemSet.from_file(path) == expected
    assert load_sets([str(path)], None)[str(path)] == expected
    assert len(load_problems(path, "train", test_share=0.5)) == 1
    assert (expected[1].id, expected[1].source, expected[1].metadata) == ("mine-2", "mine", {"subject": "products"})


def test_cells_of_csv_may_hold_commas_quotes_and_lines(tmp_path: Path) -> None:
    text = 'problem,answer,time_limit_s,memory_limit_mb\n"Say ""1,\n2"".",2,,\nTwo?,2,1.5,64\n'
    one, two = load_problems(write(tmp_path / "a.csv", text))
    assert (one.statement, one.time_limit_s, one.memory_limit_mb) == ('Say "1,\n2".', None, None)
    assert (two.time_limit_s, two.memory_limit_mb) == (1.5, 64)


def test_a_cell_may_be_longer_than_the_modules_limit(tmp_path: Path) -> None:
    statement = "1 + 1? " * 40_000
    assert (
        load_problems(write(tmp_path / "a.csv", f"problem,answer\n{statement},2\n"))[0].statement == statement.strip()
    )


def test_fields_may_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "question,gold\n1 + 1?,2\n")
    assert load_problems(f"{path}?statement=question&answer=gold")[0].answer == "2"
    rows = [{"task": {"prompt": [{"content": "1 + 1?"}], "gold": 2}}]
    named = ProblemSet.from_rows(rows, fields={"statement": "task.prompt.0.content", "answer": "task.gold"})
    assert (named[0].statement, named[0].answer, named[0].id) == ("1 + 1?", "2", "problems-1")


def test_a_folder_may_hold_csv(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", as_csv(ROW))
    write(tmp_path / "test.json", json.dumps([OTHER]))
    assert [load_problems(tmp_path, split)[0].answer for split in ("train", "test")] == ["2", "6"]


@pytest.mark.parametrize("given", [[ROW, OTHER], (ROW, OTHER), FakeDataset(ROW, OTHER)])
def test_an_environment_takes_rows(given: Any) -> None:
    with gymnasium.make("CodeMath-v0", problems=given) as env:
        assert [problem.answer for problem in env.unwrapped.problems] == ["2", "6"]  # type: ignore[attr-defined]


def test_an_environment_takes_a_list_of_problems_and_a_dataset_of_splits() -> None:
    problems = [Problem(id="a", statement="1 + 1?", answer="2")]
    assert list(CodeMathEnv(problems=problems).problems) == problems
    splits = {"train": FakeDataset(ROW), "test": FakeDataset(OTHER)}
    assert [load_problems(splits, split)[0].answer for split in ("train", "test")] == ["2", "6"]


def test_a_dataset_of_the_library_is_taken() -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list([ROW, OTHER])
    assert load_problems(table) == load_problems([ROW, OTHER])
    assert load_problems(datasets.DatasetDict({"test": table}), "test") == load_problems([ROW, OTHER])


def test_a_vector_environment_converts_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[Any] = []

    def watched(rows: Any, wanted: Any) -> ProblemSet:
        converted.append(rows)
        return ProblemSet.from_rows(rows)

    monkeypatch.setattr(load, "_load_rows", watched)
    envs = gymnasium.make_vec("CodeMath-v0", num_envs=3, problems=[ROW, OTHER])
    assert len(converted) == 1
    envs.close()


def test_unreadable_answers_of_rows_are_excluded_on_request() -> None:
    rows = [ROW, {**OTHER, "answer": r"1 + 2 + \cdots + n"}]
    assert "problems, row 2: Expect a right answer that can be read" in message(lambda: load_problems(rows))
    assert len(load_problems(rows, unreadable="exclude")) == 1


# --- what is not -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "", "Expect at least one problem in 'a', got none."),
        ("a.csv", "problem,answer\n", "Expect at least one problem in 'a', got none."),
        ("a.csv", "problem,answer\n1 + 1?\n", "{path}, line 2: Expect 2 cells, as the first line has, got 1."),
        ("a.csv", 'problem,answer\n"1\n2",2\na,b,c\n', "{path}, line 4: Expect 2 cells, as the first line has, got 3."),
        ("a.csv", "problem,answer\n1 + 1?,\n", "{path}, line 2: Expect field 'answer' to be non-blank."),
        ("a.csv", "problem;answer\n1 + 1?;2\n", "{path}, line 2: Expect the answer in field 'answer', got a row with"),
        ("a.csv", "a,a\n1,2\n", "{path}, line 1: Expect distinct names of fields, got 'a' twice."),
        ("a.csv", 'problem,answer\n"1 + 1?,2\n', "{path}, line 2: Expect CSV, got unexpected end of data."),
        ("a.csv", b"problem,answer\n1,2\n\xff,2\n", "{path}, line 3: Expect UTF-8, got invalid start byte."),
        (
            "a.csv",
            "problem,answer,time_limit_s\n1 + 1?,2,long\n",
            "{path}, line 2: Expect field 'time_limit_s' to be a number, got str.",
        ),
        ("a.json", "[", "Expect a JSON array of objects, got '{path}': Expecting value: line 1 column 2 (char 1)."),
        ("a.json", b"[\xff]", "Expect a JSON array of objects, got '{path}': 'utf-8' codec can't decode byte 0xff"),
        ("a.json", "[]", "Expect at least one problem in 'a', got none."),
        ("a.json", "", "Expect at least one problem in 'a', got none."),
        ("a.json", json.dumps([ROW, 1]), "{path}, row 2: Expect a JSON object, got int."),
        (
            "a.json",
            json.dumps([ROW, {"problem": "?"}]),
            "{path}, row 2: Expect the answer in field 'answer', got a row",
        ),
        (
            "a.json",
            json.dumps([{**ROW, "answer": "\ud800"}]),
            r"{path}, row 1: Expect field 'answer' to be Unicode text, got the lone surrogate '\ud800'.",
        ),
        ("a.json", '{"data": []}', "{path}, line 1: Expect the answer in field 'answer', got a row with ['data'];"),
        ("a.txt", "", "Expect a .jsonl, .json, .csv or .parquet file, got '{path}'."),
    ],
)
def test_a_bad_file_is_reported_by_place_and_field(tmp_path: Path, name: str, text: str | bytes, expected: str) -> None:
    path = write(tmp_path / name, text)
    assert message(lambda: ProblemSet.from_file(path)).startswith(expected.replace("{path}", str(path)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "Expect at least one problem in 'problems', got none."),
        ([ROW, 3], "problems, row 2: Expect a JSON object, got int."),
        ([ROW, {"problem": "?"}], "problems, row 2: Expect the answer in field 'answer', got a row with ['problem'];"),
        ([{**ROW, "problem": "\ud800"}], r"problems, row 1: Expect field 'problem' to be Unicode text, got the lone"),
        (
            FakeDataset(ROW, {**OTHER, "answer": [6]}),
            "problems, row 2: Expect field 'answer' to be text or a number, got",
        ),
        ({"train": FakeDataset(ROW)}, "Expect `problems` to be a ProblemSet, a name, a path, a list of rows or a"),
        (
            iter([ROW]),
            "Expect `problems` to be a ProblemSet, a name, a path, a list of rows or a datasets.Dataset, got",
        ),
    ],
)
def test_bad_rows_are_reported_by_number_and_field(given: Any, expected: str) -> None:
    assert message(lambda: load_problems(given, "test")).startswith(expected)


def test_a_problem_set_of_rows_says_how_to_convert_them() -> None:
    assert message(lambda: ProblemSet([ROW])) == (  # type: ignore[list-item]
        "Expect only `Problem` in 'problems', got dict. Convert rows with `ProblemSet.from_rows`."
    )
