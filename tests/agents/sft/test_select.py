"""Which of a model's samples are worth learning from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from eval_fakes import row

import evaluate
from agents.core.files import write_json_lines
from agents.core.samples import Sample, read_samples
from agents.sft.select import Selection, repairs, select
from cir_env.parsing import find_block


def sample(*statuses: str, code: str = "print(6)", problem: str = "a", **changes: Any) -> Sample:
    """A right sample whose blocks ended so; the last one holds the code."""
    made = row(blocks=statuses, **({"problem": problem, "correct": True} | changes))
    if statuses:
        made["turns"][-2]["text"] = f"```python\n{code}\n```\n"
    return made


def choose(*rows: Sample, **settings: Any) -> Selection:
    return select(rows, find_block, **settings)


def test_only_right_samples_that_ended_are_kept_and_the_others_are_counted_with_their_reasons() -> None:
    rows = [
        sample("ok"),
        sample("ok", correct=False),
        sample("ok", reward_valid=False),
        sample("ok", terminated=False),
        sample("error"),
        sample(),
        sample("ok") | {"kind": "validation"},
    ]
    selection = choose(*rows)
    assert selection.rows == rows[:1]
    assert selection.in_words().splitlines() == [
        "Kept: 1 of 7 samples, of 1 problems.",
        "Executions: 1.00 per sample; 0 samples repair a failed one.",
        "Dropped: 1 with a wrong answer.",
        "Dropped: 1 that an infrastructure error made invalid.",
        "Dropped: 1 that did not end.",
        "Dropped: 2 with fewer than 1 executions without an error.",
        "Dropped: 1 of held-out problems.",
    ]


def test_the_same_code_and_answer_is_kept_once_for_each_problem() -> None:
    rows = [
        sample("ok", code="print(6)"),
        sample("ok", code="# six\nprint(6)  \n"),
        sample("ok", code="print(3 + 3)"),
        sample("ok", code="print(6)", problem="b"),
    ]
    selection = choose(*rows)
    assert selection.rows == [rows[0], rows[2], rows[3]]
    assert selection.dropped == {"with the code and the answer of another": 1}


def test_repaired_and_then_denser_samples_come_first() -> None:
    rows = [sample("ok", code="1"), sample("ok", "ok", code="2"), sample("error", "ok", code="3")]
    assert choose(*rows).rows == rows[::-1]
    assert choose(*rows, max_per_problem=1).rows == rows[2:]
    assert choose(*rows, max_per_problem=1).dropped == {"beyond 1 of a problem": 2}
    assert choose(*rows, min_calls=2).rows == rows[1:2]
    assert choose(*rows, repaired_only=True).rows == rows[2:]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [(("error", "ok"), True), (("ok", "error"), False), (("ok", "timeout", "ok"), True), (("ok",), False), ((), False)],
)
def test_a_repair_is_a_success_after_a_failure(statuses: Sequence[str], expected: bool) -> None:
    assert repairs(sample(*statuses)) is expected


def test_without_code_samples_differ_by_their_text() -> None:
    rows = [sample(), sample(), sample()]
    rows[1]["turns"][-1]["text"] = "other  text"
    assert choose(*rows, min_calls=0).rows == rows[:2]


def test_a_sample_whose_last_block_was_not_run_is_dropped() -> None:
    made = sample("ok")
    made["turns"][-1]["text"] = "```python\nprint(6)\n```\n```output\n6\n```\nSo 6."
    assert choose(made).dropped == {"with code that was not run": 1}


def test_the_command_writes_what_train_takes_and_refuses_to_overwrite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json_lines(tmp_path / "run" / "samples.jsonl", [sample("ok"), sample("ok", correct=False)])
    output = tmp_path / "chosen.jsonl"
    command = ["select", str(tmp_path / "run"), "--output", str(output)]
    assert evaluate.main(command) == 0
    assert read_samples(output)[0] == [sample("ok")]
    assert capsys.readouterr().out.endswith(f"Learn from them: python train.py sft --transcripts {output}\n")
    assert evaluate.main(command) == 2
    assert "is there: choose another --output." in capsys.readouterr().err


def test_an_empty_selection_is_an_error_that_follows_the_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json_lines(tmp_path / "samples.jsonl", [sample("ok", correct=False)])
    assert evaluate.main(["select", str(tmp_path / "samples.jsonl"), "--output", str(tmp_path / "new")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "Kept: 0 of 1 samples, of 0 problems.\nDropped: 1 with a wrong answer.\n"
    assert printed.err == "evaluate.py: Expect at least one sample to keep, got none.\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("path", ["none.jsonl", "."])
def test_a_place_without_samples_is_named(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["select", str(tmp_path / path), "--output", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err == f"evaluate.py: Expect samples in {tmp_path / path}, got none.\n"
