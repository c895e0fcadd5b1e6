"""Regrades stored samples, of this package or others, with the current grader and without a model.

The grader is passed in, so this module does not depend on an environment. :mod:`agents.evaluation.lm_eval` imports the
files of other programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, cast

from agents.core.errors import RunError
from agents.core.samples import Sample, outside_calls, read_samples
from agents.core.tables import percent, table

NOT_JUDGED = "not judged yet"
"""Reason of a row that was imported without a verdict."""
_MAX_LISTED = 50


class Judged(Protocol):
    """A grader's verdict on an answer."""

    @property
    def correct(self) -> bool:
        """Whether it is right."""

    @property
    def reason(self) -> str:
        """Why, in a few words."""

    @property
    def valid(self) -> bool:
        """False if the grader failed or the reference answer is broken."""


Submit = Callable[..., Future[Any]]
"""Starts grading (right answer, answer, answer type, ``statement=``, ``metadata=``); returns a future of
:class:`Judged`."""
ReadAnswer = Callable[[Sequence[str]], str | None]
"""Extracts the answer from the texts of a policy's turns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A row whose verdict has changed."""

    before: Sample
    """The row before regrading."""
    after: Sample
    """The row after regrading."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Regrading:
    """The outcome of :func:`regrade`."""

    rows: tuple[Sample, ...]
    """All rows, in order, with the new verdicts."""
    changes: tuple[Change, ...]
    """The rows whose verdict changed."""
    still_invalid: int
    """Number of rows that were invalid before because of an infrastructure error; they are unchanged."""
    newly_invalid: int
    """Number of rows that cannot be judged now because the reference answer or the grader is broken."""
    accuracies: Mapping[str, tuple[float | None, float | None]]
    """Accuracy before and after by set, the mean over problems of the share of right samples; None: none judged."""


def regrade(rows: Sequence[Sample], submit: Submit, read_answer: ReadAnswer, *, answer_type: str = "math") -> Regrading:
    """Regrade rows by the answer in the text of their turns.

    Rows that an infrastructure error made invalid stay invalid: they may have ended before their answer. A row whose
    verdict changes gets the reward 1 or -1; custom reward functions are not known here.

    Args:
        rows: Samples, in any order.
        submit: Grades an answer, such as the environment's `Grader.submit`.
        read_answer: Extracts the answer as the environment does.
        answer_type: Answer type of rows without a field ``answer_type``.
    """
    texts = [[text for turn in row["turns"] for text in outside_calls(turn)] for row in rows]
    answers = [read_answer(text) if row["reward_valid"] else None for row, text in zip(rows, texts, strict=True)]
    futures = [
        submit(
            "" if row["answer"] is None else str(row["answer"]),
            answer,
            cast(dict[str, Any], row).get("answer_type") or answer_type,
            statement=row["problem"],
            metadata=row.get("metadata"),
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
    """Return the mean over problems of the share of right samples among the judged ones; None if there are none."""
    problems: dict[int, list[bool]] = {}
    for row in rows:
        if row["reward_valid"] and row["reason"] != NOT_JUDGED:
            problems.setdefault(row["problem_index"], []).append(row["correct"])
    return fmean(map(fmean, problems.values())) if problems else None


def in_words(regrading: Regrading) -> str:
    """Return the changes as text and tables."""
    changes = regrading.changes
    lines = [
        f"{len(regrading.rows)} samples: {len(changes)} verdicts changed, {regrading.still_invalid} still invalid, "
        f"{regrading.newly_invalid} newly invalid."
    ]
    if changes:
        cells = [_cells(change) for change in changes[:_MAX_LISTED]]
        lines.append(table(["sample", "predicted", "right answer", "before", "after", "reason"], cells))
    if len(changes) > _MAX_LISTED:
        lines.append(f"... and {len(changes) - _MAX_LISTED} more.")
    accuracies = [[name, percent(before), percent(after)] for name, (before, after) in regrading.accuracies.items()]
    lines.append(table(["set", "accuracy before", "accuracy after"], accuracies))
    return "\n\n".join(lines)


def read_rows(path: Path) -> list[Sample]:
    """Read the samples of a file, at least one.

    Raises:
        RunError: The file is empty, a line is not a sample, or the last line is incomplete.
    """
    rows, size = read_samples(path)
    if size < path.stat().st_size:
        raise RunError(
            f"{path}, line {len(rows) + 1}: Expect complete lines, got a partial one: let the command that writes the "
            "file finish, or remove the line."
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
