"""Evaluations in words: tables for the terminal, and JSON for programs.

Tables are GitHub's markdown with the columns padded, so that they read well in a terminal and can be pasted into a
page.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from agents.evaluation import Evaluation


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table; the first column is set left, the others right.

    >>> print(table(["set", "avg@1"], [["products", "9.4"]]))
    | set      | avg@1 |
    | :------- | ----: |
    | products |   9.4 |
    """
    widths = [max(2, *(len(row[i]) for row in [header, *rows])) for i in range(len(header))]
    rules = [":" + "-" * (w - 1) if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join(line(cells) for cells in [header, rules, *rows])


def summary(evaluations: Mapping[str, Evaluation]) -> str:
    """Return the figures of each set as a table: rates in percent, lengths in sampled tokens.

    "unjudged" counts samples that a fault of ours spoilt; no figure but the length, code use and cut counts them.
    Several sets get a row with their means, each set counting the same.
    """
    rows = [_row(name, evaluation) for name, evaluation in evaluations.items()]
    if len(rows) > 1:
        means = mean(evaluations)
        rows.append(["mean", "", "", percent(means.get("avg@k")), percent(means.get("pass@k")), "", "", "", ""])
    header = ["set", "problems", "k", "avg@k", "pass@k", "code use", "tokens", "cut off", "unjudged"]
    return table(header, rows)


def by_subject(evaluations: Mapping[str, Evaluation]) -> str:
    """Return accuracy by subject as a table; empty where no set has several subjects."""
    rows = []
    for name, evaluation in evaluations.items():
        accuracies = evaluation.accuracy_by("subject")
        rows += [[subject, name, percent(value)] for subject, value in accuracies.items() if len(accuracies) > 1]
    return table(["subject", "set", "accuracy"], rows) if rows else ""


def mean(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """Return the means of ``avg@k`` and ``pass@k`` over the sets; k is each set's number of samples.

    A figure that a set lacks, since none of its samples could be judged, has no mean either.
    """
    figures = [(evaluation.num_samples, evaluation.figures()) for evaluation in evaluations.values()]
    return {
        f"{kind}@k": fmean(f[f"{kind}@{n}"] for n, f in figures)
        for kind in ("avg", "pass")
        if figures and all(f"{kind}@{n}" in f for n, f in figures)
    }


def as_json(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return everything that the tables say, and pass@k for the other k, as fractions and ready for JSON."""
    sets = {
        name: {
            "problems": len(evaluation.correct_by_problem()),
            "num_samples": evaluation.num_samples,
            "unjudged": _unjudged(evaluation),
            "figures": evaluation.figures(),
            "accuracy_by_subject": evaluation.accuracy_by("subject"),
        }
        for name, evaluation in evaluations.items()
    }
    return {"mean": mean(evaluations), "sets": sets}


def new_path(model: str) -> Path:
    """Return where the report on a model goes: a file of runs/evaluation named by the model and the time."""
    name = re.sub(r"[^\w.]+", "-", model).strip("-.")[-60:]
    return Path("runs/evaluation") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` to ``path``, whole or not at all; what JSON does not know, such as a path, as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=2, default=str) + "\n")
    os.replace(partial, path)


def percent(fraction: float | None) -> str:
    """Return a rate as people read it.

    >>> percent(0.5236), percent(None)
    ('52.4', '-')
    """
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def _row(name: str, evaluation: Evaluation) -> list[str]:
    figures, k = evaluation.figures(), evaluation.num_samples
    return [
        name,
        str(len(evaluation.correct_by_problem())),
        str(k),
        percent(figures.get(f"avg@{k}")),
        percent(figures.get(f"pass@{k}")),
        percent(figures["tools/use_ratio"]),
        f"{figures['completions/mean_length']:.0f}",
        percent(figures["completions/clipped_ratio"]),
        str(_unjudged(evaluation)),
    ]


def _unjudged(evaluation: Evaluation) -> int:
    return sum(not t.reward_valid for t in evaluation.trajectories)
