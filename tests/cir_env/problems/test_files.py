"""Files and limits of problems: from rows to the blocks of an episode."""

import copy
import json
import pickle
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from fakes import FakeSandbox, FakeSession
from gymnasium.vector import SyncVectorEnv

import cir_env  # noqa: F401  registers the environment
from cir_env.env import CodeMathEnv
from cir_env.episode.prompts import render_prompt
from cir_env.errors import ProblemError
from cir_env.problems.benchmarks import content_sha256
from cir_env.problems.load import load_problems
from cir_env.problems.mixtures import unite
from cir_env.problems.problem import Files, Problem
from cir_env.problems.problem_set import ProblemSet
from cir_env.sandbox import ExecutionResult, Limits, Status

TABLE = {"data.csv": "x\n1\n2\n"}
SUM = "```python\nwith open('data.csv') as file:\n    print(sum(int(line) for line in list(file)[1:]))\n```\n"


def problem(name: str = "p", **given: Any) -> Problem:
    return Problem(**{"id": name, "statement": "What is the sum of x?", "answer": "3", **given})


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(
        "".join(json.dumps({"problem": "What is the sum of x?", "answer": 3, **row}) + "\n" for row in rows)
    )
    return path


# --- the objects -------------------------------------------------------------------------------------------------


def test_files_are_immutable_hashable_and_sorted() -> None:
    given = {"b.txt": "2", "a.csv": "1"}
    files = Files(given)
    given["b.txt"] = "3"
    assert list(files.items()) == [("a.csv", "1"), ("b.txt", "2")]
    assert files == {"b.txt": "2", "a.csv": "1"}
    assert hash(files) == hash(Files(dict(files)))
    assert pickle.loads(pickle.dumps(files)) == copy.deepcopy(files) == files
    assert eval(repr(files), {"Files": Files}) == files


BAD_FILES: list[tuple[Any, str]] = [
    *[
        ({name: ""}, f"Expect the names in `files` to be plain file names like 'data.csv', got {name!r}.")
        for name in ("", ".", "..", ".hidden", "-x", "a/b", "/a", "a\0", "a\n", "x" * 101)
    ],
    ({"a": None}, "Expect the content of 'a' in `files` to be text, got NoneType."),
    ({"a": b""}, "Expect the content of 'a' in `files` to be text, got bytes."),
    ({"a": "\ud800"}, "Expect the content of 'a' in `files` to be Unicode, got a lone surrogate."),
    ({"a": "é" * 2**21, "b": "x"}, "Expect at most 4,194,304 bytes in `files`, got 4,194,305."),
    ({str(n): "" for n in range(33)}, "Expect at most 32 `files`, got 33."),
    (["a"], "Expect `files` to map names to texts, got list."),
]


@pytest.mark.parametrize(("files", "message"), BAD_FILES)
def test_files_that_are_not_valid_are_rejected(files: Any, message: str) -> None:
    with pytest.raises(ProblemError) as caught:
        problem(files=files)
    assert str(caught.value) == f"Problem 'p': {message}"


@pytest.mark.parametrize("limits", [{"time_limit_s": 0}, {"time_limit_s": 1e400}, {"memory_limit_mb": 1.5}])
def test_limits_that_are_not_valid_are_rejected(limits: dict[str, Any]) -> None:
    with pytest.raises(ProblemError, match=f"^Problem 'p': Expect `{next(iter(limits))}` to be a"):
        problem(**limits)


def test_problems_with_other_files_or_limits_are_other_problems() -> None:
    several = [problem(), problem(files=TABLE), problem(files={"data.csv": ""}), problem(time_limit_s=2.0)]
    assert len(set(several)) == 4
    assert len({content_sha256([each]) for each in several}) == 4
    assert content_sha256([problem(time_limit_s=2)]) == content_sha256([problem("q", time_limit_s=2.0)])
    same_statement = unite((ProblemSet(several[1:2]), ProblemSet(several[2:3]), ProblemSet(several[1:2])), "u")
    assert [each.files for each in same_statement] == [TABLE, {"data.csv": ""}]


# --- from rows ---------------------------------------------------------------------------------------------------


def test_rows_carry_files_and_limits(tmp_path: Path) -> None:
    rows = [
        {"files": TABLE, "time_limit_s": 2, "memory_limit_mb": 64.0, "level": 1},
        {"files": {"data.csv": "x\n3\n"}},
        {"files": json.dumps(TABLE), "level": 2},
        {"problem": "1 + 1?", "files": None},
    ]
    problems = ProblemSet.from_jsonl(write(tmp_path / "a.jsonl", *rows))
    assert [each.files for each in problems] == [TABLE, {"data.csv": "x\n3\n"}, {}]
    assert (problems[0].time_limit_s, problems[0].memory_limit_mb) == (2, 64)
    assert (problems[1].time_limit_s, problems[1].memory_limit_mb) == (None, None)
    assert "files" not in problems[0].metadata
    assert problems.notes == ("exact repetitions dropped: 1",)
    assert pickle.loads(pickle.dumps(problems)) == problems
    assert load_problems(problems, answer_type="number")[0].files == TABLE
    train, test = (load_problems(tmp_path / "a.jsonl", split, test_share=0.5) for split in ("train", "test"))
    assert {each.files for each in [*train, *test]} == {each.files for each in problems}


def test_the_fields_of_files_and_limits_may_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"files": 3, "tables": TABLE, "limits": {"cpu": 1.5}})
    read = load_problems(f"{path}?files=tables&time_limit_s=limits.cpu")[0]
    assert (read.files, read.time_limit_s) == (TABLE, 1.5)
    assert read.metadata == {"files": 3, "limits": {"cpu": 1.5}}


OTHER = " If it is meant for something else, set `?{}=` to a field that no row has."


@pytest.mark.parametrize(
    ("row", "message"),
    [
        *[
            ({"files": files}, f"{message} They come from field 'files'.{OTHER.format('files')}")
            for files, message in [BAD_FILES[5], BAD_FILES[-2], BAD_FILES[-1]]
        ],
        ({"files": "{"}, "Expect JSON in field 'files', got Expecting property name enclosed in double quotes"),
        ({"time_limit_s": "2"}, f"Expect field 'time_limit_s' to be a number, got str.{OTHER.format('time_limit_s')}"),
        ({"memory_limit_mb": True}, "Expect field 'memory_limit_mb' to be a number, got bool."),
        (
            {"memory_limit_mb": 1.5},
            "Expect `memory_limit_mb` to be a whole number above 0 and at most 1,048,576, got 1.5.",
        ),
        ({"time_limit_s": -1}, "Expect `time_limit_s` to be a number above 0 and at most 86,400, got -1."),
    ],
)
def test_a_bad_row_is_reported_by_file_and_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "a.jsonl", {}, row)
    with pytest.raises(ProblemError) as caught:
        ProblemSet.from_jsonl(path)
    assert str(caught.value).startswith(f"{path}, line 2: {message}")


@pytest.mark.parametrize("kind", ["struct", "map", "text"])
def test_files_of_a_table_may_be_a_struct_a_map_or_json(tmp_path: Path, kind: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    files: list[Any] = [TABLE, {"b.txt": "2"}, None]
    if kind == "map":
        column = pyarrow.array(
            [value and list(value.items()) for value in files], pyarrow.map_(*[pyarrow.string()] * 2)
        )
    else:
        column = pyarrow.array(files if kind == "struct" else [value and json.dumps(value) for value in files])
    columns = {"problem": ["1?", "2?", "3?"], "answer": [1, 2, 3], "files": column, "time_limit_s": [2.5, None, None]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    problems = load_problems(tmp_path / "a.parquet")
    assert [each.files for each in problems] == [TABLE, {"b.txt": "2"}, {}]
    assert [each.time_limit_s for each in problems] == [2.5, None, None]


# --- to episodes -------------------------------------------------------------------------------------------------


class FilingSandbox(FakeSandbox):
    """Records the files that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[Mapping[str, str] | None] = []

    def submit(
        self, code: str, limits: Limits | None = None, *, files: Mapping[str, str] | None = None
    ) -> "Future[ExecutionResult]":
        self.files.append(files)
        return super().submit(code, limits)

    def open_session(self, *, files: Mapping[str, str] | None = None) -> FakeSession:
        self.files.append(files)
        return super().open_session()


def test_the_prompt_names_the_files() -> None:
    with_files = problem(files={"b.txt": "", "a.csv": ""})
    line = "\n\nFiles in the working directory: a.csv, b.txt"
    for prompt in ("cir", "question", "cir_one_shot"):
        assert render_prompt(prompt, with_files) == render_prompt(prompt, problem()) + line
    assert render_prompt(lambda each: each.statement, with_files) == problem().statement


def test_a_template_file_names_them_after_the_statement(tmp_path: Path) -> None:
    (tmp_path / "own.md").write_text("Q: {problem}\nA:")
    text = render_prompt(str(tmp_path / "own.md"), problem(files=TABLE))
    assert text == "Q: What is the sum of x?\n\nFiles in the working directory: data.csv\nA:"


@pytest.mark.parametrize("stateful", [False, True])
def test_blocks_get_the_files_and_the_limits_of_their_problem(stateful: bool) -> None:
    sandbox = FilingSandbox()
    several = [problem(files=TABLE, time_limit_s=8, memory_limit_mb=64), problem("q", memory_limit_mb=32)]
    env = CodeMathEnv(problems=ProblemSet(several), sandbox=sandbox, stateful=stateful, time_limit_s=3.0)
    for index in range(2):
        _, info = env.reset(options={"problem_index": index})
        assert info["files"] == tuple(several[index].files)
        env.step("```python\nprint(1)\n```\n")
    assert sandbox.files == [TABLE, None]
    assert sandbox.limits == [
        Limits(time_limit_s=8, memory_limit_mb=64, wall_limit_s=96.0),
        Limits(time_limit_s=3.0, memory_limit_mb=32),
    ]


def test_a_sandbox_without_files_still_runs_problems_without_them() -> None:
    sandbox = FakeSandbox()
    env = CodeMathEnv(problems=ProblemSet([problem()]), sandbox=sandbox)
    env.reset()
    assert env.step("```python\nprint(1)\n```\n")[4]["execution_status"] == Status.OK


@pytest.mark.parametrize("stateful", [False, True])
def test_an_episode_reads_its_file(stateful: bool) -> None:
    env = gymnasium.make("CodeMath-v0", problems=ProblemSet([problem(files=TABLE)]), stateful=stateful)
    env.reset()
    for _ in range(2):
        assert env.step(SUM)[4]["feedback"] == "```output\n3\n```\n"


def test_vector_environments_keep_the_names_apart() -> None:
    sets = [problem(files=TABLE), problem("q", files={"a.txt": "", "b.txt": ""}), problem("r")]
    envs = SyncVectorEnv([lambda each=each: CodeMathEnv(problems=ProblemSet([each])) for each in sets])
    _, infos = envs.reset()
    assert list(infos["files"]) == [("data.csv",), ("a.txt", "b.txt"), ()]
    envs.close()
