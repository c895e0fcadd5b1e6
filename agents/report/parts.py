"""The data model of a page; the template defines its appearance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

MARKERS = {"o": "●", "^": "▲", "s": "■", "D": "◆", "v": "▼", "P": "✚"}
"""Matplotlib markers of a chart's series, in order, each with its character in the legend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    """Its text."""
    share: float | None = None
    """Draws a bar of this fraction of the cell's width, in [0, 1]."""
    low: float | None = None
    """Lower end of the error bar, in [0, 1]; None: no error bar."""
    high: float | None = None
    """Upper end of the error bar, in [0, 1]."""
    link: str | None = None
    """Target of the text's link."""


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
    """A chart."""

    title: str
    """Its caption."""
    description: str
    """Text alternative for screen readers, with the most important numbers."""
    svg: str
    """The chart as an ``<svg>`` element."""
    legend: Sequence[tuple[str, str]] = ()
    """Marker character and name of each series."""


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
class Page:
    """A page without its transcripts."""

    title: str
    """Its heading."""
    facts: Mapping[str, str]
    """Label and value of each setting below the heading."""
    headlines: Sequence[Headline]
    """The main results."""
    sections: Sequence[Section]
    """All sections, in order."""


def text(value: str) -> Cell:
    """Return a plain text cell."""
    return Cell(text=value)


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
