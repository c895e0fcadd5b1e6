r"""Finds LaTeX formulas in text and turns them into MathML, as JSON: [tag, attributes, text or children].

Only tags and attributes in :data:`TAGS` and :data:`ATTRIBUTES` pass, since the text is a model's; the page's script
creates elements from them, never markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from latex2mathml.converter import convert_to_element

MAX_LENGTH = 1000
"""Longer formulas stay LaTeX."""
MAX_FORMULAS = 4000
"""Number of different formulas on a page; later ones stay LaTeX, since converting one takes milliseconds."""
TAGS = re.compile(
    "math|mrow|mi|mn|mo|mtext|mspace|msup|msub|msubsup|mfrac|msqrt|mroot|mover|munder|munderover|mtable|mtr|mtd|"
    "menclose|mstyle|mpadded|mphantom"
)
ATTRIBUTES = re.compile(
    "display|mathvariant|stretchy|fence|form|separator|displaystyle|scriptlevel|columnalign|linethickness|accent|"
    "accentunder|lspace|rspace|width|height|depth|movablelimits|minsize|maxsize"
)

_FORMULA = re.compile(
    r"""
      \$\$(?P<double>.+?)\$\$
    | \\\[(?P<bracket>.+?)\\\]
    | \\\((?P<round>.+?)\\\)
    | (?<![\\$])\$(?![\s$])(?P<dollar>[^$\n]+?)(?<![\s\\])\$(?![\d$])
    | (?P<boxed>\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})
    """,
    re.S | re.X,
)
_DISPLAYED = ("double", "bracket")

Part = str | int
"""Text, or the number of a formula in :attr:`Formulas.found`."""


class Formulas:
    """The formulas of a page, each converted once."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Any]] = []
        """Source and MathML of each."""
        self._numbers: dict[str, int | None] = {}

    def split(self, text: str) -> list[Part]:
        r"""Split text at its formulas; what cannot be converted stays text.

        >>> formulas = Formulas()
        >>> formulas.split("So $x$ costs $5 and $6.")
        ['So ', 0, ' costs $5 and $6.']
        >>> formulas.found[0]
        ('$x$', ['math', {'display': 'inline'}, [['mrow', {}, [['mi', {}, 'x']]]]])
        """
        return list(_join(self._parts(text)))

    def _parts(self, text: str) -> Iterator[Part]:
        end = 0
        for match in _FORMULA.finditer(text):
            yield text[end : match.start()]
            source, end = match[0], match.end()
            if source not in self._numbers:
                self._numbers[source] = self._add(source, match[match.lastgroup or 0], match.lastgroup in _DISPLAYED)
            number = self._numbers[source]
            yield source if number is None else number
        yield text[end:]

    def _add(self, source: str, latex: str, is_displayed: bool) -> int | None:
        if len(latex) > MAX_LENGTH or len(self.found) >= MAX_FORMULAS:
            return None
        try:
            tree = _plain(convert_to_element(latex.strip(), display="block" if is_displayed else "inline"))
        except Exception:  # a model's text; the library raises whatever it stumbles on, RecursionError included
            return None
        if tree is None:
            return None
        self.found.append((source, tree))
        return len(self.found) - 1


def _plain(element: Any) -> list[Any] | None:
    """Return an element as JSON; None if it holds a command that the library does not know."""
    if not TAGS.fullmatch(element.tag):
        return None
    attributes = {name: value for name, value in element.items() if ATTRIBUTES.fullmatch(name)}
    text = _ENTITY.sub(lambda code: chr(int(code[1], 16)), element.text or "")
    if not len(element):
        return None if text.lstrip().startswith("\\") else [element.tag, attributes, text]
    children = [_plain(child) for child in element]
    return None if None in children else [element.tag, attributes, children]


_ENTITY = re.compile(r"&#x([0-9A-Fa-f]{1,6});")


def _join(parts: Iterable[Part]) -> Iterator[Part]:
    """Join neighbouring texts."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        text = ""
        yield part
    if text:
        yield text
