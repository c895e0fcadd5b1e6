"""The content of the HTML report; test_browser.py tests its behavior in a browser."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import HOSTILE, hostile_row, ran, row, some_rows, write_page, write_rows, write_run, write_training, wrong

import evaluate
from agents.config.evaluation import PAPER_SETS
from agents.core.errors import ConfigError, RunError
from agents.evaluation.comparison import compare
from agents.evaluation.metrics import summarise
from agents.evaluation.run_folder import read_run
from agents.report import report_training
from agents.report.evaluation_page import evaluation_page
from agents.report.formulas import Formulas
from agents.report.paper import PUBLISHED
from agents.report.parts import Page, Settings, Table
from agents.report.viewer import Transcripts, facet_counts, segments


def table_of(tables: Any, title: str) -> dict[str, list[str]]:
    """Return the cells of the table whose title starts with ``title``, by row name."""
    (found,) = [table for table in tables if table.title.startswith(title)]
    assert isinstance(found, Table)
    return {cells[0].text: [cell.text for cell in cells[1:]] for cells in found.rows}


def all_tables(folder: Path, rows: list[dict[str, Any]]) -> list[Table]:
    run = read_run(write_run(folder / "run", rows))
    page = evaluation_page({"mine": run}, {"mine": summarise(run)}, Settings())
    return [table for section in page.sections for table in section.tables]


def cells_of(folder: Path, rows: list[dict[str, Any]], title: str, row: str) -> list[tuple[str, str]]:
    """Return text and detail of each cell of a row."""
    (table,) = [table for table in all_tables(folder, rows) if table.title.startswith(title)]
    return next([(cell.text, cell.detail) for cell in cells[1:]] for cells in table.rows if cells[0].text == row)


def items(samples: Any) -> list[dict[str, Any]]:
    return Transcripts(samples).items


def data_of(html: str) -> Any:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(data)


def test_the_results_exclude_unjudged_samples(tmp_path: Path) -> None:
    rows = [row(0, 0), wrong(0, 1), row(1, 0), wrong(1, 1, reward_valid=False)]
    metrics = table_of(all_tables(tmp_path, rows), "AIME24")
    assert metrics["avg@k, %"] == ["75.0"]
    assert metrics["majority@k, %"] == ["50.0"]  # of the first problem: a tie is half a majority
    assert metrics["unjudged"] == ["1"]
    ((_, interval),) = cells_of(tmp_path, rows, "AIME24", "avg@k, %")
    assert interval.startswith("[50.0, ")


def test_the_endings_are_shares_of_all_transcripts(tmp_path: Path) -> None:
    cut = wrong(1, 0, terminated=False, truncated=True, void=True)
    metrics = table_of(all_tables(tmp_path, [row(0, 0), cut]), "AIME24")
    assert [metrics[name] for name in ("finished, %", "cut off, %", "void, %", "unjudged")] == [
        *[["50.0"]] * 3,
        ["0"],
    ]


def test_lengths_are_given_of_all_and_of_right_transcripts(tmp_path: Path) -> None:
    rows = [row(0, 0, sampled_tokens=100), wrong(1, 0, sampled_tokens=300)]
    metrics = table_of(all_tables(tmp_path, rows), "AIME24")
    assert (metrics["tokens"], metrics["tokens, right"]) == (["200"], ["100"])


def test_the_comparison_with_the_paper_covers_the_common_sets(tmp_path: Path) -> None:
    rows = [row(0), wrong(1), row(0, set="AMC23"), row(1, set="AMC23"), row(set="mine")]
    table = table_of(all_tables(tmp_path, rows), "Accuracy in percent")
    assert next(iter(table)) == "mine"
    assert table["mine"] == ["yes", "50.0", "100.0", "75.0"]
    assert table["CIR, Qwen2.5-Math-7B"] == ["yes", "42.3", "74.2", "58.2"]


def test_other_problem_sets_are_not_compared_with_the_paper(tmp_path: Path) -> None:
    assert not [
        table for table in all_tables(tmp_path, [row(set="mine")]) if table.title.startswith("Accuracy in percent")
    ]


def test_the_papers_rows_have_its_printed_means() -> None:
    means = [round(sum(p.accuracies.values()) / len(PAPER_SETS), 1) for p in PUBLISHED]
    assert means == [27.3, 40.2, 32.0, 37.6, 39.3, 50.5, 52.7, 66.3]


def test_accuracy_by_subject_and_level(tmp_path: Path) -> None:
    tables = all_tables(tmp_path, some_rows())
    assert table_of(tables, "By subject") == {"Algebra": ["50.0"], "Geometry": ["42.9"]}
    assert table_of(tables, "By level") == {"1": ["50.0"], "2": ["50.0"], "3": ["33.3"]}
    assert cells_of(tmp_path, some_rows(), "By level", "3")[0][1].endswith("n = 3")


def test_transcripts_are_classified_by_the_outcome_of_their_blocks(tmp_path: Path) -> None:
    tables = all_tables(tmp_path, some_rows())
    assert table_of(tables, "Outcome of code blocks: AIME24") == {
        "no code ran": ["0.0"],
        "all ran": ["100.0"],
        "some failed": ["0.0"],
        "all failed": ["100.0"],
    }
    assert table_of(tables, "Recovery") == {"AIME24": ["60.0"], "OlymMATH-EN-EASY": ["60.0"]}
    assert table_of(tables, "Errors of code blocks") == {"NameError": ["25.0"], "timeout": ["25.0"]}


def two_runs(folder: Path) -> Page:
    rows = [[row(n, 0) if n % 2 else wrong(n, 0) for n in range(4)], [row(n, 0, sampled_tokens=50) for n in range(4)]]
    runs = {name: read_run(write_run(folder / name, rows[number])) for number, name in enumerate("ab")}
    return evaluation_page(runs, {name: summarise(run) for name, run in runs.items()}, Settings())


def test_several_runs_are_the_columns(tmp_path: Path) -> None:
    tables = [table for section in two_runs(tmp_path).sections for table in section.tables]
    assert {tuple(table.header[-2:]) for table in tables if table.title in ("avg@k, %", "AIME24")} == {("a", "b")}
    assert table_of(tables, "avg@k")["AIME24"] == ["50.0", "100.0"]


def test_the_differences_are_those_of_compare_and_link_to_the_transcripts(tmp_path: Path) -> None:
    page = two_runs(tmp_path)
    (table,) = next(section.tables for section in page.sections if section.id == "differences")
    cells = {cells[0].text: cells[1] for cells in table.rows}
    gain = compare(*(read_run(tmp_path / name) for name in "ab"))["AIME24"].gain.as_json()
    assert gain is not None
    assert cells["avg@k, points"].text == "+50.0"
    assert cells["avg@k, points"].detail == f"[{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
    assert cells["tokens, ×"].text == "0.50"
    assert cells["solved here, missed by the first"].link == "#?solved=b&missed=a"


def test_runs_on_other_problems_have_no_differences(tmp_path: Path) -> None:
    runs = {name: read_run(write_run(tmp_path / name, [row(set=name)])) for name in "ab"}
    page = evaluation_page(runs, {name: summarise(run) for name, run in runs.items()}, Settings())
    assert "differences" not in [section.id for section in page.sections]


@given(st.text(alphabet="`~py\n #x=1", max_size=60) | st.text())
def test_segments_concatenate_to_the_text(text: str) -> None:
    parts = segments(text)
    assert "".join(part if isinstance(part, str) else "".join(part[1::2]) for part in parts) == text


def test_a_transcripts_link_is_made_of_set_problem_and_sample() -> None:
    samples: Any = [row(3, 1, set="my set/a"), row(3, 1, set="my set/a")]
    assert [item["link"] for item in items({"mine": samples})] == ["my%20set%2Fa/3/1", "my%20set%2Fa/3/1/2"]
    both = items({"a": samples[:1], "b": samples[:1]})
    assert [item["link"] for item in both] == ["a/my%20set%2Fa/3/1", "b/my%20set%2Fa/3/1"]


def test_levels_are_offered_in_the_order_of_numbers() -> None:
    samples: Any = [row(level=level) for level in ("10", "9", 9)]
    assert facet_counts(items({"mine": samples}))["level"] == [("9", 2), ("10", 1)]


def test_rare_errors_are_merged() -> None:
    samples: Any = [row(turns=[ran(f"E{n}Error: x", "error")]) for n in range(40)]
    errors = facet_counts(items({"mine": samples}))["error"]
    assert len(errors) == 30
    assert dict(errors)["other"] == 11


def test_hostile_text_stays_data(tmp_path: Path) -> None:
    html = write_page(tmp_path / "report.html", write_run(tmp_path / "run", [hostile_row(), row()], model=HOSTILE))
    data = data_of(html)
    assert data["problems"][0]["statement"] == [HOSTILE]
    assert data["items"][0]["turns"][1]["parts"] == [HOSTILE]
    assert html.count("<script") == 4  # data, plotly, and ours
    assert "<img" not in html


def test_samples_of_a_problem_share_its_statement_and_prompt() -> None:
    samples: Any = [row(0, 0, prompt="<s>"), row(0, 1, prompt="<s>"), row(1, 0)]
    data = Transcripts({"mine": samples}).as_json()
    assert [item["problem"] for item in data["items"]] == [0, 0, 1]
    assert [problem["prompt"] for problem in data["problems"]] == ["<s>", ""]


def test_the_heading_says_what_was_measured_and_how(tmp_path: Path) -> None:
    html = write_page(tmp_path / "report.html", write_run(tmp_path / "run", [row()], model="my/model"))
    assert "<h1>my/model (code) on AIME24</h1>" in html
    assert html.index("<dt>Samples per problem") < html.index("<summary>All settings") < html.index("<dt>Weights")
    assert "<dt>top_p</dt><dd>0.95</dd>" in html
    assert "<dt>Samples per problem</dt><dd>1</dd>" in html


def test_settings_that_differ_between_sets_are_listed_by_set(tmp_path: Path) -> None:
    rows = [row(), row(set="MATH500"), row(0, 1, set="MATH500")]
    html = write_page(tmp_path / "report.html", write_run(tmp_path / "run", rows))
    assert "<dd>1 (AIME24), 2 (MATH500)</dd>" in html


def test_two_runs_stand_side_by_side(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", [row()], model="/some/where/a")
    html = write_page(tmp_path / "report.html", one, write_run(tmp_path / "b", [wrong()], model="b"))
    assert "<h1>where/a (code) and b (code) on AIME24</h1>" in html
    assert re.findall(r'rowheader" scope="row">(\w+)', html)[0] == "Model"  # the only setting that differs
    assert [item["facets"]["evaluation"] for item in data_of(html)["items"]] == [["where/a (code)"], ["b (code)"]]


def test_runs_of_one_model_and_arm_are_called_by_their_folders(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, [row()]) for name in ("a", "b")]
    html = write_page(tmp_path / "report.html", *folders)
    assert [item["facets"]["evaluation"] for item in data_of(html)["items"]] == [[str(folder)] for folder in folders]


def test_a_training_run_has_learning_curves_and_its_samples_by_step(tmp_path: Path) -> None:
    report_training([write_training(tmp_path / "run")], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "<h1>Training run run</h1>" in html
    assert "25.0 → 87.5" in html
    assert "Dotted lines mark changes of the interaction budget: 3 from step 3." in html
    assert "Accuracy on held-out problems, %. sampled: 25% in step 0, 87.5% in step 4" in html
    assert "Always zero, and not drawn: staleness of sampled tokens, updates." in html
    assert [item["facets"]["step"] for item in data_of(html)["items"]] == [["4"], ["3"], ["2"], ["1"], ["0"]]


def test_blocks_by_level_have_a_chart_with_a_curve_for_each_level(tmp_path: Path) -> None:
    levels = {"tools/call_frequency/level/1": 1.0, "tools/call_frequency/level/2": 2.5}
    write_rows(tmp_path / "run" / "metrics.jsonl", [{"step": step, "step_time": 1.0, **levels} for step in (1, 2)])
    report_training([tmp_path / "run"], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "Blocks per episode by level. 1: 1 in step 1, 1 in step 2. 2: 2.5 in step 1, 2.5 in step 2" in html


def test_a_training_run_may_still_be_running(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_rows(folder / "metrics.jsonl", [{"step": 0, "validation/accuracy": 0.25}])
    report_training([folder], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "<strong>25.0</strong>" in html
    assert data_of(html)["items"] == []


# ---------------------------------------------------------------------------------------------------------- formulas


def source(formulas: Formulas, text: str) -> list[str]:
    """Return the sources of a text's formulas."""
    return [formulas.found[part][0] for part in formulas.split(text) if isinstance(part, int)]


@given(st.text(alphabet="$\\()[]{}boxed1 \n^_", max_size=40) | st.text())
def test_text_and_formulas_concatenate_to_the_input(text: str) -> None:
    formulas = Formulas()
    parts = formulas.split(text)
    assert "".join(part if isinstance(part, str) else formulas.found[part][0] for part in parts) == text


def test_formulas_are_found_in_every_notation() -> None:
    text = r"Let $a^2$ and \(b\): \[c\] $$d$$ so \boxed{\frac{1}{2}}."
    assert source(Formulas(), text) == ["$a^2$", r"\(b\)", r"\[c\]", "$$d$$", r"\boxed{\frac{1}{2}}"]


@pytest.mark.parametrize(
    "text", ["$5 and $6", r"costs \$5$", "$ x $", "a$", r"$\nosuchcommand{3}$", "$" + "{" * 99 + "$"]
)
def test_prices_and_what_cannot_be_parsed_stay_text(text: str) -> None:
    assert Formulas().split(text) == [text]


def test_links_and_styles_in_formulas_do_not_pass() -> None:
    formulas = Formulas()
    formulas.split(r"$\href{javascript:alert(1)}{x}$ $\color{red}{y}$ $\style{width:9em}{z}$")
    assert "javascript" not in str([tree for _, tree in formulas.found])
    assert "red" not in str([tree for _, tree in formulas.found])


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command_writes_the_page_beside_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs" / "mine", some_rows())
    output = tmp_path / "new" / "report.html"
    assert evaluate.main(["report", str(tmp_path / "runs"), "--output", str(output)]) == 0
    assert capsys.readouterr().out.endswith(f"Page: {output}\n")
    assert len(data_of(output.read_text())["items"]) == 24


def test_the_page_is_made_even_where_the_summary_can_not_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = write_run(tmp_path / "run", some_rows()), tmp_path / "report.html"
    (run / "summary.json").mkdir()
    assert evaluate.main(["report", str(run), "--output", str(output)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert len(data_of(output.read_text())["items"]) == 24


def test_the_command_takes_training_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "report.html"
    assert evaluate.main(["report", str(write_training(tmp_path / "run")), "--output", str(output)]) == 0
    assert capsys.readouterr().out.endswith(f"\nPage: {output}\n")


@pytest.mark.parametrize("library", ["jinja2", "plotly"])
def test_a_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(RunError, match=rf'the library {library}: pip install -e "\.\[report\]"'):
        report_training([write_training(tmp_path / "run")], tmp_path / "report.html")


def test_an_output_that_is_a_folder_is_rejected(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "run")
    with pytest.raises(RunError, match="Expect `output` to be a file, got the folder"):
        report_training([folder], tmp_path)


def test_an_output_below_a_file_is_rejected(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"Expect `output` where .*metrics.jsonl/report.html can be made, got "):
        report_training([folder], folder / "metrics.jsonl" / "report.html")


def test_a_folder_without_a_training_run_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no metrics\.jsonl in it"):
        report_training([tmp_path], tmp_path / "report.html")


def test_a_malformed_sample_is_rejected(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "run")
    (folder / "samples.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="line 1: Expect a sample"):
        report_training([folder], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_malformed_trainer_state_is_rejected(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "run")
    (folder / "checkpoint-4").mkdir()
    (folder / "checkpoint-4" / "trainer_state.json").write_text("[]")
    with pytest.raises(RunError, match="Expect a trainer's state"):
        report_training([folder], tmp_path / "report.html")
