"""Content of the page about one or more evaluation runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from agents.config.evaluation import PAPER_SETS
from agents.core.samples import Sample
from agents.core.tables import percent
from agents.report.charts import length_chart, pass_at_k_chart
from agents.report.paper import PUBLISHED, SOURCE
from agents.report.parts import Cell, Chart, Headline, Page, Section, Table, filter_link, text
from agents.report.viewer import BLOCKS, error_kind

Summaries = Mapping[str, Mapping[str, Any]]
"""The metrics of each run by name, as :func:`agents.evaluation.metrics.summarise` returns them."""
Samples = Mapping[str, Sequence[Sample]]
"""The samples of each run by name."""

_NOTE = (
    "avg@k is the share of samples that are right, pass@k the chance that at least one of k samples is right, "
    "majority@k the chance that the most frequent answer of k samples is right. In brackets: the 95% bootstrap "
    "interval over problems. Unjudged samples are invalid because of an infrastructure error: they count neither as "
    "right nor as wrong. Tokens are means per sample: written by the model, or inserted by the environment. Finished "
    "transcripts were ended by the model, cut-off ones by a limit or an infrastructure error; void ones end without an "
    "answer."
)


def evaluation_page(samples: Samples, summaries: Summaries, facts: Mapping[str, str]) -> Page:
    """Build the page.

    Args:
        samples: The samples of each run.
        summaries: The metrics of each run.
        facts: Label and value of each setting shown in the heading.
    """
    sets = list(dict.fromkeys(name for summary in summaries.values() for name in summary["sets"]))
    sections = [
        Section(id="results", title="Results", note=_NOTE, tables=[_results(summaries), _endings(summaries)]),
        *_beside_the_paper(summaries),
        *_pass_at_k(summaries, sets),
        Section(id="lengths", title="Lengths", charts=_lengths(samples)),
        *_subjects(summaries),
        Section(id="code", title="Code", tables=[*_blocks(summaries), *_recovery(summaries), *_errors(samples)]),
    ]
    title = f"{' and '.join(summaries)} on {', '.join(sets)}"
    return Page(title=title, facts=facts, headlines=_headlines(summaries), sections=sections)


def _sets(summaries: Summaries) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield name, link to the transcripts, and metrics of each set of each run."""
    several = len(summaries) > 1
    for name, summary in summaries.items():
        for set_name, metrics in summary["sets"].items():
            link = filter_link(**({"evaluation": name} if several else {}), set=set_name)
            yield f"{set_name}: {name}" if several else set_name, link, metrics


def _headlines(summaries: Summaries) -> list[Headline]:
    """Return each run's accuracy on each set, and its mean over several."""
    found = []
    for name, summary in summaries.items():
        before = f"{name}: " if len(summaries) > 1 else ""
        sets = summary["sets"]
        for set_name, metrics in sets.items():
            detail = f"avg@{metrics['num_samples']}, {metrics['problems']} problems"
            found.append(_headline(before + set_name, metrics["avg"], detail))
        if len(sets) > 1:
            detail = f"unweighted mean over {len(sets)} sets"
            found.append(_headline(before + "Mean", summary["mean"]["avg"], detail))
    return found


def _headline(label: str, estimate: Mapping[str, float] | None, detail: str) -> Headline:
    if estimate is None:
        return Headline(label=label, value="-", detail=detail)
    bounds = f"95%: {percent(estimate['low'])} to {percent(estimate['high'])}"
    bar = Cell(text="", share=estimate["value"], low=estimate["low"], high=estimate["high"])
    return Headline(label=label, value=percent(estimate["value"]), detail=f"{detail} ({bounds})", cell=bar)


def _results(summaries: Summaries) -> Table:
    header = [
        *("set", "problems", "k", "avg@k, %", "pass@k, %", "majority@k, %", "code use, %"),
        *("tokens", "tokens, right", "inserted"),
    ]
    rows = []
    for name, link, metrics in _sets(summaries):
        k, tokens, rates = metrics["num_samples"], metrics["tokens"], metrics["rates"]
        cells = [
            str(metrics["problems"]),
            str(k),
            percent(metrics["avg"]),
            percent(metrics["pass_at_k"][str(k)]),
            percent(metrics["majority_at_k"][str(k)]),
            percent(rates["used_code"], interval=False),
            *(_count(tokens[kind]) for kind in ("sampled", "sampled_correct", "feedback")),
        ]
        rows.append([Cell(text=name, link=link), *map(text, cells)])
    return Table(title="Each set", header=header, rows=rows)


def _endings(summaries: Summaries) -> Table:
    rows = []
    for name, link, metrics in _sets(summaries):
        shares = [percent(metrics["rates"][kind], interval=False) for kind in ("finished", "truncated", "void")]
        rows.append([Cell(text=name, link=link), *map(text, [*shares, str(metrics["unjudged"])])])
    header = ["set", "finished, %", "cut off, %", "void, %", "unjudged"]
    return Table(title="How transcripts end", header=header, rows=rows)


def _count(estimate: Mapping[str, float] | None) -> str:
    return "-" if estimate is None else f"{estimate['value']:,.0f}"


def _beside_the_paper(summaries: Summaries) -> list[Section]:
    """Return a table with the runs above the paper's models, over the sets that both have."""
    shared = [name for name in PAPER_SETS if any(name in summary["sets"] for summary in summaries.values())]
    if not shared:
        return []
    header = ["model", "code", *shared, *(["mean"] if len(shared) > 1 else [])]
    rows = []
    for name, summary in summaries.items():
        sets = summary["sets"]
        accuracies = [sets[s]["avg"] if s in sets else None for s in shared]
        known = [accuracy["value"] for accuracy in accuracies if accuracy is not None]
        mean = summary["mean"]["avg"] if sets.keys() == set(shared) else fmean(known) if all(accuracies) else None
        code = any(metrics["rates"]["used_code"]["value"] > 0 for metrics in sets.values())
        rows.append([name, "yes" if code else "no", *map(percent, [*accuracies, mean])])
    marked = len(rows)
    for published in PUBLISHED:
        shares = [published.accuracies[s] / 100 for s in shared]
        rows.append([published.model, "yes" if published.code else "no", *map(percent, [*shares, fmean(shares)])])
    cells = [[text(cell) for cell in row[: len(header)]] for row in rows]
    table = Table(title="Accuracy in percent", header=header, rows=cells, marked=marked)
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


def _lengths(samples: Samples) -> list[Chart]:
    charts = []
    for name, rows in samples.items():
        for set_name in dict.fromkeys(row["set"] for row in rows):
            own = [row for row in rows if row["set"] == set_name]
            right = [row["sampled_tokens"] for row in own if row["correct"] and row["reward_valid"]]
            title = f"{set_name}: {name}" if len(samples) > 1 else set_name
            charts.append(length_chart(title, [row["sampled_tokens"] for row in own], right))
    return charts


def _subjects(summaries: Summaries) -> list[Section]:
    """Return accuracy by subject and by level, for sets with several."""
    tables = []
    for facet in ("subject", "level"):
        for name, link, metrics in _sets(summaries):
            groups = metrics[f"by_{facet}"]
            if len(groups) > 1:
                rows = [
                    _rate_row(group, f"{link}&{filter_link(**{facet: group})[2:]}", found)
                    for group, found in groups.items()
                ]
                title = f"By {facet}: {name}"
                tables.append(Table(title=title, header=[facet, "accuracy, %", "samples"], rows=rows))
    return [Section(id="subjects", title="Subjects and levels", tables=tables)] if tables else []


def _blocks(summaries: Summaries) -> list[Table]:
    """Return accuracy by the outcome of the code blocks."""
    tables = []
    for name, link, metrics in _sets(summaries):
        groups = {BLOCKS[kind]: found for kind, found in metrics["by_blocks"].items() if found["samples"]}
        rows = [_rate_row(words, f"{link}&{filter_link(code=words)[2:]}", found) for words, found in groups.items()]
        header = ["code blocks", "accuracy, %", "samples"]
        tables.append(Table(title=f"Outcome of code blocks: {name}", header=header, rows=rows))
    return tables


def _recovery(summaries: Summaries) -> list[Table]:
    """Return how often a later block ran after one had failed."""
    rows = [
        _rate_row(name, link, {"accuracy": metrics["recovery"]["rate"], **metrics["recovery"]})
        for name, link, metrics in _sets(summaries)
        if metrics["recovery"]["samples"]
    ]
    title = "Recovery: a block failed and a later one ran"
    return (
        [Table(title=title, header=["set", "recovered, %", "samples with a failed block"], rows=rows)] if rows else []
    )


def _rate_row(name: str, link: str, group: Mapping[str, Any]) -> list[Cell]:
    estimate = group["accuracy"]
    rate = text("-")
    if estimate is not None:
        rate = Cell(
            text=percent(estimate["value"]), share=estimate["value"], low=estimate["low"], high=estimate["high"]
        )
    return [Cell(text=name, link=link), rate, text(f"{group['samples']:,}")]


def _errors(samples: Samples) -> list[Table]:
    """Return the errors of each run's blocks, most frequent first."""
    tables = []
    for name, rows in samples.items():
        own = {"evaluation": name} if len(samples) > 1 else {}
        kinds = Counter(kind for row in rows for turn in row["turns"] if (kind := error_kind(turn)))
        blocks = sum(turn["status"] is not None for row in rows for turn in row["turns"])
        found = [
            [
                Cell(text=kind, link=filter_link(**own, error=kind)),
                Cell(text=percent(number / blocks), share=number / blocks),
                text(f"{number:,}"),
            ]
            for kind, number in kinds.most_common(12)
        ]
        if found:
            title = f"Errors of code blocks{f': {name}' if own else ''}"
            tables.append(Table(title=title, header=["error", "of all blocks, %", "blocks"], rows=found))
    return tables
