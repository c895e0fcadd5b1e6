"""The paper's claims, measured from evaluations of two models."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from reports import row, write_run, wrong

from experiments.claims import main


class Evaluations:
    """Stands for evaluate.py: the model after training solves with code what the one before misses."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> int:
        self.calls.append(list(command[2:]))
        output = Path(command[command.index("--output") + 1])
        for model in ("old", "new"):
            for arm in command[command.index("--arms") + 1 : command.index("--num-samples")]:
                solves = model == "new" and arm.startswith("code") and arm != "code:0"
                make = row if solves else wrong
                rows = [make(index, subject=subject) for index, subject in enumerate(("Algebra", "Geometry"))]
                write_run(output / model / arm.replace(":", "-"), rows, model=model, arm=arm)
        return 0


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Evaluations:
    made = Evaluations()
    monkeypatch.setattr("agents.core.programs.run", made)
    return made


def lines_with(text: str, begin: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {begin}")]


def test_the_page_compares_both_models_in_every_arm(evaluations: Evaluations, tmp_path: Path) -> None:
    assert main(["--before", "old", "--after", "new", "--output", str(tmp_path)]) == 0
    page = (tmp_path / "claims.md").read_text()
    assert "100.0 [15.8, 100.0]" in lines_with(page, "after code ")[0]
    assert "100.0 [" in lines_with(page, "after code - before code")[0]
    assert "100.0 [" in lines_with(page, "Geometry")[0]
    budgets = lines_with(page, "after, ")[-1]
    assert budgets.count("100.0 [") == 4
    assert lines_with(page, "  gain over a budget of 0")[-1].count("100.0 [") == 4


def test_flags_of_evaluate_reach_both_evaluations(evaluations: Evaluations, tmp_path: Path) -> None:
    own = ["--before", "old", "--after", "new", "--output", str(tmp_path), "--samples", "4", "--budget-samples", "2"]
    assert main([*own, "--names", "MATH500", "--num-problems", "7"]) == 0
    assert [call[-4:] for call in evaluations.calls] == [["--names", "MATH500", "--num-problems", "7"]] * 2
    assert [call[call.index("--num-samples") + 1] for call in evaluations.calls] == ["4", "2"]


def test_a_failed_evaluation_ends_the_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.core.programs.run", lambda command: 2)
    assert main(["--before", "old", "--after", "new", "--output", str(tmp_path)]) == 2
    assert not (tmp_path / "claims.md").exists()


def test_one_model_cannot_be_compared_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--before", "old", "--after", "old", "--output", str(tmp_path)])
    assert "Expect `after` to be another model than before" in capsys.readouterr().err
