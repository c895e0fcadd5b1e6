"""Tables of metrics."""

import pytest
from eval_fakes import outcomes, row, run_of

from agents.core.errors import ConfigError
from agents.evaluation import tables
from agents.evaluation.metrics import summarise


def test_each_set_has_scores_and_several_sets_have_a_mean() -> None:
    run = run_of(AIME=outcomes([True, False], [False, False]), AMC=outcomes([True]))
    lines = tables.report([summarise(run)], k=[1, 2]).splitlines()
    assert lines[0] == "A (code)"
    cells = [[cell.split(" [")[0].strip() for cell in line.split("|")[1:-1]] for line in lines[2:7]]
    assert cells[0] == ["set", "problems", "n", "avg@n", "problems fixed", "majority@n", "pass@1", "pass@2"]
    assert cells[2] == ["AIME", "2", "2", "25.0", "25.0", "25.0", "25.0", "50.0"]
    assert cells[3] == ["AMC", "1", "1", "100.0", "100.0", "100.0", "100.0", "-"]
    assert cells[4] == ["mean", "", "", "62.5", "62.5", "", "", ""]


def test_runs_on_different_sets_have_no_mean_in_the_overview() -> None:
    runs = [run_of(AIME=outcomes([True])), run_of(name="B", AIME=outcomes([False]), AMC=outcomes([True]))]
    lines = tables.report([summarise(run) for run in runs]).splitlines()
    cells = [[cell.split(" [")[0].strip() for cell in line.split("|")[1:-1]] for line in (lines[0], *lines[2:4])]
    assert cells == [["accuracy", "AIME", "AMC"], ["A (code)", "100.0", "-"], ["B (code)", "0.0", "100.0"]]


def test_groups_are_shown_where_there_are_several_and_blocks_where_any_ran() -> None:
    algebra, geometry = [row(subject="algebra", blocks=["error", "ok"])], [row(False, subject="geometry")]
    both = tables.report([summarise(run_of(set=[algebra, geometry]))])
    assert "| algebra  | set |        1 |       1 | 100.0 [2.5, 100.0] |    2.0 |" in both
    assert "| none        | set |       1 |    0.0 [0.0, 97.5] |" in both
    assert "| some failed | set |       1 | 100.0 [2.5, 100.0] |" in both
    assert "| recovered   | set |       1 | 100.0 [2.5, 100.0] |" in both
    assert "| and right   | set |       1 | 100.0 [2.5, 100.0] |" in both
    single = tables.report([summarise(run_of(set=[geometry]))])
    assert not any(word in single for word in ("subject", "level", "code blocks", "mean"))


def test_a_k_above_the_number_of_samples_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"Expect `k` from 1 to 2, the number of samples per problem, got 3."):
        tables.report([summarise(run_of(set=outcomes([True, False])))], k=[1, 3])
