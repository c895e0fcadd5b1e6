"""Content of the page about one or more evaluation runs, which are the columns of its tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from agents.config.evaluation import PAPER_SETS
from agents.core.errors import RunError
from agents.core.samples import Sample
from agents.core.tables import number, percent
from agents.evaluation.bootstrap import Estimate
from agents.evaluation.comparison import SetComparison, compare
from agents.evaluation.run_folder import Run
from agents.report.charts import length_chart, pass_at_k_chart
from agents.report.paper import PUBLISHED, SOURCE
from agents.report.parts import (
    Cell,
    Chart,
    Headline,
    Page,
    Section,
    Settings,
    Table,
    filter_link,
    rate,
    text,
    with_mean,
)
from agents.report.viewer import BLOCKS, error_kind

Summaries = Mapping[str, Mapping[str, Any]]
"""The metrics of each run by name, as :func:`agents.evaluation.metrics.summarise` returns them."""
Metrics = Mapping[str, Any]
"""The metrics of one set of one run."""

_NOTE = "In brackets, and as the thin line on each bar: the 95% bootstrap interval over problems."
_SETS_NOTE = (
    "avg@k is the share of samples that are right, pass@k the chance that at least one of k samples is right, "
    "majority@k that the most frequent answer of k samples is right. Tokens are means per sample: written by the "
    "model, or inserted by the environment. Finished transcripts were ended by the model, cut-off ones by a limit or "
    "an infrastructure error; void ones end without an answer. Unjudged samples are invalid because of an "
    "infrastructure error: they count neither as right nor as wrong."
)


def evaluation_page(runs: Mapping[str, Run], summaries: Summaries, settings: Settings, *, progress: str = "") -> Page:
    """Build the page.

    Args:
        runs: The runs by name.
        summaries: The metrics of each run.
        settings: How they were made.
        progress: How far they are, if they are not complete.
    """
    sets = list(dict.fromkeys(name for summary in summaries.values() for name in summary["sets"]))
    samples = {name: run.rows for name, run in runs.items()}
    sections = [
        *_results(runs, summaries, sets),
        *_beside_the_paper(summaries),
        Section(id="sets", title="Each set", note=_SETS_NOTE, tables=_sets(summaries, sets)),
        *_pass_at_k(summaries, sets),
        Section(id="lengths", title="Lengths", charts=_lengths(samples)),
        *_subjects(summaries, sets),
        Section(
            id="code",
            title="Code",
            tables=[*_blocks(summaries, sets), *_recovery(summaries, sets), *_errors(samples)],
        ),
    ]
    several = f"{len(runs)} evaluations" if len(runs) > 2 else " and ".join(runs)
    return Page(
        title=f"{several} on {', '.join(sets)}",
        settings=settings,
        headlines=_headlines(next(iter(summaries.values()))) if len(runs) == 1 else [],
        sections=sections,
        runs=list(runs) if len(runs) > 1 else [],
        progress=progress,
    )


# --------------------------------------------------------------------------------------- tables whose columns are runs


def _table(title: str, corner: str, runs: Collection[str], rows: Iterable[tuple[Cell, Callable[[str], Cell]]]) -> Table:
    """Return a table with a column per run; a row is its name and a function from a run's name to a cell."""
    header = [corner, *(runs if len(runs) > 1 else ["value"])]
    return Table(title=title, header=header, rows=[[name, *map(cell, runs)] for name, cell in rows])


def _metrics(summaries: Summaries, run: str, name: str) -> Metrics | None:
    sets: Mapping[str, Metrics] = summaries[run]["sets"]
    return sets.get(name)


def _accuracy(summaries: Summaries, sets: Sequence[str]) -> Table:
    def row(name: str) -> tuple[Cell, Callable[[str], Cell]]:
        if name == "mean":
            return text("unweighted mean"), lambda run: rate(summaries[run]["mean"]["avg"])

        def cell(run: str) -> Cell:
            metrics = _metrics(summaries, run, name)
            return rate(metrics["avg"], link=filter_link(evaluation=run, set=name)) if metrics else text("-")

        known = [metrics for run in summaries if (metrics := _metrics(summaries, run, name))]
        counts = " or ".join(
            sorted({f"{metrics['problems']} problems, k = {metrics['num_samples']}" for metrics in known})
        )
        return Cell(text=name, detail=counts, link=filter_link(set=name)), cell

    return _table("avg@k, %", "set", summaries, map(row, with_mean(sets)))


def _sets(summaries: Summaries, sets: Sequence[str]) -> list[Table]:
    """Return all metrics: a table per set whose columns are the runs, or for one run a table whose columns are sets."""
    if len(summaries) > 1:
        columns = {name: {run: _metrics(summaries, run, name) for run in summaries} for name in sets}
    else:
        columns = {
            "All sets" if len(sets) > 1 else sets[0]: {
                name: _metrics(summaries, next(iter(summaries)), name) for name in sets
            }
        }
    return [
        Table(
            title=title,
            header=["metric", *of_columns],
            rows=[
                [text(label), *(text("-") if metrics is None else cell(metrics) for metrics in of_columns.values())]
                for label, cell in _METRICS.items()
            ],
        )
        for title, of_columns in columns.items()
    ]


def _at_k(key: str) -> Callable[[Metrics], Cell]:
    return lambda metrics: _plain(rate(metrics[key][str(metrics["num_samples"])]))


def _tokens(key: str) -> Callable[[Metrics], Cell]:
    return lambda metrics: text(number(metrics["tokens"][key], 0, interval=False))


def _share(key: str) -> Callable[[Metrics], Cell]:
    return lambda metrics: text(percent(metrics["rates"][key], interval=False))


_METRICS: Mapping[str, Callable[[Metrics], Cell]] = {
    "avg@k, %": lambda metrics: _plain(rate(metrics["avg"])),
    "pass@k, %": _at_k("pass_at_k"),
    "majority@k, %": _at_k("majority_at_k"),
    "code use, %": _share("used_code"),
    "tokens": _tokens("sampled"),
    "tokens, right": _tokens("sampled_correct"),
    "tokens inserted": _tokens("feedback"),
    "finished, %": _share("finished"),
    "cut off, %": _share("truncated"),
    "void, %": _share("void"),
    "unjudged": lambda metrics: text(str(metrics["unjudged"])),
}


def _plain(cell: Cell) -> Cell:
    """Return a cell without its bar."""
    return Cell(text=cell.text, detail=cell.detail)


# ---------------------------------------------------------------------------------------------------------- sections


def _headlines(summary: Mapping[str, Any]) -> list[Headline]:
    """Return a run's accuracy on each set, and its mean over several."""
    sets = summary["sets"]
    found = [
        _headline(name, metrics["avg"], f"avg@{metrics['num_samples']}, {metrics['problems']} problems")
        for name, metrics in sets.items()
    ]
    if len(sets) > 1:
        found.append(_headline("Mean", summary["mean"]["avg"], f"unweighted mean over {len(sets)} sets"))
    return found


def _headline(label: str, estimate: Mapping[str, float] | None, detail: str) -> Headline:
    if estimate is None:
        return Headline(label=label, value="-", detail=detail)
    bounds = f"95%: {percent(estimate['low'])} to {percent(estimate['high'])}"
    return Headline(label=label, value=percent(estimate["value"]), detail=f"{detail} ({bounds})", cell=rate(estimate))


def _results(runs: Mapping[str, Run], summaries: Summaries, sets: Sequence[str]) -> list[Section]:
    """Return the sections that compare runs."""
    if len(runs) < 2:
        return []
    return [
        Section(id="results", title="Results", note=_NOTE, tables=[_accuracy(summaries, sets)]),
        *_differences(runs),
    ]


def _differences(runs: Mapping[str, Run]) -> list[Section]:
    """Return what every other run gains over the first, by problem."""
    (first, base), *others = runs.items()
    compared: dict[str, Mapping[str, SetComparison]] = {}
    for name, run in others:
        try:
            compared[name] = compare(base, run)
        except RunError:  # they are not on the same problems
            continue
    if not compared:
        return []
    sets = list(dict.fromkeys(name for of_run in compared.values() for name in of_run))
    rows: list[list[Cell]] = []
    for set_name in sets:
        parts = [of_run.get(set_name) for of_run in compared.values()]
        ks = sorted({k for part in parts if part for k in part.gain_at_k if k > 1})
        kinds: list[tuple[str, Callable[[SetComparison], Cell]]] = [
            ("avg@k, points", lambda part: _gain(part.gain)),
            *((f"pass@{k}, points", lambda part, k=k: _gain(part.gain_at_k.get(k))) for k in ks[-1:]),
            ("tokens, ×", lambda part: _ratio(part.token_ratio("sampled"))),
        ]
        rows += [
            [text(f"{set_name}: {label}" if len(sets) > 1 else label), *(cell(p) if p else text("-") for p in parts)]
            for label, cell in kinds
        ]
    gained, lost = (
        [Cell(text="transcripts", link=filter_link(solved=name, missed=first)) for name in compared],
        [Cell(text="transcripts", link=filter_link(solved=first, missed=name)) for name in compared],
    )
    rows += [[text("solved here, missed by the first"), *gained], [text("solved by the first, missed here"), *lost]]
    note = (
        f"The runs against the first, {first}, paired by problem: differences in percentage points and multiples of "
        "its tokens, with 95% intervals. Bold: the interval excludes no difference."
    )
    table = Table(title=f"Against {first}", header=["difference", *compared], rows=rows)
    return [Section(id="differences", title="Paired differences", note=note, tables=[table])]


def _gain(gain: Estimate | None) -> Cell:
    return _signed(None if gain is None else gain.as_json(), zero=0, factor=100, digits=1, form="+")


def _ratio(ratio: Estimate) -> Cell:
    return _signed(ratio.as_json(), zero=1, factor=1, digits=2, form="")


def _signed(estimate: Mapping[str, float] | None, *, zero: float, factor: float, digits: int, form: str) -> Cell:
    if estimate is None:
        return text("-")
    value, low, high = (f"{factor * estimate[part]:{form}.{digits}f}" for part in ("value", "low", "high"))
    return Cell(text=value, detail=f"[{low}, {high}]", strong=not estimate["low"] <= zero <= estimate["high"])


def _beside_the_paper(summaries: Summaries) -> list[Section]:
    """Return a table with the runs above the paper's models, over the sets that both have."""
    shared = [name for name in PAPER_SETS if any(name in summary["sets"] for summary in summaries.values())]
    if not shared:
        return []
    header = ["model", "code", *with_mean(shared)]
    rows: list[list[Cell]] = []
    for name, summary in summaries.items():
        sets = summary["sets"]
        accuracies = [sets[s]["avg"] if s in sets else None for s in shared]
        known = [accuracy["value"] for accuracy in accuracies if accuracy is not None]
        mean = summary["mean"]["avg"] if sets.keys() == set(shared) else fmean(known) if all(accuracies) else None
        code = any(metrics["rates"]["used_code"]["value"] > 0 for metrics in sets.values())
        cells = [_plain(rate(accuracy)) for accuracy in [*accuracies, mean]]
        rows.append([text(name), text("yes" if code else "no"), *cells[: len(header) - 2]])
    marked = len(rows)
    for published in PUBLISHED:
        shares = [published.accuracies[s] / 100 for s in shared]
        cells = [text(percent(share)) for share in [*shares, fmean(shares)]]
        rows.append([text(published.model), text("yes" if published.code else "no"), *cells[: len(header) - 2]])
    table = Table(title="Accuracy in percent", header=header, rows=rows, marked=marked)
    note = f"Bold: these runs, with 95% intervals; their means are over the sets shown. Other rows: {SOURCE}."
    return [Section(id="paper", title="Comparison with the paper", note=note, tables=[table])]


def _pass_at_k(summaries: Summaries, sets: Sequence[str]) -> list[Section]:
    charts = []
    for set_name in sets:
        curves = {}
        for name, summary in summaries.items():
            by_k = summary["sets"].get(set_name, {"pass_at_k": {}})["pass_at_k"]
            curve = {int(k): estimate for k, estimate in by_k.items() if estimate is not None}
            if len(curve) > 1:
                curves[name] = curve
        if curves:
            charts.append(pass_at_k_chart(set_name, curves))
    note = (
        "The chance that at least one of k samples is right: the unbiased estimate from all samples of a problem. "
        "Bands are 95% bootstrap intervals over problems."
    )
    return [Section(id="pass-at-k", title="pass@k", note=note, charts=charts)] if charts else []


def _lengths(samples: Mapping[str, Sequence[Sample]]) -> list[Chart]:
    return [
        length_chart(
            f"Sampled tokens{f': {name}' if len(samples) > 1 else ''}",
            [row["sampled_tokens"] for row in rows],
            [row["sampled_tokens"] for row in rows if row["correct"]],
        )
        for name, rows in samples.items()
    ]


def _subjects(summaries: Summaries, sets: Sequence[str]) -> list[Section]:
    tables = [
        table
        for name in sets
        for facet in ("subject", "level")
        if len((table := _by_group(f"By {facet}: {name}", summaries, name, facet)).rows) > 1
    ]
    return [Section(id="subjects", title="Subjects and levels", tables=tables)] if tables else []


def _blocks(summaries: Summaries, sets: Sequence[str]) -> list[Table]:
    """Return accuracy by the outcome of the code blocks."""
    return [_by_group(f"Outcome of code blocks: {name}", summaries, name, "code", BLOCKS) for name in sets]


def _by_group(title: str, summaries: Summaries, name: str, facet: str, words: Mapping[str, str] | None = None) -> Table:
    """Return the accuracy of groups of a set's samples, with their number; groups without samples are dropped."""
    key = "by_blocks" if facet == "code" else f"by_{facet}"

    def row(group: str) -> tuple[Cell, Callable[[str], Cell]]:
        label = words[group] if words else group

        def cell(run: str) -> Cell:
            found = (_metrics(summaries, run, name) or {key: {}})[key].get(group)
            return rate(found["accuracy"], detail=f"n = {found['samples']:,}") if found else text("-")

        return Cell(text=label, link=filter_link(set=name, **{facet: label})), cell

    known = [metrics[key] for run in summaries if (metrics := _metrics(summaries, run, name))]
    groups = dict.fromkeys(group for found in known for group, of in found.items() if of["samples"])
    return _table(title, facet, summaries, map(row, groups))


def _recovery(summaries: Summaries, sets: Sequence[str]) -> list[Table]:
    """Return how often a later block ran after one had failed."""

    def row(name: str) -> tuple[Cell, Callable[[str], Cell]]:
        def cell(run: str) -> Cell:
            found = (_metrics(summaries, run, name) or {"recovery": {"samples": 0}})["recovery"]
            return rate(found["rate"], detail=f"n = {found['samples']:,}") if found["samples"] else text("-")

        return Cell(text=name, link=filter_link(set=name)), cell

    having = [s for s in sets if any((m := _metrics(summaries, r, s)) and m["recovery"]["samples"] for r in summaries)]
    title = "Recovery, %: a block failed and a later one ran"
    return [_table(title, "set", summaries, map(row, having))] if having else []


def _errors(samples: Mapping[str, Sequence[Sample]]) -> list[Table]:
    """Return the errors of the runs' blocks, most frequent first."""
    kinds = {
        name: Counter(kind for row in rows for turn in row["turns"] if (kind := error_kind(turn)))
        for name, rows in samples.items()
    }
    blocks = {
        name: sum(t["status"] is not None for row in rows for t in row["turns"]) for name, rows in samples.items()
    }

    def row(kind: str) -> tuple[Cell, Callable[[str], Cell]]:
        def cell(run: str) -> Cell:
            found = kinds[run][kind]
            return rate(found / blocks[run], detail=f"n = {found:,}") if blocks[run] else text("-")

        return Cell(text=kind, link=filter_link(error=kind)), cell

    total = sum(kinds.values(), Counter[str]())
    rows = [row(kind) for kind, _ in total.most_common(12)]
    return [_table("Errors of code blocks, % of all blocks", "error", samples, rows)] if rows else []
