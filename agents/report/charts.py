"""Charts as SVG whose colours are the page's own, so that they follow a dark screen.

Matplotlib gets numbers alone: names stand in the page's text, where any character can be shown.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agents.core.tables import percent
from agents.evaluation.bootstrap import powers_of_two
from agents.report.parts import MARKERS, Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

Points = Sequence[tuple[float, float]]
"""(x, y), in order of x."""

_INK, _RULE, _GRID = "#0a0b0c", "#0d0e0f", "#0e0f10"
_SERIES = tuple(f"#0c0d{number:02x}" for number in range(len(MARKERS)))
_COLOURS = {
    _INK: "currentColor",
    _RULE: "var(--rule)",
    _GRID: "var(--line)",
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
    "grid.color": _GRID,
    "axes.grid": True,
    "grid.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


def pass_at_k_chart(title: str, series: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Chart:
    """Draw pass@k over k with its intervals; ``series`` are the estimates by k of each evaluation."""
    ks = powers_of_two(max(k for values in series.values() for k in values))

    def draw(axes: Axes) -> None:
        for number, values in enumerate(series.values()):
            curve = sorted(values.items())
            _line(axes, number, [(k, 100 * estimate["value"]) for k, estimate in curve])
            low, high = ([100 * estimate[bound] for _, estimate in curve] for bound in ("low", "high"))
            color = _SERIES[number % len(_SERIES)]
            axes.fill_between([k for k, _ in curve], low, high, color=color, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.set(xlabel="k", ylabel="pass@k, %", ylim=(-3, 103))

    said = [
        f"{name}: " + ", ".join(f"pass@{k} {percent(v)}%" for k, v in values.items() if k in ks)
        for name, values in series.items()
    ]
    return Chart(title=title, description=". ".join(said), svg=_svg(draw, title), legend=_legend(series))


def length_chart(title: str, lengths: Sequence[int], correct: Sequence[int]) -> Chart:
    """Draw how many transcripts, and how many right ones, have how many sampled tokens."""
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
    title: str, series: Mapping[str, Points], *, budgets: Points = (), percent: bool = False, steps: float = 1
) -> Chart:
    """Draw a figure by step, with a dotted line at each (step, budget) where the interaction budget changed."""

    def draw(axes: Axes) -> None:
        for number, points in enumerate(series.values()):
            _line(axes, number, [(x, 100 * y if percent else y) for x, y in points])
        for step, budget in budgets:
            axes.axvline(step, color=_INK, linestyle=":", linewidth=1)
            place = axes.get_xaxis_transform()
            axes.text(step, 0.98, f" {budget:g}", transform=place, va="top", fontsize=8)
        _whole_numbers(axes.xaxis)
        axes.set(xlabel="step", ylabel="%" if percent else "", xlim=(-0.02 * steps, 1.02 * steps))
        if percent:
            axes.set_ylim(-3, 103)

    unit = "%" if percent else ""
    said = []
    for name, points in series.items():
        (first, before), (last, after) = points[0], points[-1]
        before, after = (100 * before, 100 * after) if percent else (before, after)
        said.append(f"{name}: {before:.4g}{unit} in step {first:g}, {after:.4g}{unit} in step {last:g}")
    return Chart(title=title, description=". ".join(said), svg=_svg(draw, title), legend=_legend(series))


def _line(axes: Axes, number: int, points: Points) -> None:
    number %= len(_SERIES)
    xs, ys = zip(*points, strict=True)
    marker = list(MARKERS)[number] if len(points) <= 40 else ""
    line = "-" if len(points) > 2 else "none"  # what was measured before and after alone has no course
    axes.plot(xs, ys, line, color=_SERIES[number], marker=marker, markersize=4, linewidth=1.5)


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
    """Return the picture without what stands before the tag; the title keeps its names apart from another's."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": ascii(title)}):
        figure = Figure(figsize=(3.6, 2.3), layout="constrained")  # without pyplot: it draws in memory
        draw(figure.subplots())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])
    svg = re.sub(r"font-family: [^;\"]*;? ?|<style.*?</style>", "", svg)
    for colour, variable in _COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
