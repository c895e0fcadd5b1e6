"""Stored samples are regraded, and imported from other programs, without a model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import evaluate
from agents.core.files import write_json_lines
from agents.core.samples import Sample
from agents.evaluation.lm_eval import read_lm_eval
from agents.evaluation.regrade import accuracy, read_rows, regrade
from cir_env.grading.grader import shared_grader
from cir_env.parsing import final_answer


def sample(answer: str, *texts: str, feedback: str = "", **changes: Any) -> Sample:
    """Return a row of a run; each text except the last is followed by feedback."""
    turns = [
        {"text": text, "feedback": feedback if text != texts[-1] else "", "status": None, "finish_reason": "stop"}
        for text in texts
    ]
    row = {
        "set": "AIME24", "problem_index": 0, "sample": 0, "problem_id": "p", "subject": None, "level": None,
        "problem": "What is it?", "turns": turns, "predicted": None, "answer": answer, "reason": "equal numbers",
        "reward": 1.0, "reward_valid": True, "correct": True, "terminated": True, "truncated": False, "void": False,
        "interactions": 0, "sampled_tokens": 9, "feedback_tokens": 0, "boundary_cuts": 0,
    }  # fmt: skip
    return {**row, **changes}  # type: ignore[typeddict-item]


CODE = "Let me see.\n```python\nprint(r'\\boxed{8}')\n```\n"
OUTPUT = "\n```output\n\\boxed{8}\n```\n"
ROWS = [
    sample("7", r"It is \boxed{7}."),
    sample("7", r"It is \boxed{8}.", sample=1),  # a verdict that changes: it was taken for right
    sample("7", CODE, r"So \boxed{7.0}.", feedback=OUTPUT, problem_index=1, problem_id="q"),
    sample("7", CODE, "No box.", feedback=OUTPUT, problem_index=1, sample=1, correct=False, reward=-1.0),
    sample("7", "", problem_index=2, reward_valid=False, correct=False, reward=0.0, reason=None),
    sample(r"\sqrt{8}", r"\boxed{2\sqrt{2}}", set="MATH500", correct=False, reward=-1.0),
    sample(r"\sqrt{8}", r"\boxed{3\sqrt{2}}", set="MATH500", problem_index=1, correct=False, reward=-1.0),
    sample("(((", r"\boxed{\sqrt{2}}", set="MATH500", problem_index=2, correct=False, reward=-1.0),
]


def judged(rows: Sequence[Sample]) -> Any:
    return regrade(rows, shared_grader().submit, final_answer)


@pytest.mark.slow
def test_a_verifier_sees_the_metadata_of_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_regrading.py").write_text(
        "def check(gold, answer, metadata): return answer in metadata['also']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [sample("7", r"\boxed{8}", metadata={"also": also}) for also in (["8"], ["9"])]
    regrading = regrade(rows, shared_grader().submit, final_answer, answer_type="users_regrading:check")
    assert [row["correct"] for row in regrading.rows] == [True, False]


def command(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = evaluate.main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_answer_in_the_text_is_judged_not_program_output() -> None:
    regrading = judged(ROWS)
    assert [row["predicted"] for row in regrading.rows[:4]] == ["7", "8", "7.0", None]
    assert [row["correct"] for row in regrading.rows] == [True, False, True, False, False, True, False, False]
    assert [(c.before["correct"], c.after["correct"]) for c in regrading.changes] == [(True, False), (False, True)]
    assert regrading.rows[1]["reward"] == -1.0
    assert regrading.rows[0] == {**ROWS[0], "predicted": "7", "reason": "same text"}


def test_invalid_rows_stay_invalid_and_broken_gold_answers_become_invalid() -> None:
    regrading = judged(ROWS)
    assert (regrading.still_invalid, regrading.newly_invalid) == (1, 1)
    assert regrading.rows[4] == ROWS[4]
    assert (regrading.rows[7]["reward_valid"], regrading.rows[7]["reward"]) == (False, 0.0)


def test_accuracies_are_means_over_problems_with_judged_samples() -> None:
    assert accuracy(ROWS[:5]) == pytest.approx((1 + 1 / 2) / 2)
    assert judged(ROWS).accuracies == {"AIME24": (0.75, 0.5), "MATH500": (0.0, 0.5)}
    assert accuracy(ROWS[4:5]) is None


def test_the_answer_type_comes_from_the_row_or_the_call() -> None:
    rows = [sample("314", r"\boxed{317}", correct=False), sample("314", r"\boxed{317}", correct=False)]
    rows[0]["answer_type"] = "number?rel_tol=0.01"  # type: ignore[typeddict-unknown-key]
    assert [row["correct"] for row in judged(rows).rows] == [True, False]
    loose = regrade(rows[1:], shared_grader().submit, final_answer, answer_type="number?rel_tol=0.01")
    assert loose.rows[0]["correct"]


def test_the_command_writes_a_new_file_and_lists_the_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "samples.jsonl"
    write_json_lines(path, ROWS)
    before = path.read_bytes()
    code, out, _ = command(capsys, "regrade", path)
    assert code == 0
    assert "8 samples: 2 verdicts changed, 1 still invalid, 1 newly invalid." in out
    assert "| p, sample 1 |         8 |            7 |  right | wrong |   another number |" in out
    assert "| AIME24  |            75.0 |           50.0 |" in out
    assert path.read_bytes() == before
    assert read_rows(tmp_path / "regraded-samples.jsonl") == list(judged(ROWS).rows)
    code, out, err = command(capsys, "regrade", path)
    assert (code, out) == (2, "")
    assert "is there: choose another --output" in err


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_an_lm_eval_file_is_read_with_verdicts_and_gold_answers(tmp_path: Path) -> None:
    solution = {
        "doc_id": 4, "doc": {"question": "2 + 2?"}, "target": "Count. #### 4", "arguments": [["Q: 2 + 2?", {}]],
        "resps": [["So \\boxed{4}."]], "filtered_resps": ["4"], "filter": "strict", "metrics": ["exact_match"],
        "exact_match": 0.0,
    }  # fmt: skip
    again = {**solution, "filter": "flexible", "exact_match": 1.0}
    path = lines(tmp_path / "samples_gsm8k_2026-01-02T03-04-05.678901.jsonl", solution, again)
    (row,) = read_lm_eval(path, final_answer)
    assert (row["set"], row["problem_index"], row["problem"], row["answer"]) == ("gsm8k", 4, "2 + 2?", "4")
    assert (row["correct"], row["reason"]) == (False, "judged elsewhere")
    assert [change.after["correct"] for change in judged([row]).changes] == [True]


def test_plain_json_lines_are_read_by_field_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lines(
        tmp_path / "mine.jsonl",
        {"q": "1 + 1?", "gold": 2, "text": [r"\boxed{2}", r"\boxed{3}"]},
        {"q": "1 + 1?", "gold": 2, "text": r"\boxed{2.0}"},
    )
    fields = ("--format", "jsonl", "--problem", "q", "--answer", "gold", "--completion", "text")
    assert command(capsys, "import", path, *fields)[0] == 0
    code, out, _ = command(capsys, "regrade", tmp_path / "imported-mine")
    assert code == 0
    assert "3 samples: 0 verdicts changed" in out
    assert "| mine |               - |           66.7 |" in out
    rows = read_rows(tmp_path / "regraded-imported-mine" / "samples.jsonl")
    assert [(row["problem_index"], row["sample"], row["correct"]) for row in rows] == [
        (0, 0, True),
        (0, 1, False),
        (0, 2, True),
    ]


def test_imported_samples_are_regraded_reported_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"q": "1 + 1?", "gold": 2, "text": [r"\boxed{2}", r"\boxed{3}"]},
        {"q": "2 + 2?", "gold": 4, "text": r"\boxed{4}"},
    ]
    fields = ("--format", "jsonl", "--problem", "q", "--answer", "gold", "--completion", "text")
    for name, given in (("one", rows), ("other", [{**row, "text": "I do not know."} for row in rows])):
        path = lines(tmp_path / "mine.jsonl", *given)
        code, out, _ = command(capsys, "import", path, *fields, "--name", name, "--output", tmp_path / name)
        assert code == 0
        assert "2 that are missing" not in out
        assert ("1 that are missing count as not judged." in out) is (name == "one")
        assert command(capsys, "regrade", tmp_path / name)[0] == 0
    code, out, _ = command(capsys, "report", tmp_path / "regraded-one", "--output", tmp_path / "page.html")
    assert code == 0
    assert "| mine |        2 |  2 | 75.0 " in out
    assert "1 + 1?" in (tmp_path / "page.html").read_text()
    code, out, _ = command(capsys, "compare", tmp_path / "regraded-one", tmp_path / "one")
    assert code == 0
    assert "A: one (imported)\nB: one (imported)\n   regraded.grader: 3 -> none" in out


def test_nested_fields_and_messages_are_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "python", "arguments": "1+1"}}]}
    talk = [call, {"role": "tool", "content": "2"}, {"role": "assistant", "content": r"So \boxed{2}."}]
    question = [{"role": "system", "content": "Solve."}, {"role": "user", "content": "1 + 1?"}]
    nodes = [{"message": message} for message in [*question, *talk]]
    row = {"task": {"data": {"prompt": question, "answer": "2"}}, "nodes": nodes, "completion": talk}
    path = lines(tmp_path / "traces.jsonl", row)
    for completion in ("nodes", "completion"):
        output = tmp_path / completion
        fields = ("--problem", "task.data.prompt", "--answer", "task.data.answer", "--completion", completion)
        assert command(capsys, "import", path, "--format", "jsonl", *fields, "--output", output)[0] == 0
        (read,) = read_rows(output / "samples.jsonl")
        assert (read["problem"], read["answer"], read["interactions"]) == ("1 + 1?", "2", 1)
        assert [(turn["text"], turn["feedback"]) for turn in read["turns"]] == [
            ("\npython(1+1)", "2"),
            (r"So \boxed{2}.", ""),
        ]
        assert "| traces |" in command(capsys, "regrade", output)[1]


def test_samples_alone_are_imported_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lines(tmp_path / "mine.jsonl", {"problem": "?", "answer": 1, "completion": "1"})
    assert command(capsys, "import", path, "--format", "jsonl", "--output", tmp_path / "new.jsonl")[0] == 0
    assert len(read_rows(tmp_path / "new.jsonl")) == 1


@pytest.mark.parametrize(
    ("content", "args", "message"),
    [
        ('{"a": 1}\n', ("regrade",), "line 1: Expect a sample's JSON object, got b'{\"a\": 1}'."),
        ("[1]\n", ("import",), "line 1: Expect a JSON object, got b'[1]'."),
        (json.dumps(ROWS[0])[:-9], ("regrade",), "line 1: Expect complete lines, got a partial one"),
        ('{"problem": "?"', ("import", "--format", "jsonl"), "line 1: Expect a JSON object, got "),
        ("", ("regrade",), "Expect at least one sample in"),
        ('{"doc_id": 1}\n', ("import",), "line 1: Expect a sample of lm_eval --log_samples, got no 'doc'."),
        (
            '{"doc_id": 0, "doc": {}, "target": "A", "resps": [[[-1.5, false]]]}\n',
            ("import",),
            "line 1: Expect texts in 'resps', got [[-1.5, False]]: is it multiple choice?",
        ),
        (
            '{"doc_id": "a", "doc": 1, "target": 1, "resps": 1}\n',
            ("import",),
            "Expect 'doc_id' to be a number, got 'a'.",
        ),
        ('{"doc_id": 0, "doc": 1, "target": 1, "resps": 1}\n', ("import",), "Expect texts in 'resps', got None"),
        (
            '{"doc_id": 0, "doc": {}, "target": "", "resps": [[]], "metrics": 1}\n',
            ("import",),
            "Expect at least one text",
        ),
        ('{"problem": "?"}\n', ("import", "--format", "jsonl"), "line 1: Expect the field 'answer', got problem."),
        (
            '{"problem": "?", "answer": 1, "completion": 2}\n',
            ("import", "--format", "jsonl"),
            "Expect a text or a list",
        ),
    ],
)
def test_a_malformed_file_exits_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, args: tuple[str, ...], message: str
) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text(content)
    code, out, err = command(capsys, args[0], path, *args[1:])
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_missing_file_exits_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command(capsys, "regrade", tmp_path / "none.jsonl")
    assert code == 2
    assert err.count("\n") == 1


def test_verdicts_are_printed_even_if_they_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lines(tmp_path / "samples.jsonl", sample("4", r"\boxed{4}"))
    code, out, err = command(capsys, "regrade", path, "--output", path / "new.jsonl")
    assert code == 1
    assert "1 samples: 0 verdicts changed" in out
    assert err.count("\n") == 1
