"""What a page is made of, apart from how it looks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

MARKERS = {"o": "●", "^": "▲", "s": "■", "D": "◆", "v": "▼", "P": "✚"}
"""Markers of a chart's series, in order, each with the character that stands for it in a legend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    """What stands in it."""
    share: float | None = None
    """Draws a bar of this part of the cell's width."""
    low: float | None = None
    """Where the error bar begins; None: there is none."""
    high: float | None = None
    """Where it ends."""
    link: str | None = None
    """Where the text leads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table; the first column names its row."""

    title: str
    """What it is about."""
    header: Sequence[str]
    """The columns' names."""
    rows: Sequence[Sequence[Cell]]
    """The cells, row by row."""
    marked: int = 0
    """How many rows stand out, from the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A picture."""

    title: str
    """What it shows."""
    description: str
    """The same for who cannot see it, figures included."""
    svg: str
    """The picture."""
    legend: Sequence[tuple[str, str]] = ()
    """For each series its marker's character and its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page with a heading."""

    id: str
    """Its name in links."""
    title: str
    """Its heading."""
    note: str = ""
    """What is to be known before reading it."""
    tables: Sequence[Table] = ()
    """Its tables."""
    charts: Sequence[Chart] = ()
    """Its pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """One of the figures that a reader is after."""

    label: str
    """What was measured."""
    value: str
    """The figure."""
    detail: str
    """How it was measured."""
    cell: Cell | None = None
    """The figure as a bar with its error bar."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Everything on a page but the transcripts."""

    title: str
    """What was measured."""
    facts: Mapping[str, str]
    """How it was measured."""
    headlines: Sequence[Headline]
    """The first figures."""
    sections: Sequence[Section]
    """The others."""


def text(value: str) -> Cell:
    """Return a cell with nothing but text."""
    return Cell(text=value)


def filter_link(**facets: str) -> str:
    """Return the link that shows the transcripts with these properties.

    >>> filter_link(set="AIME24", verdict="wrong")
    '#?set=AIME24&verdict=wrong'
    """
    return "#?" + urlencode({key: clean(value) for key, value in facets.items()})


def clean(value: str) -> str:
    r"""Return text as it is after a way through HTML: half a surrogate pair and control characters are replaced.

    >>> clean("a\ud800b\0")
    'a?b\ufffd'
    """
    return re.sub(r"[\x00-\x1f]", "\ufffd", value.encode("utf-8", "replace").decode())
