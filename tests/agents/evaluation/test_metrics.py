"""The metrics of a run."""

from collections.abc import Sequence
from typing import Any

import pytest
from eval_fakes import outcomes, row, run_of

from agents.core.samples import Sample
from agents.evaluation.metrics import blocks_of, recovered, summarise


def metrics(*problems: Sequence[Sample]) -> dict[str, Any]:
    """The metrics of one set."""
    made: dict[str, Any] = summarise(run_of(set=problems))["sets"]["set"]
    return made


def value(estimate: dict[str, float] | None) -> float | None:
    return None if estimate is None else estimate["value"]


def test_avg_and_pass_at_every_k_are_means_over_problems() -> None:
    made = metrics(*outcomes([True, True, False, False], [False] * 4))
    assert value(made["avg"]) == value(made["avg_fixed_problems"]) == 0.25
    assert [value(made["pass_at_k"][k]) for k in "1234"] == pytest.approx([1 / 4, 5 / 12, 1 / 2, 1 / 2])


def test_equal_answers_count_together_and_missing_answers_abstain() -> None:
    wrong = [row(False, predicted=text) for text in (r"\dfrac{1}{2}", r" \frac{1}{2}.", "8")]
    lost = metrics([row(), *wrong])
    assert value(lost["majority_at_k"]["4"]) == 0.0
    won = metrics([row(), *[row(False, predicted=None)] * 3])
    assert value(won["majority_at_k"]["4"]) == 1.0
    assert list(won["majority_at_k"]) == ["1", "2", "4"]


def test_all_metrics_of_one_greedy_sample_agree() -> None:
    made = metrics(*outcomes([True], [False]))
    assert value(made["avg"]) == value(made["pass_at_k"]["1"]) == value(made["majority_at_k"]["1"]) == 0.5
    assert made["avg_fixed_problems"] == {"value": 0.5, "low": 0.5, "high": 0.5}


def test_invalid_samples_are_excluded() -> None:
    made = metrics(*outcomes([True, None], [False, False], [None, None]))
    assert value(made["avg"]) == 0.5
    assert value(made["pass_at_k"]["2"]) == 0.0  # of the second problem alone: the first has one sample only
    assert made["unjudged"] == 3
    assert value(made["rates"]["invalid"]) == 0.5


def test_only_invalid_samples_give_no_scores() -> None:
    made = metrics(*outcomes([None, None]))
    assert (made["avg"], made["pass_at_k"]["2"], made["majority_at_k"]["2"]) == (None, None, None)
    assert summarise(run_of(set=outcomes([None])))["mean"]["avg"] is None


def test_rates_say_how_samples_ended() -> None:
    cut = row(False, truncated=True, terminated=False)
    made = metrics([row(), cut, row(False, void=True), row(None)])
    rates = {name: value(rate) for name, rate in made["rates"].items()}
    assert rates == {"finished": 0.5, "truncated": 0.5, "void": 0.25, "invalid": 0.25, "used_code": 0.0}


def test_tokens_are_counted_by_writer_for_all_and_for_right_and_wrong_samples() -> None:
    made = metrics([row(sampled_tokens=10, feedback_tokens=4)], [row(False, sampled_tokens=30, feedback_tokens=0)])
    assert {name: value(each) for name, each in made["tokens"].items()} == {
        "sampled": 20,
        "feedback": 2,
        "total": 22,
        "sampled_correct": 10,
        "feedback_correct": 4,
        "total_correct": 14,
        "sampled_wrong": 30,
        "feedback_wrong": 0,
        "total_wrong": 30,
    }


def test_accuracy_by_subject_and_level() -> None:
    made = metrics(
        [row(True, subject="algebra", level="1")],
        [row(False, subject="algebra", level="2"), row(None, subject="algebra", level="2")],
        [row(True, subject="geometry", level="2")],
    )
    assert {k: (v["problems"], v["samples"], value(v["accuracy"])) for k, v in made["by_subject"].items()} == {
        "algebra": (2, 2, 0.5),
        "geometry": (1, 1, 1.0),
    }
    assert {k: value(v["accuracy"]) for k, v in made["by_level"].items()} == {"1": 1.0, "2": 0.5}


@pytest.mark.parametrize(
    ("blocks", "kind", "is_recovered"),
    [
        ([], "none", False),
        (["ok", "ok"], "all_ran", False),
        (["error", "ok"], "some_failed", True),
        (["ok", "timeout"], "some_failed", False),
        (["ok", "memory", "error", "ok"], "some_failed", True),
        (["error", "killed"], "all_failed", False),
    ],
)
def test_a_sample_is_classified_by_its_blocks(blocks: list[str], kind: str, is_recovered: bool) -> None:
    assert (blocks_of(row(blocks=blocks)), recovered(row(blocks=blocks))) == (kind, is_recovered)


def test_each_outcome_of_blocks_has_an_accuracy_and_failures_a_recovery_rate() -> None:
    made = metrics(
        [row(True, blocks=["ok"]), row(False, blocks=["error"])],
        [row(True, blocks=["error", "ok"]), row(False)],
        [row(None, blocks=["error"]), row(True, blocks=["ok", "error"])],
    )
    classes = {kind: (each["samples"], value(each["accuracy"])) for kind, each in made["by_blocks"].items()}
    assert classes == {"none": (1, 0.0), "all_ran": (1, 1.0), "some_failed": (2, 1.0), "all_failed": (1, 0.0)}
    assert sum(each["share"]["value"] for each in made["by_blocks"].values()) == pytest.approx(1)
    assert (made["recovery"]["samples"], value(made["recovery"]["rate"])) == (3, pytest.approx(1 / 3))


def test_recovery_with_a_right_answer_and_lengths_of_wrong_samples_are_apart() -> None:
    mended = [row(right, blocks=["error", "ok"], sampled_tokens=n) for right, n in ((True, 1), (False, 5), (None, 9))]
    made = metrics([*mended, row(blocks=["error"], sampled_tokens=1)])
    assert [value(made["recovery"][key]) for key in ("rate", "right")] == pytest.approx([2 / 3, 1 / 3])
    assert (value(made["tokens"]["sampled_wrong"]), value(made["tokens"]["sampled_correct"])) == (5, 1)


def test_calls_count_executed_blocks_and_those_that_printed_the_answer() -> None:
    used = row(blocks=["ok", "ok"], level="1")
    used["turns"][1]["feedback"] = "```output\n6.0\n```\n"
    made = metrics([used, row(blocks=["ok"], level="1")], [row(level="2"), row(None, blocks=["ok"], level="2")])
    assert value(made["calls"]["per_sample"]) == 1
    assert value(made["calls"]["used"]) == pytest.approx(1 / 3)
    assert {level: value(each["calls"]) for level, each in made["by_level"].items()} == {"1": 1.5, "2": 0.0}


def test_the_mean_over_sets_is_unweighted() -> None:
    made = summarise(run_of(AIME=outcomes([True, False], [False, False]), AMC=outcomes([True])))
    assert value(made["mean"]["avg"]) == pytest.approx(0.625)


def test_metrics_are_deterministic() -> None:
    made = [summarise(run_of(set=outcomes([True, False], [True, True], [False, False]))) for _ in range(2)]
    assert made[0] == made[1]
