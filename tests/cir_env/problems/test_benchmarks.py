"""Benchmarks are found, pinned and patched. Only the last few tests need the real files."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from agents.config.evaluation import PAPER_SETS
from cir_env.errors import ProblemError
from cir_env.grading.grader import Grader
from cir_env.problems import benchmarks
from cir_env.problems.benchmarks import BENCHMARKS, content_sha256, load_benchmark
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet

FOLDER = Path(os.environ.get("CIR_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))
real_files = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"no benchmark files in {FOLDER}: name their folder in CIR_BENCHMARKS"
)
AIME_ROW = {"problem": "What is 1 + 1?", "solution": r"It is \boxed{3}, no, \boxed{2}."}


def write(folder: Path, name: str, *rows: Any) -> Path:
    (folder / BENCHMARKS[name].file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def message(action: Callable[[], object]) -> str:
    with pytest.raises(ProblemError) as error:
        action()
    return str(error.value)


def test_the_benchmarks_are_the_papers_five_and_the_hard_set() -> None:
    assert {*PAPER_SETS, "OlymMATH-EN-HARD"} == set(BENCHMARKS)
    assert all(name == benchmark.name for name, benchmark in BENCHMARKS.items())


def test_the_answer_of_a_worked_solution_is_its_last_box(tmp_path: Path) -> None:
    loaded = load_benchmark("AIME25", write(tmp_path, "AIME25", AIME_ROW), pinned=False)
    assert (loaded[0].answer, loaded[0].id, loaded[0].source) == ("2", "AIME25-1", "AIME25")


def test_math500_is_read_with_or_without_its_answer_field(tmp_path: Path) -> None:
    row = {**AIME_ROW, "unique_id": "test/algebra/1.json", "subject": "Algebra"}
    without = load_benchmark("MATH500", write(tmp_path, "MATH500", row), pinned=False)
    (other,) = load_benchmark("MATH500", write(tmp_path, "MATH500", {**row, "answer": "2"}), pinned=False)
    assert dataclasses.replace(other, metadata=without[0].metadata) == without[0]
    assert (without[0].id, without[0].subject) == ("test/algebra/1.json", "Algebra")


def test_a_numeric_id_is_prefixed_with_the_benchmarks_name(tmp_path: Path) -> None:
    write(tmp_path, "AMC23", {"id": 7, "problem": "?", "solution": "27"})
    assert load_benchmark("AMC23", tmp_path, pinned=False)[0].id == "AMC23-7"


@pytest.mark.parametrize("flawed", [True, False])
def test_a_known_flaw_is_patched_if_present(tmp_path: Path, flawed: bool) -> None:
    rows = [{"id": k, "problem": f"Question {k}?", "solution": "1"} for k in range(31)]
    rows[30]["problem"] = "He had $$43$ dollars." if flawed else r"He had $\$43$."
    loaded = load_benchmark("AMC23", write(tmp_path, "AMC23", *rows), pinned=False)
    assert loaded[30].statement == r"He had $\$43$."


def test_unpinned_problems_are_rejected_unless_requested(tmp_path: Path) -> None:
    write(tmp_path, "AIME25", AIME_ROW)
    text = message(lambda: load_benchmark("AIME25", tmp_path))
    assert text.startswith("Expect the 30 problems of AIME25 with SHA-256 8d6a81306a19…, got 1 with ")
    assert text.endswith("results would not compare. Get the right file, or load it with pinned=False.")
    assert len(load_benchmark("AIME25", tmp_path, pinned=False)) == 1


def test_the_pinned_problems_are_accepted_in_any_file_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_benchmark("AIME25", write(tmp_path, "AIME25", AIME_ROW), pinned=False)
    pinned = dataclasses.replace(BENCHMARKS["AIME25"], sha256=content_sha256(loaded))
    monkeypatch.setattr(benchmarks, "BENCHMARKS", {"AIME25": pinned})
    write(tmp_path, "AIME25", {"id": "x", "solution": r"\boxed{ 2 }", "problem": " What is  1 + 1?\n"})
    assert load_benchmark("AIME25", tmp_path)[0].answer == "2"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_hub_is_asked_for_the_set_and_its_fields(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def from_hub(data: str, *, split: str, config: str | None, fields: Any) -> ProblemSet:
        asked.append((data, split, config))
        return ProblemSet([Problem(id="0", statement="What?", answer="1", source=data)])

    monkeypatch.setattr(ProblemSet, "from_hub", from_hub)
    loaded = load_benchmark(name, "hub", pinned=False)
    assert asked == [(BENCHMARKS[name].hub.name, "test", BENCHMARKS[name].hub.config)]
    assert (loaded[0].id, loaded[0].source) == (f"{name}-0", name)
    assert f"in {BENCHMARKS[name].hub.name!r}: results" in message(lambda: load_benchmark(name, "hub"))


def test_an_unknown_benchmark_lists_the_known_ones(tmp_path: Path) -> None:
    assert message(lambda: load_benchmark("AIME23", tmp_path)) == (
        "Expect a benchmark's name, one of AIME24, AIME25, AMC23, MATH500, OlymMATH-EN-EASY, OlymMATH-EN-HARD; "
        "got 'AIME23'."
    )


def test_a_wrong_folder_is_an_error(tmp_path: Path) -> None:
    folder = str(tmp_path / "none")
    assert message(lambda: load_benchmark("AIME24", folder)) == (
        f"Expect a folder with benchmark files, got {folder!r}: there is no such folder."
    )


def test_a_missing_file_is_reported_with_the_files_that_exist(tmp_path: Path) -> None:
    assert message(lambda: load_benchmark("AMC23", tmp_path)) == (
        f"Expect amc23.jsonl in the folder {str(tmp_path)!r} for AMC23, got no .jsonl file."
    )
    write(tmp_path, "AIME24", AIME_ROW)
    assert message(lambda: load_benchmark("AMC23", tmp_path)).endswith(" for AMC23, got AIME24.jsonl.")


def test_an_empty_file_and_a_row_without_an_answer_are_errors(tmp_path: Path) -> None:
    assert message(lambda: load_benchmark("AIME24", write(tmp_path, "AIME24"))) == (
        "Expect at least one problem in 'AIME24', got none."
    )
    write(tmp_path, "AIME24", AIME_ROW, {"problem": "What is 2 + 2?", "solution": "It is 4."})
    assert message(lambda: load_benchmark("AIME24", tmp_path)) == (
        f"{tmp_path / 'AIME24.jsonl'}, line 2: Expect an answer in \\boxed{{}} in field 'solution', got none."
    )


@real_files
@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_real_benchmark_is_the_pinned_one(name: str) -> None:
    assert len(load_benchmark(name, FOLDER)) == BENCHMARKS[name].n_problems


@real_files
def test_the_patched_torus_problem_is_the_corrected_one() -> None:
    corrections = FOLDER / "AIME24.corrections.jsonl"
    if not corrections.is_file():
        pytest.skip("no AIME24.corrections.jsonl in the folder")
    right = json.loads(corrections.read_text())["problem"]
    assert load_benchmark("AIME24", FOLDER)[28].statement == right.strip()


@pytest.mark.slow
@real_files
def test_every_gold_answer_of_the_benchmarks_can_be_graded() -> None:
    with Grader() as grader:
        golds = {problem.answer for name in BENCHMARKS for problem in load_benchmark(name, FOLDER)}
        plain = {gold: grader.submit(gold, rf"$\boxed{{ {gold} }}$") for gold in golds}
        wrong = {gold: grader.submit(gold, r"\sqrt{987654321}") for gold in sorted(golds)[::10]}
        assert [gold for gold, future in plain.items() if not future.result().correct] == []
        assert [g for g, future in wrong.items() if future.result().correct or not future.result().valid] == []
