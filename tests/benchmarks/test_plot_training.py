"""Learning curves and before-and-after tables, from the files that a training run writes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from agents.tracking.history import load_training_run
from benchmarks import plot_training

ROWS: Sequence[Mapping[str, float]] = (
    {"step": 0, "validation/accuracy": 0.25, "validation_greedy/accuracy": 0.5, "time/validation_s": 30.0},
    {"step": 1, "accuracy": 0.2, "tools/use_ratio": 0.5, "completions/mean_length": 60.0, "step_time": 45.0},
    {"step": 2, "accuracy": 0.8, "tools/use_ratio": 1.0, "completions/mean_length": 40.0, "step_time": 45.0},
    {"step": 2, "validation/accuracy": 0.875, "validation_greedy/accuracy": 1.0, "time/validation_s": 30.0},
)


def write_run(folder: Path, rows: Sequence[Mapping[str, float]] = ROWS) -> str:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def with_subjects(rows: Sequence[Mapping[str, float]] = ROWS) -> list[Mapping[str, float]]:
    return [
        {**row, "validation/accuracy/gcd": 0.5, "validation/accuracy/series": row["validation/accuracy"]}
        if "validation/accuracy" in row
        else row
        for row in rows
    ]


def test_the_table_says_what_each_run_learned_and_how_long_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plot_training.main([write_run(tmp_path / "seed0"), write_run(tmp_path / "seed1")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| run   | steps | minutes |  sampled, % |    greedy, % | text only, % |",
        "| :---- | ----: | ------: | ----------: | -----------: | -----------: |",
        "| seed0 |     2 |     2.5 | 25.0 → 87.5 | 50.0 → 100.0 |            - |",
        "| seed1 |     2 |     2.5 | 25.0 → 87.5 | 50.0 → 100.0 |            - |",
    ]


def test_a_run_that_is_not_done_has_no_figure_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot_training.main([write_run(tmp_path / "run", ROWS[:3])]) == 0
    assert " 25.0 → - |" in capsys.readouterr().out


def test_the_table_by_subject_has_a_column_for_each_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_run(tmp_path / name, with_subjects()) for name in ("a", "b")]
    assert plot_training.main([*folders, "--by-subject"]) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == [
        "| :------ | ----------: | ----------: |",
        "| gcd     | 50.0 → 50.0 | 50.0 → 50.0 |",
        "| series  | 25.0 → 87.5 | 25.0 → 87.5 |",
    ]


def test_the_json_holds_the_tables_as_fractions(tmp_path: Path) -> None:
    output = tmp_path / "new folder" / "runs.json"
    assert plot_training.main([write_run(tmp_path / "run", with_subjects()), "--json", str(output)]) == 0
    run = json.loads(output.read_text())["run"]
    assert run["minutes"] == 2.5
    assert run["validation/accuracy"] == {"before": 0.25, "after": 0.875}
    assert run["validation_text/accuracy"] == {"before": None, "after": None}
    assert run["validation/accuracy/series"] == {"before": 0.25, "after": 0.875}


def test_every_panel_has_one_line_for_each_run(tmp_path: Path) -> None:
    runs = [load_training_run(Path(write_run(tmp_path / name))) for name in ("a", "b", "c")]
    held_out, training, code, length = plot_training.plot(runs).axes
    first = [np.asarray(p.get_lines()[0].get_ydata()).tolist() for p in (held_out, training, code, length)]
    assert first == [[0.25, 0.875], [0.2, 0.8], [0.5, 1.0], [60.0, 40.0]]
    assert [len(panel.get_lines()) for panel in (training, code, length)] == [3, 3, 3]
    legend = held_out.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["greedy", "sampled"]


def test_every_change_of_the_interaction_budget_is_marked(tmp_path: Path) -> None:
    budgets = ((1, 2.0), (2, 2.0), (3, 3.0), (4, 4.0))
    rows = [*ROWS, *({"step": step, "interaction_budget": budget, "accuracy": 0.5} for step, budget in budgets)]
    run = load_training_run(Path(write_run(tmp_path / "run", rows)))
    assert run.budget_changes == [(3, 3.0), (4, 4.0)]
    held_out, *_ = plot_training.plot([run]).axes
    assert [text.get_text() for text in held_out.texts] == ["budget 3", "budget 4"]


def test_every_subject_has_a_panel(tmp_path: Path) -> None:
    run = load_training_run(Path(write_run(tmp_path / "run", with_subjects())))
    assert [panel.get_title() for panel in plot_training.plot_by_subject([run]).axes] == ["gcd", "series"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.slow
def test_the_picture_is_written_in_the_format_of_its_name(tmp_path: Path, suffix: str) -> None:
    picture = tmp_path / "docs" / f"curves{suffix}"
    assert plot_training.main([write_run(tmp_path / "run"), "--output", str(picture)]) == 0
    assert picture.stat().st_size > 5000


def test_a_folder_without_metrics_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot_training.main([write_run(tmp_path / "run"), str(tmp_path)]) == 2
    assert capsys.readouterr() == (
        "",
        f"plot_training.py: Expect the --output-dir of a training run, got {tmp_path}: no metrics.jsonl in it.\n",
    )


def test_a_run_that_has_written_nothing_yet_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", [])
    assert plot_training.main([folder]) == 2
    assert capsys.readouterr().err == (
        f"plot_training.py: Expect metrics in {folder}/metrics.jsonl, got none: "
        "has the run written its first validation?\n"
    )


def test_by_subject_needs_subjects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "curves.png"
    assert plot_training.main([write_run(tmp_path / "run"), "--by-subject", "--output", str(picture)]) == 2
    assert capsys.readouterr().err == (
        "plot_training.py: Expect runs with several subjects for --by-subject, got none in run.\n"
    )
    assert not picture.exists()


def test_a_picture_of_no_known_format_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot_training.main([write_run(tmp_path / "run"), "--output", str(tmp_path / "curves.doc")]) == 2
    assert capsys.readouterr().err.startswith("plot_training.py: Format 'doc' is not supported")
