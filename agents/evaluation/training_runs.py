"""Tables of training runs for the terminal: held-out accuracy before and after, and the metrics of the last step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from agents.core.files import read_json_lines
from agents.core.tables import percent, short, table
from agents.evaluation.bootstrap import problem_weights, ratio
from agents.tracking.history import ARMS, TrainingRun, load_training_run

_METRICS = {
    "reward": "reward",
    "accuracy": "accuracy in training",
    "tools/use_ratio": "code use",
    "tools/output_use_ratio": "outputs used",
    "completions/mean_length": "tokens of an episode",
    "tokens_per_second": "tokens per second",
}
"""Metrics of the last training step, and what tables call them."""


def report_on_training(folders: Sequence[Path], *, names: Sequence[str] | None = None) -> str:
    """Return a table of training runs, one column each, under their own names unless others are given.

    Raises:
        RunError: A folder has no metrics.
    """
    runs = [load_training_run(folder) for folder in folders]
    rows = [["steps", *(str(run.steps) for run in runs)], ["minutes", *(f"{run.minutes:.1f}" for run in runs)]]
    for arm, called in ARMS.items():
        changes = [run.before_after(f"{arm}/accuracy") for run in runs]
        if any(value is not None for change in changes for value in change):
            rows.append([f"held out, {called}", *(" -> ".join(map(percent, change)) for change in changes)])
    best = [max(run.series("validation/accuracy"), key=lambda point: point[1], default=None) for run in runs]
    rows.append(["best (step)", *(f"{percent(each[1])} ({each[0]:g})" if each else "-" for each in best)])
    rows += [[called, *(_last(run, key) for run in runs)] for key, called in _METRICS.items()]
    return table(["", *(names or [run.name for run in runs])], rows)


def compare_training(one: Path, other: Path) -> str:
    """Return the table of two runs, and their difference on held-out problems at the best and the last common step.

    The difference has a paired interval where both runs keep the results of all of these problems.

    Raises:
        RunError: A folder has no metrics.
    """
    runs = [load_training_run(folder) for folder in (one, other)]
    series = [dict(run.series("validation/accuracy")) for run in runs]
    common = sorted(series[0].keys() & series[1].keys())
    lines = [f"A: {one}", f"B: {other}", "", report_on_training([one, other], names=["A", "B"])]
    if not common:
        return "\n".join([*lines, "", "No step has a validation of both runs."])
    best = max(common, key=lambda step: series[0][step] + series[1][step])
    rows = []
    for called, step in {"best common step": best, "last common step": common[-1]}.items():
        gain, paired = _gain(one, other, step) or (percent(series[1][step] - series[0][step]), "no")
        rows.append([called, f"{step:g}", percent(series[0][step]), percent(series[1][step]), gain, paired])
    lines += ["", table(["held out", "step", "A", "B", "B - A", "paired"], rows)]
    if any(row[-1] == "no" for row in rows):
        lines += ["", "Not paired: not all results of validations were kept (--samples-per-step)."]
    return "\n".join(lines)


def _last(run: TrainingRun, key: str) -> str:
    series = run.series(key)
    return short(series[-1][1]) if series else "-"


def _gain(one: Path, other: Path, step: float) -> tuple[str, str] | None:
    """Return the paired difference at a step; None unless both runs have the results of the same problems."""
    results = [_results(folder, step) for folder in (one, other)]
    if results[0] is None or results[1] is None or results[0].keys() != results[1].keys():
        return None
    pairs = [(results[0][place], results[1][place]) for place in results[0]]
    weights = problem_weights(len(pairs), seed=0)
    shares = [
        ratio([float(pair[side]) for pair in pairs], [1.0] * len(pairs), weights, is_share=True) for side in (0, 1)
    ]
    return percent((shares[1] - shares[0]).as_json()), str(len(pairs))


def _results(folder: Path, step: float) -> dict[str, bool] | None:
    """Return which problems of a validation were solved; None unless all of them were kept, and judged."""
    path, about = folder / "samples.jsonl", folder / "run.json"
    if not path.is_file() or not about.is_file():
        return None
    rows = [row for row in read_json_lines(path)[0] if row.get("kind") == "validation" and row.get("step") == step]
    size = json.loads(about.read_text()).get("config", {}).get("validation", {}).get("num_problems")
    found = {str(row["problem"]): bool(row["correct"]) for row in rows if row.get("reward_valid")}
    sizes = size if isinstance(size, list) else [size]
    return found if found and sizes[0] == len(rows) == len(found) else None
