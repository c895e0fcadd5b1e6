"""Tables of evaluation results for the terminal.

The tables are GitHub markdown with padded columns: readable in a terminal and ready to paste.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.core.errors import expect
from agents.core.tables import number, percent, table


def report(summaries: Sequence[Mapping[str, Any]], *, k: Sequence[int] = ()) -> str:
    """Return tables of the runs' scores, sample endings, and accuracy by subject, level and outcome of code blocks.

    Rates are in percent with 95% intervals, lengths in tokens per sample.

    Args:
        summaries: Results of :func:`agents.evaluation.metrics.summarise`.
        k: Values of k for pass@k; empty: the number of samples.

    Raises:
        ConfigError: A k is larger than the number of samples per problem.
    """
    most = max(metrics["num_samples"] for each in summaries for metrics in each["sets"].values())
    for each_k in k:
        expect(1 <= each_k <= most, "k", f"from 1 to {most}, the number of samples per problem", each_k)
    parts = [_overview(summaries)] if len(summaries) > 1 else []
    for each in summaries:
        tables = [_scores(each, k), _endings(each), _groups(each, "subject"), _groups(each, "level"), _blocks(each)]
        tables.append(_usage(each))
        parts.append("\n\n".join([each["name"], *filter(None, tables)]))
    return "\n\n".join(parts)


def comparison(data: Mapping[str, Any]) -> str:
    """Return tables of two runs on the same problems; ``data`` is the result of `comparison_as_json`."""
    one, other = data["runs"]
    lines = [f"A: {one}", f"B: {other}", *(f"   {line}" for line in data["differences"])]
    scores = [
        [name, str(part["problems"]), *map(percent, part["avg"]), percent(part["gain"])]
        for name, part in data["sets"].items()
    ]
    counts = sorted({k for part in data["sets"].values() for k in part["gain_at_k"]}, key=int)
    gains = [[name, *(percent(part["gain_at_k"].get(k)) for k in counts)] for name, part in data["sets"].items()]
    lengths = [
        [name, *(number(part["token_ratio"][kind], 2) for kind in _LENGTHS)] for name, part in data["sets"].items()
    ]
    subjects = [
        [subject, name, str(each["problems"]), percent(each["gain"])]
        for name, part in data["sets"].items()
        for subject, each in part["by_subject"].items()
    ]
    tables = [
        table(["set", "problems", "avg A", "avg B", "B - A"], scores),
        table(["pass@k, B - A", *(f"k = {k}" for k in counts)], gains),
        table(["tokens, B / A", *_LENGTHS.values()], lengths),
        *([table(["subject", "set", "problems", "B - A"], subjects)] if subjects else []),
    ]
    return "\n\n".join(["\n".join(lines), *tables])


_LENGTHS = {
    "sampled": "written",
    "total": "with feedback",
    "sampled_correct": "written, right samples",
    "total_correct": "with feedback, right samples",
}


def _overview(summaries: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for each in summaries for name in each["sets"]))
    means = len(names) > 1 and all(len(each["sets"]) == len(names) for each in summaries)
    rows = [
        [
            each["name"],
            *(percent(each["sets"].get(name, {}).get("avg")) for name in names),
            *([percent(each["mean"]["avg"])] if means else []),
        ]
        for each in summaries
    ]
    return table(["accuracy", *names, *(["mean"] if means else [])], rows)


def _scores(summary: Mapping[str, Any], k: Sequence[int]) -> str:
    sets = summary["sets"]
    rows = []
    for name, metrics in sets.items():
        n = metrics["num_samples"]
        passes = [percent(metrics["pass_at_k"].get(str(each_k))) for each_k in k or [n]]
        scores = [metrics["avg"], metrics["avg_fixed_problems"], metrics["majority_at_k"][str(n)]]
        rows.append([name, str(metrics["problems"]), str(n), *map(percent, scores), *passes])
    width = len(rows[0])
    if len(sets) > 1:
        means = [percent(summary["mean"][name]) for name in ("avg", "avg_fixed_problems")]
        rows.append(["mean", "", "", *means, *[""] * (width - 5)])
    passes = [f"pass@{each_k}" for each_k in k] or ["pass@n"]
    return table(["set", "problems", "n", "avg@n", "problems fixed", "majority@n", *passes], rows)


def _endings(summary: Mapping[str, Any]) -> str:
    rates = ("finished", "truncated", "void", "invalid", "used_code")
    lengths = ("sampled", "sampled_correct", "feedback", "feedback_correct")
    rows = [
        [
            name,
            *(percent(metrics["rates"][rate], interval=False) for rate in rates),
            *(number(metrics["tokens"][length], 0, interval=False) for length in lengths),
        ]
        for name, metrics in summary["sets"].items()
    ]
    heads = ["finished", "cut off", "void", "unjudged", "use code", "tokens", "if right", "feedback", "if right"]
    return table(["set", *heads], rows)


def _groups(summary: Mapping[str, Any], what: str) -> str:
    rows = [
        [
            group,
            name,
            str(metrics["problems"]),
            str(metrics["samples"]),
            percent(metrics["accuracy"]),
            number(metrics["calls"], 1, interval=False),
        ]
        for name, of_set in summary["sets"].items()
        if len(of_set[f"by_{what}"]) > 1
        for group, metrics in of_set[f"by_{what}"].items()
    ]
    return table([what, "set", "problems", "samples", "accuracy", "blocks"], rows) if rows else ""


def _blocks(summary: Mapping[str, Any]) -> str:
    rows = [
        [kind.replace("_", " "), name, str(metrics["samples"]), percent(metrics["accuracy"])]
        for name, of_set in summary["sets"].items()
        if any(metrics["samples"] for kind, metrics in of_set["by_blocks"].items() if kind != "none")
        for kind, metrics in of_set["by_blocks"].items()
        if metrics["samples"]
    ]
    recovered = [
        [words, name, str(of_set["recovery"]["samples"]), percent(of_set["recovery"][key])]
        for name, of_set in summary["sets"].items()
        if of_set["recovery"]["samples"]
        for key, words in (("rate", "recovered"), ("right", "and right"))
    ]
    return table(["code blocks", "set", "samples", "accuracy"], rows + recovered) if rows else ""


def _usage(summary: Mapping[str, Any]) -> str:
    rows = []
    for name, metrics in summary["sets"].items():
        if usage := metrics.get("usage"):
            counts = [f"{usage[kind]:,}" for kind in ("prompt_tokens", "completion_tokens")]
            cost = "" if usage["cost"] is None else f"{usage['cost']:.4g}"
            rows.append([name, *counts, cost, str(usage["estimated"] or "")])
    return table(["API usage", "prompt tokens", "completion tokens", "cost", "samples estimated"], rows) if rows else ""
