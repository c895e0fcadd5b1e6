"""Problem sets: files, data sets and names, and how bad input is reported."""

import copy
import json
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeTable

from cir_env.errors import ProblemError
from cir_env.problems.load import load_problems
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet
from cir_env.problems.rows import Fields

ROW = {"problem": "What is 1 + 1?", "answer": "2"}
OTHER = {"problem": "What is 2 + 2?", "answer": "4"}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def message(action: Callable[[], object]) -> str:
    with pytest.raises(ProblemError) as error:
        action()
    return str(error.value)


def problems(*ids: str) -> ProblemSet:
    return ProblemSet(Problem(id=i, statement=f"What is {i}?", answer=i) for i in ids)


# --- files -----------------------------------------------------------------------------------------------------


def test_a_jsonl_row_becomes_a_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", {**ROW, "id": 7, "subject": "addition", "level": 3})
    assert ProblemSet.from_jsonl(path)[0] == Problem(
        id="7",
        statement="What is 1 + 1?",
        answer="2",
        source="sums",
        subject="addition",
        level="3",
        metadata={"id": 7, "subject": "addition", "level": 3},
    )


def test_a_row_without_an_id_gets_its_number(tmp_path: Path) -> None:
    assert [p.id for p in ProblemSet.from_jsonl(write(tmp_path / "sums.jsonl", ROW, OTHER))] == ["sums-1", "sums-2"]


@pytest.mark.parametrize(
    "fields", [Fields(statement="question", answer="final"), {"statement": "question", "answer": "final"}]
)
def test_fields_can_have_other_names(tmp_path: Path, fields: Any) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "1 + 1?", "final": 2})
    assert ProblemSet.from_jsonl(path, fields=fields)[0].answer == "2"


def test_an_answer_can_be_the_last_box_of_a_solution(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"problem": "?", "answer": r"Not \boxed{1} but \boxed{ \frac{1}{2} }."})
    assert ProblemSet.from_jsonl(path, fields={"boxed": True})[0].answer == r"\frac{1}{2}"


def test_blank_lines_byte_order_mark_and_windows_line_ends_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{json.dumps(ROW)}\r\n\r\n  \n{json.dumps(OTHER)}".encode())
    assert len(ProblemSet.from_jsonl(path)) == 2


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("{", "Expect a JSON object, got Expecting property name"),
        ("[1]", "Expect a JSON object, got list."),
        ({"problem": "?"}, "Expect the answer in field 'answer', got a row with ['problem']; name the right field"),
        ({"answer": "2"}, "Expect the statement in field 'problem', got a row with ['answer']; name the right field"),
        ({"problem": "?", "answer": None}, "Expect the answer in field 'answer', got null; name the right field with"),
        ({"problem": " ", "answer": "2"}, "Expect field 'problem' to be non-blank."),
        ({"problem": "?", "answer": ["2"]}, "Expect field 'answer' to be text or a number, got list."),
        ({"problem": "?", "answer": True}, "Expect field 'answer' to be text or a number, got bool."),
        ('{"problem": "?", "answer": NaN}', "Expect field 'answer' to be a finite number, got nan."),
        ({**OTHER, "id": "a"}, "Expect distinct ids, got 'a' again."),
        (
            r'{"problem": "bad \ud800", "answer": "2"}',
            r"Expect field 'problem' to be Unicode text, got the lone surrogate '\ud800'.",
        ),
        ({**OTHER, "tags": [{"of": "\udc00x"}]}, r"Expect field 'tags' to be Unicode text, got the lone surrogate"),
        ({**OTHER, "\ud83d": 1}, r"Expect field '\ud83d' to be Unicode text, got the lone surrogate '\ud83d'."),
    ],
)
def test_a_bad_row_is_reported_by_file_and_line(tmp_path: Path, row: Any, expected: str) -> None:
    path = write(tmp_path / "a.jsonl", {**ROW, "id": "a"}, "", row)
    assert message(lambda: ProblemSet.from_jsonl(path)).startswith(f"{path}, line 3: {expected}")


def test_an_escaped_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", r'{"problem": "\ud83d\ude42 + 1?", "answer": "2"}')
    assert ProblemSet.from_jsonl(path)[0].statement == "🙂 + 1?"


def test_bytes_that_are_not_utf8_are_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"problem": "\xff"}')
    assert "line 1: Expect UTF-8, got invalid start byte." in message(
        lambda: ProblemSet.from_jsonl(tmp_path / "a.jsonl")
    )


def test_a_solution_without_a_box_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"problem": "?", "answer": "It is 2."})
    text = message(lambda: ProblemSet.from_jsonl(path, fields={"boxed": True}))
    assert text == rf"{path}, line 1: Expect an answer in \boxed{{}} in field 'answer', got none."


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROW, "{", {"problem": "?"}, OTHER)
    loaded = ProblemSet.from_jsonl(path, on_bad_row="skip")
    assert (len(loaded), loaded.skipped, loaded.notes) == (2, 2, ("bad rows dropped: 2",))


def test_repetitions_are_dropped_and_counted(tmp_path: Path) -> None:
    other_answer, other_type = {**ROW, "answer": "3"}, {**ROW, "answer_type": "number"}
    path = write(tmp_path / "a.jsonl", ROW, other_answer, {**ROW, "id": 7, "subject": "sums"}, other_type, ROW)
    loaded = ProblemSet.from_jsonl(path)
    assert [p.id for p in loaded] == ["a-1", "a-2", "a-4"]
    assert loaded.summary() == (
        "3 problems of 'a'; exact repetitions dropped: 2; questions repeated with another answer: 2"
    )
    assert pickle.loads(pickle.dumps(loaded)).notes == loaded.notes


CHAT_ROW = {
    "prompt": [{"content": "Solve this. Question: What is 1 + 1? Question: none.\nAnswer:", "role": "user"}],
    "reward_model": {"ground_truth": "2"},
}
CHAT_FIELDS = {"statement": "prompt.0.content", "answer": "reward_model.ground_truth"}


def test_fields_may_be_nested(tmp_path: Path) -> None:
    (problem,) = ProblemSet.from_jsonl(write(tmp_path / "a.jsonl", CHAT_ROW), fields=CHAT_FIELDS)
    assert (problem.statement[:11], problem.answer) == ("Solve this.", "2")
    named = {"problem": "?", "reward_model.ground_truth": "3", "reward_model": {"ground_truth": "2"}}
    path = write(tmp_path / "b.jsonl", named)
    assert ProblemSet.from_jsonl(path, fields={"answer": "reward_model.ground_truth"})[0].answer == "3"


@pytest.mark.parametrize("path", ["prompt.1.content", "prompt.0", "prompt.content", "prompt.x.content", "no.0.such"])
def test_a_field_path_without_text_is_a_bad_row(tmp_path: Path, path: str) -> None:
    file = write(tmp_path / "a.jsonl", CHAT_ROW)
    text = message(lambda: ProblemSet.from_jsonl(file, fields={**CHAT_FIELDS, "statement": path}))
    assert f"field {path!r}" in text


def test_an_instruction_around_a_problem_is_stripped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", CHAT_ROW)
    fields = {**CHAT_FIELDS, "after": "Question:", "before": "Answer:"}
    assert ProblemSet.from_jsonl(path, fields=fields)[0].statement == "What is 1 + 1? Question: none."
    assert "line 1: Expect 'Task:' in field 'prompt.0.content', got 'Solve this." in message(
        lambda: ProblemSet.from_jsonl(path, fields={**fields, "after": "Task:"})
    )
    assert "Expect a question between 'Answer:' and 'Answer:', got none in " in message(
        lambda: ProblemSet.from_jsonl(path, fields={**fields, "after": "Answer:"})
    )


def test_a_set_without_problems_is_an_error(tmp_path: Path) -> None:
    assert message(lambda: ProblemSet.from_jsonl(write(tmp_path / "a.jsonl"))) == (
        "Expect at least one problem in 'a', got none."
    )
    assert message(lambda: ProblemSet.from_jsonl(write(tmp_path / "a.jsonl", "{"), on_bad_row="skip")) == (
        "Expect at least one problem in 'a', got none (1 bad rows were skipped)."
    )


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    assert message(lambda: ProblemSet.from_jsonl(path)) == (
        f"Expect a readable file, got {str(path)!r}: No such file or directory."
    )


def test_unknown_options_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROW)
    assert message(lambda: ProblemSet.from_jsonl(path, fields={"question": "q"})) == (
        "Expect the keys of `fields` to be among ['statement', 'answer', 'id', 'subject', 'level', 'answer_type', "
        "'files', 'time_limit_s', 'memory_limit_mb', 'boxed', 'answer_after', 'after', 'before', 'metadata'], got "
        "['question']."
    )
    assert message(lambda: ProblemSet.from_jsonl(path, on_bad_row="drop")) == (  # type: ignore[arg-type]
        "Expect `on_bad_row` to be 'raise' or 'skip', got 'drop'."
    )


def test_parquet_rows_become_problems_and_bad_ones_are_reported(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"problem": ["1 + 1?", "2 + 2?"], "answer": [2, None]}), path)
    assert message(lambda: ProblemSet.from_parquet(path)).startswith(f"{path}, row 2: Expect the answer in field")
    assert ProblemSet.from_parquet(path, on_bad_row="skip")[0].answer == "2"


def test_a_file_that_is_not_parquet_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = write(tmp_path / "a.parquet", ROW)
    assert message(lambda: ProblemSet.from_parquet(path)).startswith(f"Expect a Parquet file, got {str(path)!r}: ")


@pytest.mark.parametrize(
    ("module", "action", "expected"),
    [
        (
            "pyarrow",
            lambda: ProblemSet.from_parquet("a.parquet"),
            "Reading 'a.parquet' needs pyarrow: pip install -e \".[parquet]\".",
        ),
        (
            "datasets",
            lambda: load_problems("hub:o/n", "train"),
            "Loading 'o/n' needs the library datasets: pip install -e \".[hub]\".",
        ),
        (
            "reasoning_gym",
            lambda: load_problems("reasoning_gym:gcd", "train"),
            "Generating 'reasoning_gym:gcd' needs the library reasoning-gym: "
            'pip install -e ".[problems]" (it needs a C compiler).',
        ),
    ],
)
def test_a_missing_library_is_reported_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, action: Callable[[], object], expected: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert message(action) == expected


class FakeDatasets(types.ModuleType):
    """A stand-in for the library `datasets`."""

    def __init__(self, rows: list[dict[str, Any]] | Exception) -> None:
        super().__init__("datasets")
        self.rows = rows
        self.asked: list[tuple[str, str | None, str, str | None]] = []

    def load_dataset(self, name: str, config: str | None, *, split: str, revision: str | None) -> Any:
        self.asked.append((name, config, split, revision))
        if isinstance(self.rows, Exception):
            raise self.rows
        return FakeTable(self.rows)


def test_a_hub_set_is_loaded_by_name_split_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", fake := FakeDatasets([ROW]))
    loaded = ProblemSet.from_hub("owner/sums", split="test", revision="abc")
    assert (loaded[0].id, fake.asked) == ("owner/sums-1", [("owner/sums", None, "test", "abc")])


def test_an_unreachable_hub_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeDatasets(ConnectionError("no route\nmany more lines")))
    assert message(lambda: ProblemSet.from_hub("owner/sums")) == (
        "Expect the hub to have split 'train' of 'owner/sums', and to be reachable; got ConnectionError: no route"
    )


# --- sets ------------------------------------------------------------------------------------------------------


def test_a_set_is_a_sequence_whose_slices_are_sets() -> None:
    abc = problems("a", "b", "c")
    assert (len(abc), abc[-1].id, [p.id for p in abc[:2]], abc[2] in abc) == (3, "c", ["a", "b"], True)
    assert isinstance(abc[1:], ProblemSet)
    with pytest.raises(IndexError):
        abc[3]


def test_a_set_is_immutable() -> None:
    abc = problems("a")
    with pytest.raises(TypeError):
        abc[0] = abc[0]  # type: ignore[index]
    with pytest.raises(AttributeError):
        abc[0].answer = "b"  # type: ignore[misc]


def test_copies_share_the_set_and_pickles_equal_it() -> None:
    abc = problems("a", "b")
    assert copy.deepcopy({"problems": abc})["problems"] is copy.copy(abc) is abc
    assert pickle.loads(pickle.dumps(abc)) == abc == problems("a", "b") != problems("b", "a")
    assert hash(abc) == hash(problems("a", "b"))


def test_a_generated_set_is_pickled_as_its_recipe() -> None:
    made = ProblemSet.generate("products", seed=3, size=300)
    assert len(pickle.dumps(made)) < 200
    assert pickle.loads(pickle.dumps(made)) == made


def test_other_items_and_repeated_ids_are_errors() -> None:
    assert message(lambda: ProblemSet([])) == "Expect at least one problem in 'problems', got none."
    assert message(lambda: ProblemSet(["a"])) == (  # type: ignore[list-item]
        "Expect only `Problem` in 'problems', got str."
    )
    assert message(lambda: problems("a", "a")) == "Expect distinct ids in 'problems', got 'a' twice."


# --- names -----------------------------------------------------------------------------------------------------


def test_a_name_is_loaded_once_per_process() -> None:
    assert load_problems("products", "test") is load_problems("products", "test")
    assert (len(load_problems("products", "train")), len(load_problems("products", "test"))) == (10_000, 500)


def test_a_problem_set_has_no_splits() -> None:
    abc = problems("a")
    assert load_problems(abc, "test") is load_problems(abc, "train") is load_problems(abc) is abc


def test_a_file_is_read_once_and_gives_all_problems_unless_a_split_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROW, OTHER)
    assert load_problems(str(path)) is load_problems(path)
    assert (load_problems(path).name, len(load_problems(path))) == ("a", 2)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROW)
    load_problems(path)
    assert len(load_problems(write(path, ROW, OTHER))) == 2


def test_a_folder_holds_one_file_for_each_split(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROW, OTHER)
    assert len(load_problems(tmp_path, "train")) == 2
    assert message(lambda: load_problems(tmp_path, "test")) == (
        f"Expect a file test.jsonl, .json, .csv or .parquet in the folder {str(tmp_path)!r}, got none."
    )


def test_a_hub_name_loads_the_split_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", fake := FakeDatasets([ROW]))
    load_problems("hub:owner/once", "test")
    load_problems("hub:owner/once", "test")
    assert fake.asked == [("owner/once", None, "test", None)]


@pytest.mark.parametrize("spec", ["nothing", "missing.jsonl", "pyproject.toml"])
def test_an_unknown_name_lists_the_choices(spec: str) -> None:
    assert message(lambda: load_problems(spec, "train")) == (
        "Expect `problems` to be one of 'products', 'arithmetic', 'mixed', 'multi_block', "
        "'multi_block:trails', 'multi_block:ledgers', 'multi_block:readings', 'multi_block:sequences', "
        "'reasoning_gym', 'reasoning_gym:TASK', 'still3', 'dapo', 'gsm8k', 'hub:OWNER/NAME', 'benchmark:NAME', "
        f"or the path of an existing .jsonl, .json, .csv or .parquet file, got {spec!r}."
    )


def test_a_spec_of_another_type_is_an_error() -> None:
    assert message(lambda: load_problems(7, "train")) == (  # type: ignore[arg-type]
        "Expect `problems` to be a ProblemSet, a name, a path, a list of rows or a datasets.Dataset, got int."
    )


def test_a_spec_may_name_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "What is 1 + 1?", "gold": 2}\n')
    (problem,) = load_problems(f"{path}?statement=question&answer=gold")
    assert (problem.statement, problem.answer) == ("What is 1 + 1?", "2")


def test_an_unknown_field_in_a_spec_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "What is 1 + 1?", "gold": 2}\n')
    with pytest.raises(ProblemError) as caught:
        load_problems(f"{path}?query=question", "train")
    assert str(caught.value).startswith("Expect the keys of `fields` to be among ['statement', 'answer', ")
