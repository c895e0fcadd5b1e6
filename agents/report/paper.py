"""The paper's results, for comparison.

Source: "Towards Effective Code-Integrated Reasoning" (arXiv 2505.24480), main table. Accuracy in percent:
MATH500 greedy, the others avg@16 at temperature 1.0 and top_p 0.95. OlymMATH is OlymMATH-EN-EASY.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.config.evaluation import PAPER_SETS

SOURCE = "arXiv 2505.24480, main table: MATH500 greedy, the others avg@16 (temperature 1.0, top_p 0.95)"
"""Source of the numbers, and how they were measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A row of the paper's main table."""

    model: str
    """The model."""
    code: bool
    """Whether it runs code."""
    accuracies: Mapping[str, float]
    """Accuracy in percent, by benchmark."""


def _row(model: str, code: bool, *accuracies: float) -> Published:
    return Published(model=model, code=code, accuracies=dict(zip(PAPER_SETS, accuracies, strict=True)))


PUBLISHED: Sequence[Published] = (
    _row("Qwen2.5-Math-7B-Instruct", False, 8.12, 5.00, 45.2, 75.0, 3.38),
    _row("Qwen2.5-Math-7B-Instruct, TIR", True, 25.8, 18.8, 59.3, 78.8, 18.4),
    _row("SimpleRL-Zero-7B", False, 18.3, 6.46, 51.1, 75.4, 8.75),
    _row("Eurus-2-7B-PRIME", False, 18.8, 15.4, 62.8, 81.2, 9.94),
    _row("Oat-Zero-7B", False, 31.3, 10.4, 64.2, 79.2, 11.3),
    _row("ToRL-7B", True, 37.9, 29.2, 73.2, 83.8, 28.5),
    _row("CIR, Qwen2.5-Math-7B", True, 42.3, 29.2, 74.2, 86.4, 31.6),
    _row("CIR, Qwen3-8B non-thinking", True, 61.5, 46.3, 91.6, 93.2, 38.8),
)
"""The table's rows; accuracies in the order of `PAPER_SETS`."""
