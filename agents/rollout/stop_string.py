r"""Where a stop string would end a turn, in place of exact blocks; here for the ablation alone (`rollout.boundary`)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.core.types import Completion

_BLOCK = re.compile(r"```python.*?```", re.DOTALL)


def stop_end(text: str) -> int | None:
    r"""Return where the first closing fence after an opening one ends, wherever in its line it stands.

    >>> stop_end("```python\nprint(1)\n```\nSo"), stop_end("```python\nprint('```')"), stop_end("```python\nprint(1)")
    (22, 20, None)
    """
    found = _BLOCK.search(text)
    return None if found is None else found.end()


class StopString:
    """A scanner that ends a turn at the stop string."""

    def __init__(self) -> None:
        self._text = ""

    def feed(self, piece: str) -> int | None:
        """Take the next piece of text; return where the stop string ends, once it has come."""
        self._text += piece
        return stop_end(self._text)


def cut_text(completion: Completion) -> Completion:
    """Return the completion without the text behind the stop string, of which its last token may hold some."""
    return replace(completion, text=completion.text[: stop_end(completion.text)])
