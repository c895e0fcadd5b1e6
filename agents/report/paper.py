"""What the paper reports, to stand beside our own figures.

Source: "Towards Effective Code-Integrated Reasoning" (arXiv 2505.24480), main table. Accuracy in percent;
MATH500 greedy, the others avg@16 at temperature 1.0 and top_p 0.95; OlymMATH is OlymMATH-EN-EASY.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SOURCE = "arXiv 2505.24480, main table: MATH500 greedy, the others avg@16 (temperature 1.0, top_p 0.95)"
"""Where the figures are from, and what they are."""
SETS: Sequence[str] = ("MATH500", "AMC23", "AIME24", "AIME25", "OlymMATH-EN-EASY")
"""The benchmarks, in the table's order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A row of the paper's main table."""

    model: str
    """The model."""
    code: bool
    """Whether it runs code."""
    accuracies: Mapping[str, float]
    """Percent right, by benchmark."""


def _row(model: str, code: bool, *accuracies: float) -> Published:
    return Published(model=model, code=code, accuracies=dict(zip(SETS, accuracies, strict=True)))


PUBLISHED: Sequence[Published] = (
    _row("Qwen2.5-Math-7B-Instruct", False, 75.0, 45.2, 8.12, 5.00, 3.38),
    _row("Qwen2.5-Math-7B-Instruct, TIR", True, 78.8, 59.3, 25.8, 18.8, 18.4),
    _row("SimpleRL-Zero-7B", False, 75.4, 51.1, 18.3, 6.46, 8.75),
    _row("Eurus-2-7B-PRIME", False, 81.2, 62.8, 18.8, 15.4, 9.94),
    _row("Oat-Zero-7B", False, 79.2, 64.2, 31.3, 10.4, 11.3),
    _row("ToRL-7B", True, 83.8, 73.2, 37.9, 29.2, 28.5),
    _row("CIR, Qwen2.5-Math-7B", True, 86.4, 74.2, 42.3, 29.2, 31.6),
    _row("CIR, Qwen3-8B non-thinking", True, 93.2, 91.6, 61.5, 46.3, 38.8),
)
"""The table's rows."""
