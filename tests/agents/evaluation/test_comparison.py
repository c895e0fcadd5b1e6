"""Comparison of two runs."""

import pytest
from eval_fakes import outcomes, row, run_of

from agents.core.errors import RunError
from agents.evaluation import tables as report
from agents.evaluation.comparison import compare, comparison_as_json
from agents.evaluation.run_folder import Run


def test_the_gain_is_paired_by_problem() -> None:
    hard, easy = [False] * 4, [True] * 4
    one = run_of(set=outcomes(*[hard, easy] * 10))
    better = run_of(set=outcomes(*[[True, False, False, False], easy] * 10), name="B")
    part = compare(one, better)["set"]
    assert (part.avg[0].value, part.avg[1].value, part.gain.value) == (0.5, 0.625, 0.125)
    width = [high - low for low, high in (part.gain.interval, part.avg[0].interval)]
    assert 0 < width[0] < width[1] / 3


def test_the_gain_at_k_covers_problems_with_k_judged_samples_in_both_runs() -> None:
    one = run_of(set=outcomes([True, False, False, False], [True, None, None, None]))
    other = run_of(set=outcomes([True, True, False, False], [False, True, True, True]), name="B")
    gains = compare(one, other)["set"].gain_at_k
    assert {k: gain.value for k, gain in gains.items()} == pytest.approx({1: 0.0, 2: 1 / 3, 4: 0.0})
    none = run_of(set=outcomes([True, None, None, None], [None, True, None, None]))
    assert list(compare(one, none)["set"].gain_at_k) == [1]


def test_a_run_does_not_differ_from_itself() -> None:
    run = run_of(set=outcomes([True, False], [False, False]))
    part = compare(run, run)["set"]
    on_other_problems = {"value": 0, "low": -0.8419, "high": 0.8419}
    assert part.gain.as_json() == pytest.approx(on_other_problems, abs=1e-4)
    assert part.token_ratio("sampled").as_json() == {"value": 1, "low": 1, "high": 1}


def test_a_claim_of_shorter_answers_is_a_ratio_of_mean_tokens() -> None:
    long = run_of(set=[[row(sampled_tokens=1000 + 100 * i, feedback_tokens=0)] for i in range(10)])
    short = run_of(set=[[row(i > 4, sampled_tokens=200, feedback_tokens=45)] for i in range(10)], name="B")
    part = compare(long, short)["set"]
    assert part.token_ratio("sampled").value == pytest.approx(200 / 1450)
    assert part.token_ratio("total").value == pytest.approx(245 / 1450)
    low, high = part.token_ratio("sampled").interval
    assert 200 / 1900 < low < 200 / 1450 < high < 0.2


def test_problems_without_judged_samples_in_one_run_are_excluded() -> None:
    one, other = run_of(set=outcomes([None], [True], [False])), run_of(set=outcomes([True], [True], [True]))
    part = compare(one, other)["set"]
    assert (part.problems, part.avg[0].value, part.avg[1].value) == (2, 0.5, 1.0)
    with pytest.raises(RunError, match=r"Expect a problem of set with a judged sample in both runs, got none."):
        compare(run_of(set=outcomes([None])), run_of(set=outcomes([True])))


def test_the_gain_is_reported_by_subject() -> None:
    def run(name: str, right: bool) -> Run:
        algebra, geometry = [row(right, subject="algebra")], [row(False, subject="geometry")]
        return run_of(set=[algebra, algebra, geometry], name=name)

    gains = compare(run("A", False), run("B", True))["set"].gain_by_subject
    assert {subject: (size, gain.value) for subject, (size, gain) in gains.items()} == {
        "algebra": (2, 1.0),
        "geometry": (1, 0.0),
    }


def test_several_sets_have_a_mean() -> None:
    one, other = (run_of(a=outcomes([right], [False]), b=outcomes([right])) for right in (False, True))
    assert compare(one, other)["mean"].gain.value == pytest.approx(0.75)


def test_different_sets_are_rejected() -> None:
    with pytest.raises(RunError) as raised:
        compare(run_of(a=outcomes([True])), run_of(a=outcomes([True], [True]), name="B"))
    assert str(raised.value) == "Expect two runs on the same problems, got 1 of a in A and 2 of a in B."


def test_different_problems_of_the_same_name_are_rejected() -> None:
    with pytest.raises(RunError) as raised:
        compare(run_of(a=[[row()]]), run_of(a=[[row(problem="What is 1 + 1?")]], name="B"))
    assert str(raised.value) == "Expect two runs on the same problems, but problem 0 of a differs between A and B."


def test_the_tables_show_the_differences_of_the_runs() -> None:
    one, other = run_of(set=outcomes([False], [True])), run_of(set=outcomes([True], [True]), name="B")
    lines = report.comparison(comparison_as_json(one, other, compare(one, other))).splitlines()
    assert lines[:3] == ["A: A (code)", "B: B (code)", "   model.name: A -> B"]
    assert lines[6].startswith("| set |        2 | 50.0 [0.0, 100.0] | 100.0 [15.8, 100.0] | 50.0 [0.0, 100.0] |")
    assert lines[8].startswith("| pass@k, B - A |")
    assert lines[10].startswith("| set           | 50.0 [0.0, 100.0] |")
    assert lines[-1].count("1.00 [1.00, 1.00]") == 4
