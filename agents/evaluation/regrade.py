"""Samples judged again: the rows of an evaluation, or of someone else's, with today's grader and without a model.

The grader is passed in, so this module depends on no environment. :mod:`agents.evaluation.lm_eval` converts other
programs' files into rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, cast

from agents.core.errors import RunError
from agents.core.samples import Sample, read_samples
from agents.core.tables import percent, table

NOT_JUDGED = "not judged yet"
"""The reason of a row that was imported without a verdict."""
_MAX_LISTED = 50


class Judged(Protocol):
    """What a grader says of an answer."""

    @property
    def correct(self) -> bool:
        """Whether it is right."""

    @property
    def reason(self) -> str:
        """Why, in a few words."""

    @property
    def valid(self) -> bool:
        """False if the fault is the grader's or the right answer's."""


Submit = Callable[[str, str | None, str], Future[Any]]
"""Begins to compare: right answer, answer, answer type; a future of :class:`Judged`."""
ReadAnswer = Callable[[Sequence[str]], str | None]
"""Finds the answer in the texts of a policy's turns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A row whose verdict is another one now."""

    before: Sample
    """As it was."""
    after: Sample
    """As it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Regrading:
    """The outcome of :func:`regrade`."""

    rows: tuple[Sample, ...]
    """All rows, in order, with the verdicts of today."""
    changes: tuple[Change, ...]
    """Those of which the verdict changed."""
    still_invalid: int
    """Rows that a fault of ours had spoilt before; they were left as they are."""
    newly_invalid: int
    """Rows that cannot be judged now, since the right answer or the grader is broken."""
    accuracies: Mapping[str, tuple[float | None, float | None]]
    """By set: the mean over problems of the share of right samples, before and after; None where none is judged."""


def regrade(rows: Sequence[Sample], submit: Submit, read_answer: ReadAnswer, *, answer_type: str = "math") -> Regrading:
    """Judge rows again by the answer in the text of their turns.

    A row that a fault of ours had spoilt stays so: it may have ended before its answer. A row whose verdict changes
    gets the reward 1 or -1; what a reward function of one's own would give is not known here.

    Args:
        rows: Samples, in any order.
        submit: Judges an answer; `Grader.submit` of the environment.
        read_answer: Finds the answer, as the environment does.
        answer_type: How answers are compared where a row has no field ``answer_type``.
    """
    answers = [read_answer([turn["text"] for turn in row["turns"]]) if row["reward_valid"] else None for row in rows]
    futures = [
        submit(
            "" if row["answer"] is None else str(row["answer"]),
            answer,
            cast(dict[str, Any], row).get("answer_type") or answer_type,
        )
        if row["reward_valid"]
        else None
        for row, answer in zip(rows, answers, strict=True)
    ]
    after = [
        row if future is None else _judged(row, answer, future.result())
        for row, answer, future in zip(rows, answers, futures, strict=True)
    ]
    pairs = list(zip(rows, after, strict=True))
    return Regrading(
        rows=tuple(after),
        changes=tuple(
            Change(before=old, after=new)
            for old, new in pairs
            if old["reason"] != NOT_JUDGED and new["reward_valid"] and old["correct"] != new["correct"]
        ),
        still_invalid=sum(not old["reward_valid"] for old in rows),
        newly_invalid=sum(old["reward_valid"] and not new["reward_valid"] for old, new in pairs),
        accuracies={
            name: (accuracy([r for r in rows if r["set"] == name]), accuracy([r for r in after if r["set"] == name]))
            for name in dict.fromkeys(row["set"] for row in rows)
        },
    )


def accuracy(rows: Iterable[Sample]) -> float | None:
    """Return the mean over problems of the share of right samples, of those that are judged; None without any."""
    problems: dict[int, list[bool]] = {}
    for row in rows:
        if row["reward_valid"] and row["reason"] != NOT_JUDGED:
            problems.setdefault(row["problem_index"], []).append(row["correct"])
    return fmean(map(fmean, problems.values())) if problems else None


def in_words(regrading: Regrading) -> str:
    """Return what changed, as text and tables."""
    changes = regrading.changes
    lines = [
        f"{len(regrading.rows)} samples: {len(changes)} verdicts changed, {regrading.still_invalid} stay invalid, "
        f"{regrading.newly_invalid} cannot be judged now."
    ]
    if changes:
        cells = [_cells(change) for change in changes[:_MAX_LISTED]]
        lines.append(table(["sample", "predicted", "right answer", "before", "after", "why"], cells))
    if len(changes) > _MAX_LISTED:
        lines.append(f"... and {len(changes) - _MAX_LISTED} more.")
    figures = [[name, percent(before), percent(after)] for name, (before, after) in regrading.accuracies.items()]
    lines.append(table(["set", "accuracy before", "accuracy after"], figures))
    return "\n\n".join(lines)


def read_rows(path: Path) -> list[Sample]:
    """Read the samples of a file, of at least one.

    Raises:
        RunError: A line is no sample, the last one is half-written, or there is none.
    """
    rows, size = read_samples(path)
    if size < path.stat().st_size:
        raise RunError(
            f"{path}, line {len(rows) + 1}: Expect whole lines, got a half-written one: let the command that wrote the "
            "file go on to its end, or remove the line."
        )
    if not rows:
        raise RunError(f"Expect at least one sample in {path}, got none.")
    return rows


def _judged(row: Sample, answer: str | None, verdict: Judged) -> Sample:
    correct = verdict.correct and verdict.valid
    after = {**row, "predicted": answer, "reason": verdict.reason, "correct": correct, "reward_valid": verdict.valid}
    if correct != row["correct"] or row["reason"] == NOT_JUDGED:
        after["reward"] = 1.0 if correct else -1.0
    if not verdict.valid:
        after["reward"] = 0.0
    return cast(Sample, after)


def _cells(change: Change) -> list[str]:
    row = change.after
    sample = f"{row['problem_id']}, sample {row['sample']}"
    verdicts = [_verdict(change.before), _verdict(row)]
    return [sample, _cell(row["predicted"]), _cell(row["answer"]), *verdicts, row["reason"] or ""]


def _verdict(row: Sample) -> str:
    return "right" if row["correct"] else "wrong"


def _cell(value: object) -> str:
    text = " ".join(str(value).split()).replace("|", "\\|")
    return text if len(text) <= 40 else text[:37] + "..."
