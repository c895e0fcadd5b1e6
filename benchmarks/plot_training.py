"""Draw the learning curves of training runs and tabulate what they learned.

$ python benchmarks/plot_training.py runs/quickstart-seed0 runs/quickstart-seed1 --output docs/images/quickstart.png
$ python benchmarks/plot_training.py runs/mixed --by-subject --output docs/images/mixed.png --json docs/mixed.json

Each run is one line in every panel. The table on the terminal is markdown: accuracy before and after training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.core.files import write_json
from agents.core.tables import percent, table
from agents.tracking.curves import Curve, draw_curves, mark_budget_changes
from agents.tracking.history import ARMS, SUBJECT, TrainingRun, load_training_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = {"validation_greedy": "^", "validation_text": "s"}


def before_after_table(runs: Sequence[TrainingRun]) -> str:
    """Return accuracy on held-out problems before and after training, in percent, as a markdown table."""
    header = ["run", "steps", "minutes", *(f"{name}, %" for name in ARMS.values())]
    rows = [
        [run.name, str(run.steps), f"{run.minutes:.1f}", *(_change(run, f"{arm}/accuracy") for arm in ARMS)]
        for run in runs
    ]
    return table(header, rows)


def subject_table(runs: Sequence[TrainingRun]) -> str:
    """Return sampled accuracy by subject before and after training, in percent, as a markdown table."""
    rows = [[subject, *(_change(run, SUBJECT + subject) for run in runs)] for subject in _subjects(runs)]
    return table(["subject", *(f"{run.name}, %" for run in runs)], rows)


def as_json(runs: Sequence[TrainingRun]) -> dict[str, Any]:
    """Return what the tables say, as fractions."""

    def pair(run: TrainingRun, key: str) -> dict[str, float | None]:
        before, after = run.before_after(key)
        return {"before": before, "after": after}

    return {
        run.name: {
            "steps": run.steps,
            "minutes": run.minutes,
            **{f"{arm}/accuracy": pair(run, f"{arm}/accuracy") for arm in ARMS},
            **{SUBJECT + subject: pair(run, SUBJECT + subject) for subject in run.subjects},
        }
        for run in runs
    }


def plot(runs: Sequence[TrainingRun]) -> Figure:
    """Draw accuracy in validation and training, code use, and completion length by step."""
    figure, axes = _figure(rows=2, columns=2)
    held_out, training, code, length = axes
    _lines(held_out, runs, "validation/accuracy", "Accuracy on held-out problems", marker="o")
    for arm, marker in _MARKERS.items():
        _points(held_out, runs, f"{arm}/accuracy", marker)
        if any(run.series(f"{arm}/accuracy") for run in runs):
            held_out.plot([], [], marker, color="black", markerfacecolor="none", label=ARMS[arm])
    held_out.plot([], [], "o-", color="black", markersize=4, label=ARMS["validation"])
    held_out.legend(fontsize="small", loc="center right")
    _lines(training, runs, "accuracy", "Accuracy in training")
    _lines(code, runs, "tools/use_ratio", "Episodes that write code")
    _lines(length, runs, "completions/mean_length", "Sampled tokens per episode", is_rate=False)
    _finish(figure, axes, runs)
    return figure


def plot_by_subject(runs: Sequence[TrainingRun]) -> Figure:
    """Draw accuracy on held-out problems by step, one panel for each subject.

    Raises:
        ValueError: No run has several subjects.
    """
    subjects = _subjects(runs)
    if not subjects:
        raise ValueError(f"Expect runs with several subjects for --by-subject, got none in {_names(runs)}.")
    columns = min(4, len(subjects))
    figure, axes = _figure(rows=ceil(len(subjects) / columns), columns=columns)
    for axis, subject in zip(axes, subjects, strict=False):
        _lines(axis, runs, SUBJECT + subject, subject.replace("_", " "), marker="o")
    for axis in axes[len(subjects) :]:
        axis.remove()
    _finish(figure, axes[: len(subjects)], runs)
    return figure


def main(args: Sequence[str]) -> int:
    """Plot; return the exit code: 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(
        prog="plot_training.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of train.py, one for each seed")
    parser.add_argument("--output", type=Path, help="the picture: .png, .svg or .pdf")
    parser.add_argument("--json", type=Path, help="write accuracy before and after training as JSON, as fractions")
    parser.add_argument("--by-subject", action="store_true", help="accuracy on held-out problems by subject")
    options = parser.parse_args(args)
    try:
        runs = [load_training_run(folder) for folder in options.runs]
        draw: Callable[[Sequence[TrainingRun]], Figure] = plot_by_subject if options.by_subject else plot
        if options.output is not None:
            _save(draw(runs), options.output)
        if options.json is not None:
            write_json(options.json, as_json(runs))
    except (ValueError, OSError) as error:
        print(f"plot_training.py: {error}", file=sys.stderr)
        return 2
    print(before_after_table(runs))
    if options.by_subject:
        print("\n" + subject_table(runs))
    return 0


def _figure(*, rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, row by row."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError('Expect the library matplotlib: pip install -e ".[plot]".') from None
    size = (3.2 * columns + 0.8, 2.6 * rows + 0.6) if columns > 2 else (9, 6)
    figure = Figure(figsize=size, layout="constrained")  # without pyplot: it draws in memory, on any machine
    return figure, list(figure.subplots(rows, columns, sharex=True, squeeze=False).flat)


def _lines(
    axes: Axes, runs: Sequence[TrainingRun], key: str, title: str, *, marker: str = "", is_rate: bool = True
) -> None:
    curves = [Curve(points=run.series(key), color=f"C{number}", marker=marker) for number, run in enumerate(runs)]
    draw_curves(axes, curves, is_rate=is_rate)
    axes.set_title(title, fontsize="medium")
    axes.tick_params(labelbottom=True)
    if not is_rate:
        axes.set_ylim(bottom=0)


def _points(axes: Axes, runs: Sequence[TrainingRun], key: str, marker: str) -> None:
    for number, run in enumerate(runs):
        for step, value in run.series(key):
            axes.plot([step], [value], marker, color=f"C{number}", markerfacecolor="none")


def _finish(figure: Figure, panels: Sequence[Axes], runs: Sequence[TrainingRun]) -> None:
    """Name the steps and the runs, and mark where the interaction budget changed."""
    for number, run in enumerate(runs):
        for axes in panels:
            mark_budget_changes(axes, run.budget_changes, color=f"C{number}", is_labelled=axes is panels[0])
    figure.supxlabel("step", fontsize="medium")
    lines = panels[0].get_lines()[: len(runs)]
    figure.legend(lines, [run.name for run in runs], loc="outside upper center", ncols=min(4, len(runs)))


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _change(run: TrainingRun, key: str) -> str:
    before, after = run.before_after(key)
    return "-" if before is None and after is None else f"{percent(before)} → {percent(after)}"


def _subjects(runs: Sequence[TrainingRun]) -> list[str]:
    return sorted({subject for run in runs for subject in run.subjects})


def _names(runs: Sequence[TrainingRun]) -> str:
    return ", ".join(run.name for run in runs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
