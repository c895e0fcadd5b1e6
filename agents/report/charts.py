"""Charts as plotly's traces and layouts; the page's script adds colors, smoothing and logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents.core.tables import percent
from agents.evaluation.bootstrap import powers_of_two
from agents.report.parts import Chart

Points = Sequence[tuple[float, float]]
"""(x, y), in order of x."""


def pass_at_k_chart(title: str, series: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Chart:
    """Return pass@k over k with its 95% intervals.

    Args:
        title: The problem set.
        series: For each evaluation by name its estimates by k, each with ``value``, ``low`` and ``high`` in [0, 1].
    """
    ks = powers_of_two(max(k for values in series.values() for k in values))
    traces: list[dict[str, Any]] = []
    for number, (name, values) in enumerate(series.items()):
        curve = sorted(values.items())
        x, y = [k for k, _ in curve], [estimate["value"] for _, estimate in curve]
        low, high = ([estimate[bound] for _, estimate in curve] for bound in ("low", "high"))
        band = {"x": [*x, *reversed(x)], "y": [*high, *reversed(low)], "fill": "toself", "mode": "none"}
        traces += [
            {**band, "hoverinfo": "skip", "showlegend": False, "meta": number},
            _line(name, number, x, y, is_rate=True),
        ]
    said = [
        f"{name}: " + ", ".join(f"pass@{k} {percent(v)}%" for k, v in values.items() if k in ks)
        for name, values in series.items()
    ]
    axis = {"title": {"text": "k"}, "type": "log", "tickvals": ks, "ticktext": [str(k) for k in ks]}
    layout = {"xaxis": axis, "yaxis": _RATE, "showlegend": len(series) > 1}
    return Chart(title=title, description=". ".join(said), traces=traces, layout=layout, size="medium")


def length_chart(title: str, lengths: Sequence[int], correct: Sequence[int]) -> Chart:
    """Return histograms of the sampled tokens per transcript: of all transcripts and of the right ones."""
    size = max(*lengths, 1) / 24
    bins = {"start": 0, "end": 25 * size, "size": size}
    named = {"all": lengths, "right": correct}
    traces = [
        {"type": "histogram", "name": name, "x": list(values), "xbins": bins, "meta": number, "opacity": 0.55}
        for number, (name, values) in enumerate(named.items())
    ]
    layout = {
        "barmode": "overlay",
        "xaxis": {"title": {"text": "sampled tokens"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "transcripts"}},
    }
    said = [f"{name}: {_quartiles(values)}" for name, values in named.items() if values]
    return Chart(title=title, description=". ".join(said), traces=traces, layout=layout, size="medium")


def learning_chart(
    title: str, series: Mapping[str, Points], *, budget_changes: Points = (), is_rate: bool, size: str = "small"
) -> Chart:
    """Return a metric by training step.

    Args:
        title: The metric.
        series: (step, value) by name of the series, each with at least one point.
        budget_changes: (step, budget) for each change of the interaction budget, marked with dotted lines.
        is_rate: Whether values are fractions in [0, 1], shown in percent.
        size: Room on the page, as for :class:`agents.report.parts.Chart`.
    """
    traces = [
        _line(name, number, [x for x, _ in points], [y for _, y in points], is_rate=is_rate)
        for number, (name, points) in enumerate(series.items())
    ]
    last = max(step for points in series.values() for step, _ in points)
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot", "width": 1.5}}
    label = {"yref": "paper", "y": 1, "yanchor": "top", "xanchor": "right", "textangle": -90, "showarrow": False}
    layout = {
        "xaxis": {"title": {"text": "step"}, **({"dtick": 1} if last <= 10 else {"tickformat": ",d"})},
        "yaxis": _axis([y for points in series.values() for _, y in points], is_rate),
        "hovermode": "x unified",
        "hoverdistance": -1,
        "shapes": [{**line, "x0": step, "x1": step} for step, _ in budget_changes],
        "annotations": [{**label, "x": step, "text": f"budget {b:g}"} for step, b in budget_changes if size == "lead"],
        "showlegend": len(series) > 1,
    }
    factor, unit = (100, "%") if is_rate else (1, "")
    said = []
    for name, points in series.items():
        (start, before), (end, after) = points[0], points[-1]
        said.append(
            f"{name}: {factor * before:.4g}{unit} in step {start:g}, {factor * after:.4g}{unit} in step {end:g}"
        )
    return Chart(title=title, description=". ".join(said), traces=traces, layout=layout, size=size)


_RATE = {"tickformat": ".0%", "range": [-0.03, 1.03]}


def _axis(values: Sequence[float], is_rate: bool) -> dict[str, Any]:
    """Return the y axis: from 0% to 100% for shares, unless all are small."""
    if is_rate and max(values) > 0.2:
        return _RATE
    return {"rangemode": "tozero", **({"tickformat": ".1~%"} if is_rate else {})}


def _line(name: str, number: int, x: Sequence[float], y: Sequence[float], *, is_rate: bool) -> dict[str, Any]:
    return {
        "name": name,
        "x": list(x),
        "y": list(y),
        "mode": "lines+markers" if len(x) <= 40 else "lines",
        "yhoverformat": ".1%" if is_rate else ".4~g",
        "meta": number,
    }


def _quartiles(values: Sequence[int]) -> str:
    ordered = sorted(values)
    low, middle, high = (ordered[int(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
    return f"{len(values)} transcripts, median {middle} tokens, half of them between {low} and {high}"
