"""The data model of a page; the template defines its appearance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from agents.core.tables import percent


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    """Its text."""
    detail: str = ""
    """Smaller text below it, such as an interval."""
    share: float | None = None
    """Draws a bar of this fraction of the cell's width, in [0, 1]."""
    low: float | None = None
    """Lower end of the error bar, in [0, 1]; None: no error bar."""
    high: float | None = None
    """Upper end of the error bar, in [0, 1]."""
    link: str | None = None
    """Target of the text's link."""
    strong: bool = False
    """Whether the text is emphasised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table; the first column holds the row names."""

    title: str
    """Its caption."""
    header: Sequence[str]
    """Names of the columns."""
    rows: Sequence[Sequence[Cell]]
    """The cells, row by row."""
    marked: int = 0
    """Number of leading rows that are highlighted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart, drawn by plotly."""

    title: str
    """Its caption."""
    description: str
    """Text alternative with the most important numbers."""
    traces: Sequence[Mapping[str, Any]]
    """Plotly traces; ``meta`` is the number of a trace's color."""
    layout: Mapping[str, Any]
    """Plotly's layout."""
    size: str = "small"
    """How much room it gets: "lead", "medium" or "small"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A section of the page."""

    id: str
    """Anchor for links."""
    title: str
    """Its heading."""
    note: str = ""
    """Explanation below the heading."""
    tables: Sequence[Table] = ()
    """Its tables."""
    charts: Sequence[Chart] = ()
    """Its charts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """One of the main results at the top of the page."""

    label: str
    """What was measured."""
    value: str
    """The result."""
    detail: str
    """How it was measured."""
    cell: Cell | None = None
    """The result as a bar with its error bar."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How the runs were made."""

    facts: Mapping[str, str] = field(default_factory=dict)
    """Label and value of what is always shown."""
    table: Table | None = None
    """What differs between runs, which are the columns."""
    folded: Mapping[str, str] = field(default_factory=dict)
    """Label and value of all else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page without its transcripts."""

    title: str
    """Its heading."""
    settings: Settings
    """How the runs were made."""
    headlines: Sequence[Headline] = ()
    """The main results."""
    sections: Sequence[Section] = ()
    """All sections, in order."""
    runs: Sequence[str] = ()
    """Names of the runs whose transcripts can be compared; empty for a single run."""
    progress: str = ""
    """What is still missing, of a run in progress."""


def text(value: str) -> Cell:
    """Return a plain text cell."""
    return Cell(text=value)


def rate(estimate: Mapping[str, float] | float | None, *, link: str | None = None, detail: str = "") -> Cell:
    """Return a cell with a fraction in percent as text and bar, and its interval if it has one."""
    if isinstance(estimate, Mapping):
        low, high = estimate["low"], estimate["high"]
        interval = f"[{percent(low)}, {percent(high)}]"
        return Cell(
            text=percent(estimate["value"]),
            detail=f"{interval} {detail}".strip(),
            share=estimate["value"],
            low=low,
            high=high,
            link=link,
        )
    return Cell(text=percent(estimate), detail=detail, share=estimate, link=link)


def with_mean(names: Iterable[str]) -> list[str]:
    """Return the names of problem sets, and "mean" after several."""
    found = list(names)
    return [*found, "mean"] if len(found) > 1 else found


def filter_link(**facets: str) -> str:
    """Return the link that filters the transcripts by these facets.

    >>> filter_link(set="AIME24", verdict="wrong")
    '#?set=AIME24&verdict=wrong'
    """
    return "#?" + urlencode({key: clean(value) for key, value in facets.items()})


def clean(value: str) -> str:
    r"""Return text as it survives a round trip through HTML: lone surrogates and control characters are replaced.

    >>> clean("a\ud800b\0")
    'a?b\ufffd'
    """
    return re.sub(r"[\x00-\x1f]", "\ufffd", value.encode("utf-8", "replace").decode())
