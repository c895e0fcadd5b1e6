"""Formatting of tables and numbers for the terminal and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table; the first column is left-aligned, the others right-aligned.

    >>> print(table(["set", "avg@1"], [["products", "9.4"]]))
    | set      | avg@1 |
    | :------- | ----: |
    | products |   9.4 |
    """
    widths = [max(2, *(len(row[i]) for row in [header, *rows])) for i in range(len(header))]
    rules = [":" + "-" * (w - 1) if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join(line(cells) for cells in [header, rules, *rows])


def percent(fraction: float | Mapping[str, float] | None, *, interval: bool = True) -> str:
    """Format a fraction in percent, an estimate with its interval; "-" for None.

    >>> percent(0.5236), percent(None), percent({"value": 0.5, "low": 0.4, "high": 0.625})
    ('52.4', '-', '50.0 [40.0, 62.5]')
    """
    if isinstance(fraction, Mapping):
        return number(fraction, 1, factor=100, interval=interval)
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def short(value: float) -> str:
    """Format a number in three digits, or as a whole one.

    >>> short(0.70312), short(1523.8)
    ('0.703', '1,524')
    """
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def number(estimate: Mapping[str, float] | None, digits: int, *, factor: float = 1, interval: bool = True) -> str:
    """Format an estimate, multiplied by ``factor``, with or without its interval; "-" for None."""
    if estimate is None:
        return "-"
    value, low, high = (f"{factor * estimate[part]:.{digits}f}" for part in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" if interval else value


def score_interval(share: float, observations: int) -> tuple[float, float]:
    """Return a fast, conservative 95% interval of a mean of numbers in [0, 1]: the binomial's (Wilson, 1927).

    >>> [round(bound, 3) for bound in score_interval(0.0, 10)]
    [0.0, 0.278]
    """
    z = 1.96
    spread = z * (share * (1 - share) / observations + z**2 / (4 * observations**2)) ** 0.5
    centre = share + z**2 / (2 * observations)
    low, high = ((centre + sign * spread) / (1 + z**2 / observations) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)
