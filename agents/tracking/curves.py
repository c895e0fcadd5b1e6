"""Learning curves with matplotlib, for the model card, benchmarks and experiments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[float, float]]
"""(x, y), in order of x."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One series of a chart."""

    points: Points
    """(step, value), in order of steps; may be empty."""
    color: str
    """Any color of matplotlib."""
    marker: str = ""
    """Marker at each point; none by default."""
    label: str | None = None
    """Name in matplotlib's legend; None keeps the curve out of it."""


def draw_curves(axes: Axes, curves: Iterable[Curve], *, is_rate: bool) -> None:
    """Draw one line per curve over the training step.

    Args:
        axes: Where to draw; the caller adds title, legend and axis labels.
        curves: The series.
        is_rate: Whether values are fractions in [0, 1]; the y axis then covers 0% to 100%.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    for curve in curves:
        steps, values = zip(*curve.points, strict=True) if curve.points else ((), ())
        axes.plot(steps, values, color=curve.color, marker=curve.marker, markersize=4, label=curve.label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(alpha=0.3)
    if is_rate:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1))


def mark_budget_changes(axes: Axes, changes: Points, *, color: str, is_labelled: bool = True) -> None:
    """Draw a dotted line at each (step, budget) at which the interaction budget changed."""
    for step, budget in changes:
        axes.axvline(step, color=color, linestyle=":", linewidth=1)
        if is_labelled:
            axes.annotate(
                f"budget {budget:g}",
                (step, 0.98),
                xycoords=("data", "axes fraction"),
                rotation=90,
                va="top",
                ha="right",
                fontsize="small",
                color=color,
            )
