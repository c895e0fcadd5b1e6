"""Content of the page about one or more training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agents.core.tables import percent
from agents.report.charts import learning_chart
from agents.report.parts import Cell, Chart, Headline, Page, Section, Settings, Table, text
from agents.tracking.history import ARMS, SUBJECT, TrainingRun

_CHARTS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "Learning": {
        "Reward": {"reward": "mean"},
        "Accuracy in training, %": {"accuracy": "all"},
    },
    "Update": {
        "Policy loss": {"policy_loss": "loss"},
        "Value loss": {"value_loss": "loss"},
        "Clipped tokens, %": {"clip_ratio/low_mean": "below", "clip_ratio/high_mean": "above"},
        "Entropy, nats": {"entropy": "entropy"},
        "KL to the policy before the update, nats": {"approx_kl": "approx_kl"},
        "KL to the initial model, nats": {"kl": "kl"},
        "Gradient norm": {"grad_norm": "norm"},
        "Learning rate": {"learning_rate": "rate"},
        "Engine and trainer: difference of log-probabilities, nats": {
            "sampling/sampling_logp_difference/mean": "mean",
            "sampling/sampling_logp_difference/max": "maximum",
        },
        "Staleness of sampled tokens, updates": {"sampling/staleness_mean": "mean", "sampling/staleness_max": "max"},
    },
    "Rollouts": {
        "Sampled tokens per episode": {
            "completions/mean_length": "all",
            "completions/mean_length_right": "right",
            "completions/mean_length_wrong": "wrong",
        },
        "Blocks per episode": {"tools/call_frequency": "blocks", "interaction_budget": "budget"},
        "Blocks per episode by level": {"tools/call_frequency/level/": ""},
        "Episodes with code, %": {"tools/use_ratio": "share"},
        "Blocks that printed the answer, %": {"tools/output_use_ratio": "share"},
        "Failures that a later block mends, %": {
            "tools/recovery_ratio": "mended",
            "tools/recovery_right_ratio": "right",
        },
        "Failed blocks, %": {"tools/failure_frequency": "all", "tools/timeout_frequency": "timeouts"},
        "Truncated, void and invalid episodes, %": {
            "completions/clipped_ratio": "truncated",
            "episodes/void_ratio": "void",
            "episodes/invalid_ratio": "invalid",
        },
        "Episodes that use up their budget, %": {"tools/budget_exhausted_ratio": "share"},
        "Groups with equal rewards, %": {"frac_reward_zero_std": "share"},
    },
    "Speed": {
        "Sampled tokens per second": {"tokens_per_second": "tokens"},
        "Seconds per step": {"step_time": "step", "time/sampling_s": "sampling", "time/update_s": "update"},
    },
}
"""Metrics by section and chart, each with its name in the chart. Titles of shares end in "%". A metric that ends in "/"
stands for all metrics that begin with it."""


def training_page(runs: Sequence[TrainingRun], settings: Settings, *, progress: str = "") -> Page:
    """Build the page.

    Args:
        runs: The training runs.
        settings: How they were made.
        progress: How far they are, if they are still running.
    """
    many = len(runs) > 1
    names = [run.name for run in runs]
    title = (
        f"{len(runs)} training runs" if len(runs) > 2 else f"Training run{'s' if many else ''} {' and '.join(names)}"
    )
    return Page(
        title=title,
        settings=settings,
        headlines=[] if many else _headlines(runs[0]),
        sections=[*_before_after(runs), *_curves(runs), *_subjects(runs)],
        progress=progress,
    )


def _headlines(run: TrainingRun) -> list[Headline]:
    found = []
    for arm, name in ARMS.items():
        points = run.series(f"{arm}/accuracy")
        if points:
            (first, _), (last, end) = points[0], points[-1]
            detail = f"accuracy on held-out problems, %, at step {first:g} and step {last:g}"
            value = _first_last(run, f"{arm}/accuracy")
            found.append(Headline(label=name, value=value, detail=detail, cell=Cell(text=value, share=end)))
    return found


def _first_last(run: TrainingRun, key: str) -> str:
    points = run.series(key)
    return " → ".join(percent(value) for _, value in [*points[:1], *points[1:][-1:]]) or "-"


def _before_after(runs: Sequence[TrainingRun]) -> list[Section]:
    """Return the accuracies of several runs, side by side."""
    header = ["prompts and sampling", *(run.name for run in runs)]
    rows = [
        [text(name), *(text(_first_last(run, f"{arm}/accuracy")) for run in runs)]
        for arm, name in ARMS.items()
        if any(run.series(f"{arm}/accuracy") for run in runs)
    ]
    if len(runs) < 2 or not rows:
        return []
    title = "Accuracy on held-out problems, %, in the first and the last validation"
    return [Section(id="results", title="Results", tables=[Table(title=title, header=header, rows=rows)])]


def _curves(runs: Sequence[TrainingRun]) -> list[Section]:
    """Return the sections with charts; metrics that are always zero are only named."""
    changes = _budget_changes(runs)
    arms = {f"{arm}/accuracy": name for arm, name in ARMS.items()}
    lead = _held_out(runs, arms, "Accuracy on held-out problems, %", "lead")
    sections, zero = [], []
    for title, charts in _CHARTS.items():
        drawn = list(lead) if title == "Learning" else []
        for name, keys in charts.items():
            series = _series(runs, keys)
            shown = {label: points for label, points in series.items() if any(value for _, value in points)}
            if shown:
                size = "medium" if title == "Learning" else "small"
                drawn.append(learning_chart(name, shown, budget_changes=changes, is_rate=name.endswith("%"), size=size))
            elif series:
                zero.append(name.removesuffix(", %").lower())
        if drawn:
            note = _budget_note(runs) if title == "Learning" else ""
            sections.append(Section(id=title.lower(), title=title, charts=drawn, note=note))
    if zero and sections:
        last = sections.pop()
        note = f"Always zero, and not drawn: {', '.join(zero)}."
        sections.append(Section(id=last.id, title=last.title, charts=last.charts, note=f"{last.note} {note}".strip()))
    return sections


def _series(runs: Sequence[TrainingRun], keys: Mapping[str, str]) -> dict[str, list[tuple[float, float]]]:
    """Return the points of some metrics by name of run, metric, or both."""
    keys = {
        f"{key}{more}": f"{name} {more}".strip()
        for key, name in keys.items()
        for more in (sorted({more for run in runs for more in run.names_after(key)}) if key.endswith("/") else [""])
    }
    several = len(runs) > 1
    found = {(run.name, name): points for run in runs for key, name in keys.items() if (points := run.series(key))}
    return {
        (f"{run}, {name}" if several and len(keys) > 1 else run if several else name): points
        for (run, name), points in found.items()
    }


def _held_out(runs: Sequence[TrainingRun], keys: Mapping[str, str], title: str, size: str) -> list[Chart]:
    """Return the chart of some accuracies on held-out problems, if there are any."""
    series = _series(runs, keys)
    changes = _budget_changes(runs)
    return [learning_chart(title, series, budget_changes=changes, is_rate=True, size=size)] if series else []


def _budget_changes(runs: Sequence[TrainingRun]) -> list[tuple[float, float]]:
    return sorted({change for run in runs for change in run.budget_changes})


def _budget_note(runs: Sequence[TrainingRun]) -> str:
    changes = [(run, change) for run in runs for change in run.budget_changes]
    if not changes:
        return ""
    several = len(runs) > 1
    words = [f"{f'{run.name}: ' if several else ''}{b:g} from step {step:g}" for run, (step, b) in changes]
    return f"Dotted lines mark changes of the interaction budget: {', '.join(words)}."


def _subjects(runs: Sequence[TrainingRun]) -> list[Section]:
    subjects = sorted({subject for run in runs for subject in run.subjects})
    rows = [[text(subject), *(_subject_cell(run, SUBJECT + subject) for run in runs)] for subject in subjects]
    if not rows:
        return []
    header = ["subject", *(run.name if len(runs) > 1 else "first → last" for run in runs)]
    title = "Accuracy on held-out problems, %, in the first and the last validation"
    charts = _held_out(runs, {SUBJECT + name: name for name in subjects}, "Accuracy by subject, %", "lead")
    return [
        Section(id="subjects", title="Subjects", tables=[Table(title=title, header=header, rows=rows)], charts=charts)
    ]


def _subject_cell(run: TrainingRun, key: str) -> Cell:
    points = run.series(key)
    return Cell(text=_first_last(run, key), share=points[-1][1] if points else None)
