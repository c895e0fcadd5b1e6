"""Training runs on the terminal: reported on, and compared with paired intervals where results are kept."""

import json
from pathlib import Path

import pytest
from reports import row, write_rows, write_run, write_training, wrong

import evaluate
from agents.evaluation.training_runs import compare_training, report_on_training


def keep_results(folder: Path, *outcomes: bool) -> None:
    """Keep the result of every problem of the validation after step 4."""
    rows = [(row if right else wrong)(n, set="products") for n, right in enumerate(outcomes)]
    write_rows(folder / "samples.jsonl", [{"step": 4, "kind": "validation", **each} for each in rows])
    (folder / "run.json").write_text(json.dumps({"config": {"validation": {"num_problems": len(outcomes)}}}))


def test_a_training_run_is_reported_on_without_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_training(tmp_path / "one")
    assert evaluate.main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "| held out, sampled    |  25.0 -> 87.5 |" in out
    assert f"As a page: python evaluate.py report {folder} --output report.html" in out
    assert "| best (step)          |      87.5 (4) |" in report_on_training([folder])


def test_two_training_runs_are_compared_by_their_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = write_training(tmp_path / "one"), write_training(tmp_path / "other")
    assert evaluate.main(["compare", str(one), str(other)]) == 0
    out = capsys.readouterr().out
    assert "| last common step |    4 | 87.5 | 87.5 |   0.0 |     no |" in out
    assert "Not paired: " in out
    assert max(map(len, out.splitlines()[2:])) <= 80


def test_kept_results_give_a_paired_interval(tmp_path: Path) -> None:
    one, other = write_training(tmp_path / "one"), write_training(tmp_path / "other")
    keep_results(one, True, False, True, False)
    keep_results(other, True, True, True, False)
    text = compare_training(one, other)
    assert "| 25.0 [0.0, 75.0] |      4 |" in text
    assert "Not paired" not in text


def test_results_that_are_not_complete_are_not_paired(tmp_path: Path) -> None:
    one, other = write_training(tmp_path / "one"), write_training(tmp_path / "other")
    keep_results(one, True, False)
    keep_results(other, True, False)
    (other / "run.json").write_text(json.dumps({"config": {"validation": {"num_problems": 64}}}))
    assert "Not paired" in compare_training(one, other)


def test_runs_without_a_common_validation_say_so(tmp_path: Path) -> None:
    one, other = write_training(tmp_path / "one"), write_training(tmp_path / "other")
    write_rows(other / "metrics.jsonl", [{"step": 1, "accuracy": 0.5, "step_time": 1.0}])
    assert compare_training(one, other).endswith("No step has a validation of both runs.")


@pytest.mark.parametrize("command", ["compare", "report"])
def test_an_evaluation_beside_a_training_run_is_refused(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(write_training(tmp_path / "one")), str(write_run(tmp_path / "two", [row()]))]
    assert evaluate.main([command, *folders]) == 2
    assert capsys.readouterr().err == "evaluate.py: Expect `runs` to be evaluations or training runs, got both.\n"
