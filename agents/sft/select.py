"""Rejection sampling: chooses those of a model's own samples that it is worth learning from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.core.blocks import ran, recovers
from agents.core.errors import RunError
from agents.core.samples import Sample, read_samples

FindBlock = Callable[[str], Any]
"""Returns the first block of a text, with its ``code``; None if there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The outcome of :func:`select`."""

    rows: Sequence[Sample]
    """The chosen samples, problem by problem, the densest first."""
    dropped: Mapping[str, int]
    """How many others there were, by reason."""

    def in_words(self) -> str:
        """Return the counts as text."""
        count, problems = len(self.rows), len({row["problem"] for row in self.rows})
        repaired, calls = sum(map(repairs, self.rows)), sum(map(num_calls, self.rows))
        lines = [f"Kept: {count} of {count + sum(self.dropped.values())} samples, of {problems} problems."]
        if self.rows:
            lines.append(f"Executions: {calls / count:.2f} per sample; {repaired} samples repair a failed one.")
        lines += [f"Dropped: {number} {reason}." for reason, number in self.dropped.items()]
        return "\n".join(lines)


def read_all(paths: Sequence[Path]) -> list[Sample]:
    """Return the samples of files, and of all sample files in folders; an unfinished last line is dropped.

    Raises:
        RunError: There are none, or a line is not a sample.
    """
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("samples.jsonl")))]
    rows = [row for file in files for row in read_samples(file)[0]]
    if not rows:
        raise RunError(f"Expect samples in {', '.join(map(str, paths))}, got none.")
    return rows


def select(
    rows: Sequence[Sample],
    find_block: FindBlock,
    *,
    max_per_problem: int = 4,
    min_calls: int = 1,
    repaired_only: bool = False,
) -> Selection:
    """Choose right, different samples of each problem, those with more successful executions first.

    A sample is a duplicate if another of its problem ran the same code, up to layout and comments, and gave the same
    answer; without code, if it has the same text up to layout.

    Args:
        rows: Samples.
        find_block: Finds a block of code.
        max_per_problem: How many of a problem to keep, at least 1.
        min_calls: How many blocks must have run without an error.
        repaired_only: Keep only samples in which a block ran after another had failed.
    """
    dropped: Counter[str] = Counter()
    problems: dict[str, list[Sample]] = {}
    for row in rows:
        if reason := _why_not(row, find_block, min_calls, repaired_only):
            dropped[reason] += 1
        else:
            problems.setdefault(row["problem"], []).append(row)
    chosen: list[Sample] = []
    for each in problems.values():
        different: dict[Any, Sample] = {}
        for row in sorted(each, key=_density):
            different.setdefault(_content(row, find_block), row)
        kept = list(different.values())[:max_per_problem]
        dropped["with the code and the answer of another"] += len(each) - len(different)
        dropped[f"beyond {max_per_problem} of a problem"] += len(different) - len(kept)
        chosen += kept
    return Selection(rows=chosen, dropped={reason: count for reason, count in dropped.items() if count})


def num_calls(row: Sample) -> int:
    """Return how many blocks ran without an error."""
    return sum(_outcomes(row))


def repairs(row: Sample) -> bool:
    """Whether a block ran after another had failed."""
    return recovers(_outcomes(row))


def _outcomes(row: Sample) -> list[bool]:
    return ran(turn["status"] for turn in row["turns"])


def _why_not(row: Sample, find_block: FindBlock, min_calls: int, repaired_only: bool) -> str | None:
    last = row["turns"][-1] if row["turns"] else None
    reasons = {
        "of held-out problems": row.get("kind", "training") != "training",
        "that an infrastructure error made invalid": not row["reward_valid"],
        "that did not end": not row["terminated"] or last is None,
        "with a wrong answer": not row["correct"],
        "with code that was not run": last is not None and not last["status"] and bool(find_block(last["text"])),
        f"with fewer than {min_calls} executions without an error": num_calls(row) < min_calls,
        "without a repaired execution": repaired_only and not repairs(row),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _density(row: Sample) -> tuple[int, int, int]:
    """Sort first what repairs, then what has more executions, then what is shorter."""
    return -repairs(row), -num_calls(row), row["sampled_tokens"]


def _content(row: Sample, find_block: FindBlock) -> tuple[tuple[str, ...], Any]:
    code: list[str] = []
    for turn in row["turns"]:
        code += [call for _, _, call in turn.get("calls", ())]
        if not turn.get("calls") and (block := find_block(turn["text"])) is not None:
            code.append(block.code)
    if code:
        return tuple(map(_normalised, code)), str(row["predicted"])
    return tuple(" ".join(turn["text"].split()) for turn in row["turns"]), None


def _normalised(code: str) -> str:
    r"""Return code without blank lines, lines of comments, and blanks at the ends of lines.

    >>> _normalised("# six\n\nprint(6)  \n")
    'print(6)'
    """
    return "\n".join(line.rstrip() for line in code.splitlines() if line.strip() and line.lstrip()[0] != "#")
