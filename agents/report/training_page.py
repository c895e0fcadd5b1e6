"""Content of the page about one or more training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agents.core.tables import percent
from agents.report.charts import learning_chart
from agents.report.parts import Cell, Chart, Headline, Page, Section, Table, text
from agents.tracking.history import ARMS, SUBJECT, TrainingRun

_RATES = {
    "accuracy": "Accuracy in training",
    "tools/use_ratio": "Episodes with code",
    "tools/failure_frequency": "Failed blocks",
    "completions/clipped_ratio": "Truncated completions",
    "frac_reward_zero_std": "Groups with equal rewards",
}
_OTHERS = {
    "completions/mean_length": "Sampled tokens per episode",
    "tools/call_frequency": "Blocks per episode",
    "entropy": "Entropy, nats",
    "approx_kl": "KL to the policy before the update (approx_kl)",
    "grad_norm": "Gradient norm",
    "step_time": "Seconds per step",
}


def training_page(runs: Sequence[TrainingRun], facts: Mapping[str, str]) -> Page:
    """Build the page.

    Args:
        runs: The training runs.
        facts: Label and value of each setting shown in the heading.
    """
    many = len(runs) > 1
    names = " and ".join(run.name for run in runs)
    return Page(
        title=f"Training run{'s' if many else ''} {names}",
        facts=facts,
        headlines=[headline for run in runs for headline in _headlines(run, f"{run.name}: " if many else "")],
        sections=[
            Section(id="curves", title="Learning curves", note=_budget_note(runs), charts=_charts(runs)),
            *_subjects(runs),
        ],
    )


def _headlines(run: TrainingRun, before: str) -> list[Headline]:
    found = []
    for arm, name in ARMS.items():
        points = run.series(f"{arm}/accuracy")
        if points:
            (first, start), (last, end) = points[0], points[-1]
            detail = f"accuracy on held-out problems, %, at step {first:g} and step {last:g}"
            value = f"{percent(start)} → {percent(end)}" if last > first else percent(start)
            found.append(Headline(label=before + name, value=value, detail=detail, cell=Cell(text=value, share=end)))
    return found


def _budget_note(runs: Sequence[TrainingRun]) -> str:
    changes = [(run, change) for run in runs for change in run.budget_changes]
    if not changes:
        return ""
    several = len(runs) > 1
    words = [f"{f'{run.name}: ' if several else ''}{b:g} from step {step:g}" for run, (step, b) in changes]
    return f"Dotted lines mark changes of the interaction budget: {', '.join(words)}."


def _charts(runs: Sequence[TrainingRun]) -> list[Chart]:
    steps = max((step for run in runs for step in [row["step"] for row in run.rows]), default=1) or 1
    changes = sorted({change for run in runs for change in run.budget_changes})
    held_out = {
        (f"{run.name}, {name}" if len(runs) > 1 else name): points
        for run in runs
        for arm, name in ARMS.items()
        if (points := run.series(f"{arm}/accuracy"))
    }
    charts = []
    if held_out:
        title = "Accuracy on held-out problems"
        charts.append(learning_chart(title, held_out, budget_changes=changes, is_rate=True, steps=steps))
    for titles, is_rate in ((_RATES, True), (_OTHERS, False)):
        for key, title in titles.items():
            series = {run.name: points for run in runs if (points := run.series(key))}
            if series:
                charts.append(learning_chart(title, series, budget_changes=changes, is_rate=is_rate, steps=steps))
    return charts


def _subjects(runs: Sequence[TrainingRun]) -> list[Section]:
    tables = []
    for run in runs:
        rows = []
        for subject in run.subjects:
            points = run.series(SUBJECT + subject)
            first, last = points[0][1], points[-1][1]
            rows.append([text(subject), text(percent(first)), Cell(text=percent(last), share=last)])
        if rows:
            title = "Accuracy on held-out problems" + (f": {run.name}" if len(runs) > 1 else "")
            tables.append(Table(title=title, header=["subject", "before, %", "after, %"], rows=rows))
    return [Section(id="subjects", title="Subjects", tables=tables)] if tables else []
