"""Charts as SVG that use the page's CSS colors, and so follow its light or dark scheme.

Matplotlib draws numbers only: names of series are part of the page's text, which can show any character.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agents.core.tables import percent
from agents.evaluation.bootstrap import powers_of_two
from agents.report.parts import MARKERS, Chart
from agents.tracking.curves import Curve, Points, draw_curves, mark_budget_changes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

_INK, _RULE = "#0a0b0c", "#0d0e0f"
_SERIES = tuple(f"#0c0d{number:02x}" for number in range(len(MARKERS)))
_COLORS = {
    _INK: "currentColor",
    _RULE: "var(--rule)",
    **{c: f"var(--c{n})" for n, c in enumerate(_SERIES)},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.color": _RULE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


def pass_at_k_chart(title: str, series: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Chart:
    """Draw pass@k over k with its 95% intervals.

    Args:
        title: The problem set.
        series: For each evaluation by name its estimates by k, each with ``value``, ``low`` and ``high`` in [0, 1].
    """
    ks = powers_of_two(max(k for values in series.values() for k in values))

    def draw(axes: Axes) -> None:
        for number, values in enumerate(series.values()):
            curve = sorted(values.items())
            line = _curve(number, [(k, estimate["value"]) for k, estimate in curve])
            draw_curves(axes, [line], is_rate=True)
            low, high = ([estimate[bound] for _, estimate in curve] for bound in ("low", "high"))
            axes.fill_between([k for k, _ in curve], low, high, color=line.color, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.set(xlabel="k", ylabel="pass@k")

    said = [
        f"{name}: " + ", ".join(f"pass@{k} {percent(v)}%" for k, v in values.items() if k in ks)
        for name, values in series.items()
    ]
    return Chart(title=title, description=". ".join(said), svg=_svg(draw, title), legend=_legend(series))


def length_chart(title: str, lengths: Sequence[int], correct: Sequence[int]) -> Chart:
    """Draw histograms of the sampled tokens per transcript: of all transcripts and of the right ones."""
    top = max(*lengths, 1)

    def draw(axes: Axes) -> None:
        bins = [top * number / 24 for number in range(25)]
        axes.hist(lengths, bins, color=_SERIES[0], alpha=0.35)
        axes.hist(correct, bins, color=_SERIES[1], histtype="step", linewidth=1.5)
        _whole_numbers(axes.yaxis)
        axes.set(xlabel="sampled tokens", ylabel="transcripts", xlim=(0, top))

    said = [f"{name}: {_quartiles(values)}" for name, values in (("all", lengths), ("right", correct)) if values]
    return Chart(title=title, description=". ".join(said), svg=_svg(draw, title), legend=[("▬", "all"), ("▭", "right")])


def learning_chart(
    title: str, series: Mapping[str, Points], *, budget_changes: Points = (), is_rate: bool, steps: float
) -> Chart:
    """Draw a metric by training step.

    Args:
        title: The metric.
        series: (step, value) by name of the series, each with at least one point.
        budget_changes: (step, budget) for each change of the interaction budget, drawn as dotted lines.
        is_rate: Whether values are fractions in [0, 1], shown in percent.
        steps: Last step on the x axis.
    """

    def draw(axes: Axes) -> None:
        draw_curves(axes, [_curve(number, points) for number, points in enumerate(series.values())], is_rate=is_rate)
        mark_budget_changes(axes, budget_changes, color=_INK)
        axes.set(xlabel="step", xlim=(-0.02 * steps, 1.02 * steps))

    factor, unit = (100, "%") if is_rate else (1, "")
    said = []
    for name, points in series.items():
        (first, before), (last, after) = points[0], points[-1]
        said.append(
            f"{name}: {factor * before:.4g}{unit} in step {first:g}, {factor * after:.4g}{unit} in step {last:g}"
        )
    return Chart(title=title, description=". ".join(said), svg=_svg(draw, title), legend=_legend(series))


def _curve(number: int, points: Points) -> Curve:
    """Return the page's curve of a series: its own color and, unless there are many points, its own marker."""
    number %= len(_SERIES)
    return Curve(points=points, color=_SERIES[number], marker=list(MARKERS)[number] if len(points) <= 40 else "")


def _whole_numbers(axis: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _legend(series: Mapping[str, object]) -> list[tuple[str, str]]:
    if len(series) < 2:
        return []
    characters = list(MARKERS.values())
    return [(characters[number % len(characters)], name) for number, name in enumerate(series)]


def _quartiles(values: Sequence[int]) -> str:
    ordered = sorted(values)
    low, middle, high = (ordered[int(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
    return f"{len(values)} transcripts, median {middle} tokens, half of them between {low} and {high}"


def _svg(draw: Callable[[Axes], None], title: str) -> str:
    """Render a chart as an ``<svg>`` element; the title makes its element ids unique on the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": ascii(title)}):
        figure = Figure(figsize=(3.6, 2.3), layout="constrained")  # no pyplot, so no display is needed
        draw(figure.subplots())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])
    svg = re.sub(r"font-family: [^;\"]*;? ?|<style.*?</style>", "", svg)
    for color, variable in _COLORS.items():
        svg = svg.replace(color, variable)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
