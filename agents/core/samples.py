"""One row for each episode that was played: what a reader, a report or another program wants to know of it.

``evaluate.py`` writes one JSON object a line, and so does ``train.py`` to ``samples.jsonl``, with ``step`` and ``kind``
beside these fields.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from agents.core.errors import RunError
from agents.core.files import json_line, read_json_lines
from agents.core.types import FinishReason, Trajectory

if TYPE_CHECKING:
    from types import TracebackType


class SampleTurn(TypedDict):
    """One action, and what the environment answered."""

    text: str
    """What the policy wrote and the environment kept."""
    feedback: str
    """What the environment inserted after it; empty after the last turn."""
    status: str | None
    """How the turn's code block ended, such as "ok"; None if none was executed."""
    finish_reason: FinishReason
    """Why the engine stopped."""


class Sample(TypedDict):
    """One episode. What an environment does not report is None, or empty."""

    set: str
    """Name of the set of problems."""
    problem_index: int
    """The problem's place in its set."""
    sample: int
    """The episode's number among those of its problem."""
    problem_id: str
    subject: str | None
    level: str | None
    problem: str
    """The statement."""
    turns: list[SampleTurn]
    """In order."""
    predicted: Any
    """What was read as the answer; None if nothing was."""
    answer: Any
    """The right answer."""
    reason: str | None
    """Why the answer is right or wrong, in a few words."""
    reward: float
    reward_valid: bool
    """False if a fault of ours spoilt the episode: then it counts neither way."""
    correct: bool
    terminated: bool
    """The policy gave its final answer."""
    truncated: bool
    """A limit or a fault ended the episode."""
    void: bool
    """Its end holds no answer."""
    interactions: int
    """Code blocks that were executed."""
    sampled_tokens: int
    """Tokens that the policy wrote."""
    feedback_tokens: int
    """Tokens that the environment wrote behind the prompt."""
    boundary_cuts: int
    """Tokens that were cut at the end of a block; see :func:`agents.rollout.episode.keep_tokens`."""


def transcript(trajectory: Trajectory, *, set_name: str | None = None) -> Sample:
    """Return a trajectory's row, ready for JSON.

    Args:
        trajectory: The episode.
        set_name: The set of problems that it is from; by default what the environment calls the problem's source.
    """
    info = trajectory.info
    sampled = sum(trajectory.action_mask)
    turns: list[SampleTurn] = [
        {
            "text": turn.text,
            "feedback": turn.feedback,
            "status": turn.info.get("execution_status"),
            "finish_reason": turn.finish_reason,
        }
        for turn in trajectory.turns
    ]
    return {
        "set": set_name if set_name is not None else str(info.get("source") or ""),
        "problem_index": int(info.get("problem_index", trajectory.group_id)),
        "sample": trajectory.sample,
        "problem_id": trajectory.problem_id,
        "subject": info.get("subject") or None,
        "level": info.get("level") or None,
        "problem": str(info.get("statement") or ""),
        "turns": turns,
        "predicted": info.get("predicted"),
        "answer": info.get("answer"),
        "reason": info.get("reason") or None,
        "reward": trajectory.reward,
        "reward_valid": trajectory.reward_valid,
        "correct": trajectory.is_correct,
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
        "void": trajectory.is_void,
        "interactions": info["interaction_budget"] - info["interactions_left"] if "interactions_left" in info else 0,
        "sampled_tokens": sampled,
        "feedback_tokens": len(trajectory.token_ids) - trajectory.prompt_length - sampled,
        "boundary_cuts": trajectory.boundary_cuts,
    }


def read_samples(path: Path) -> tuple[list[Sample], int]:
    """Return the rows of a file, and how many bytes their lines have.

    What stands behind the last line's end was being written when a process was killed; it is left out.

    Raises:
        RunError: A whole line is no row.
    """
    rows, size = read_json_lines(path, expected="a sample's JSON object", is_row=_is_sample)
    return cast(list[Sample], rows), size


def _is_sample(row: Any) -> bool:
    return _has(row, Sample.__required_keys__, _TYPES) and all(
        _has(turn, SampleTurn.__required_keys__, _TYPES_OF_TURN) for turn in row["turns"]
    )


def _has(row: Any, fields: Iterable[str], types: Mapping[str, Any]) -> bool:
    if not isinstance(row, dict) or not all(name in row for name in fields):
        return False
    return all(isinstance(row[name], type_) for name, type_ in types.items())


_TYPES: Mapping[str, Any] = {
    "turns": list,
    "reward": int | float,
    **dict.fromkeys(("set", "problem_id", "problem"), str),
    **dict.fromkeys(("problem_index", "sample", "interactions", "sampled_tokens", "feedback_tokens"), int),
    **dict.fromkeys(("reward_valid", "correct", "terminated", "truncated", "void"), bool),
    **dict.fromkeys(("subject", "level", "reason"), str | int | float | None),
}
_TYPES_OF_TURN: Mapping[str, Any] = {"text": str, "feedback": str, "status": str | None}


class SampleFile:
    """A file that rows are appended to, and that a later process goes on with.

    Args:
        path: The file; made, with its folder, if it is missing.

    Attributes:
        rows: What it held when it was opened.
        dropped: Whether a half-written last line was dropped then.

    Raises:
        RunError: Another process writes to it, or a line of it is no row.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.rows, size = read_samples(path)
        except BlockingIOError:
            self._file.close()
            raise RunError(f"Expect {path} to be free, but another evaluation writes to it.") from None
        except BaseException:
            self._file.close()
            raise
        self.dropped = size < path.stat().st_size
        self._file.truncate(size)

    def append(self, row: Sample) -> None:
        """Write a row; it outlives the process from here on."""
        self._file.write(json_line(row).encode())
        self._file.flush()

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
