"""Benchmarks are found, pinned and patched. Only the last few tests need the real files."""

import dataclasses
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeTable
from paths import ROOT

from agents.config.evaluation import PAPER_SETS
from cir_env.errors import ProblemError
from cir_env.grading.grader import Grader
from cir_env.problems.benchmarks import BENCHMARKS, content_sha256, is_pinned, load_benchmark, loading
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


def test_the_papers_sets_are_known() -> None:
    assert {*PAPER_SETS} <= set(BENCHMARKS)
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
    monkeypatch.setattr(loading, "BENCHMARKS", {"AIME25": pinned})
    write(tmp_path, "AIME25", {"id": "x", "solution": r"\boxed{ 2 }", "problem": " What is  1 + 1?\n"})
    assert load_benchmark("AIME25", tmp_path)[0].answer == "2"


HUB_ROW = {
    "GSM8K": {"question": "What?", "answer": "It is <<1=1>>1.\n#### 1"},
    "SVAMP": {"ID": "chal-1", "Body": "What", "Question": "now?", "Answer": "1"},
    "OlympiadBench": {"id": 3, "question": "What?", "final_answer": ["1"], "answer_type": "Numerical", "error": None},
    "AMC23": {"question": "What?", "answer": "1"},
    "Minerva": {"question": "What?", "answer": "1"},
    "HMMT25": {"problem_idx": 4, "problem": "What?", "answer": "1", "problem_type": ["Algebra"]},
}


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if BENCHMARKS[name].hub])
def test_the_hub_is_asked_for_the_set_and_its_fields(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    row = HUB_ROW.get(name, {"problem": "What?", "answer": "1", "solution": r"\boxed{1}", "unique_id": "1"})

    def load_dataset(data: str, config: str | None, *, split: str, revision: str | None) -> FakeTable:
        asked.append((data, split, config))
        return FakeTable([row])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    hub = BENCHMARKS[name].hub
    assert hub is not None
    loaded = load_benchmark(name, "hub", pinned=False)
    assert asked == [(hub.name, hub.split, hub.config)]
    assert (loaded[0].answer, loaded[0].source) == ("1", name)
    assert loaded.notes[-1].startswith("not pinned, SHA-256 ")
    if BENCHMARKS[name].sha256 and hub.is_pinned:
        assert f"in {hub.name!r}: results" in message(lambda: load_benchmark(name, "hub"))
    else:
        assert load_benchmark(name, "hub") == loaded


def test_a_set_that_is_not_on_the_hub_needs_a_folder() -> None:
    assert message(lambda: load_benchmark("CollegeMath", "hub")) == (
        "Expect a folder with college_math.jsonl for CollegeMath, which is not on the hub."
    )


# --- rows as the originals have them -----------------------------------------------------------------------------


def loaded_rows(folder: Path, name: str, *rows: Any) -> ProblemSet:
    return load_benchmark(name, write(folder, name, *rows), pinned=False)


def test_the_answer_of_gsm8k_stands_behind_its_mark(tmp_path: Path) -> None:
    row = {"question": "How much?", "answer": "1 #### 2 no\n#### 1,050"}
    assert loaded_rows(tmp_path, "GSM8K", row)[0].answer == "1,050"
    write(tmp_path, "GSM8K", {"question": "How much?"})
    assert "line 1: Expect the answer in field 'answer', got a row" in message(
        lambda: load_benchmark("GSM8K", tmp_path)
    )


def test_the_story_and_the_question_of_svamp_are_joined(tmp_path: Path) -> None:
    row = {"ID": "chal-7", "Body": "He has 2 and 3", "Question": "How many?", "Answer": 5.0, "Type": "Addition"}
    (problem,) = loaded_rows(tmp_path, "SVAMP", row, {**row, "ID": "chal-8", "Body": "He has 2 and 3."})
    assert (problem.id, problem.statement, problem.answer) == ("chal-7", "He has 2 and 3. How many?", "5")


def test_olympiadbench_drops_images_and_proofs_and_has_tolerances(tmp_path: Path) -> None:
    row = {"id": 1, "question": "How many?", "final_answer": ["1,3"], "answer_type": "Numerical", "error": None}
    loaded = loaded_rows(
        tmp_path,
        "OlympiadBench",
        {**row, "context": "There are x.", "final_answer": ["$1$", "$3$"]},
        {**row, "id": 2, "final_answer": ["4.2"], "error": "1e-1"},
        {**row, "id": 3, "image_1": "..."},
        {**row, "id": 4, "final_answer": None},
    )
    assert [problem.answer for problem in loaded] == ["$1$, $3$", "4.2"]
    assert [problem.answer_type for problem in loaded] == ["math", "number?abs_tol=1e-1"]
    assert loaded[0].statement == "There are x. How many?"
    assert loaded.notes[:2] == ("dropped: 1 with an image", "dropped: 1 with a proof, without an answer")


def test_collegemath_drops_answers_in_sentences(tmp_path: Path) -> None:
    answers = ["$x=2$", "495 cookies", "The couch does not move.", r"\mathbf{y}=c_{1} e^{-2 t} \text{ for all of them}"]
    rows = [{"question": f"Question {n}?", "answer": answer} for n, answer in enumerate(answers)]
    loaded = loaded_rows(tmp_path, "CollegeMath", *rows)
    assert "dropped: 1 with an answer in a sentence" in loaded.notes
    assert loaded[1].answer == "495 cookies"


def test_a_set_without_a_pinned_file_says_its_hash_and_drops_what_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"problem": "1?", "answer": 1}, {"problem": "2?", "answer": r"1 + 2 + \cdots + n"}]
    loaded = load_benchmark("AIME26", write(tmp_path, "AIME26", *rows))
    assert (len(loaded), loaded.skipped, is_pinned(loaded)) == (1, 1, False)
    assert loaded.notes[0].startswith("not pinned, SHA-256 ")
    assert loaded.notes[1] == "unreadable answers excluded: 1"
    assert "Problem 'AIME26-2': Expect a right answer that can be read as mathematics" in caplog.text


# --- errors ------------------------------------------------------------------------------------------------------


def test_an_unknown_benchmark_lists_the_known_ones(tmp_path: Path) -> None:
    assert message(lambda: load_benchmark("AIME23", tmp_path)) == (
        f"Expect a benchmark's name, one of {', '.join(BENCHMARKS)}; got 'AIME23'."
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


PINNED = [name for name, benchmark in BENCHMARKS.items() if benchmark.sha256]


@real_files
@pytest.mark.parametrize("name", PINNED)
def test_the_real_benchmark_is_the_pinned_one(name: str) -> None:
    loaded = load_benchmark(name, FOLDER)
    assert len(loaded) == BENCHMARKS[name].n_problems
    assert is_pinned(loaded)
    assert not any("pinned" in note for note in loaded.notes)
    assert "$t(0" not in " ".join(problem.answer for problem in loaded)
    assert not any(problem.statement.endswith("have 3") for problem in loaded)


@real_files
def test_the_patched_torus_problem_is_the_corrected_one() -> None:
    corrections = FOLDER / "AIME24.corrections.jsonl"
    if not corrections.is_file():
        pytest.skip("no AIME24.corrections.jsonl in the folder")
    right = json.loads(corrections.read_text())["problem"]
    assert load_benchmark("AIME24", FOLDER)[28].statement == right.strip()


STEP = {"CollegeMath": 10, "GSM8K": 10, "SVAMP": 10}
"""Of large sets, every so many problems."""


@pytest.mark.slow
@real_files
def test_every_gold_answer_of_the_benchmarks_can_be_graded() -> None:
    with Grader() as grader:
        golds = {problem.answer for name in PINNED for problem in load_benchmark(name, FOLDER)[:: STEP.get(name, 1)]}
        plain = {gold: grader.submit(gold, rf"$\boxed{{ {gold} }}$") for gold in golds}
        wrong = {gold: grader.submit(gold, r"\sqrt{987654321}") for gold in sorted(golds)[::10]}
        assert [gold for gold, future in plain.items() if not future.result().correct] == []
        assert [g for g, future in wrong.items() if future.result().correct or not future.result().valid] == []
