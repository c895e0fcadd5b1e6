"""Samples: one row per episode, for readers, reports and other programs.

``evaluate.py`` and ``train.py`` write them as JSON lines to ``samples.jsonl``; ``train.py`` adds ``step`` and ``kind``.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from agents.core.errors import RunError
from agents.core.files import json_line, naming, read_json_lines
from agents.core.types import FinishReason, Trajectory, Turn, Usage

if TYPE_CHECKING:
    from types import TracebackType


class _Calls(TypedDict, total=False):
    """Fields of turns with tool calls."""

    calls: list[tuple[int, int, str]]
    """Start, end and code of each tool call in the text; the code of a call that holds none is ""."""


class SampleTurn(_Calls):
    """One action and the environment's response."""

    text: str
    """The policy's text, as far as the environment kept it."""
    feedback: str
    """Text inserted by the environment after it; empty after the last turn."""
    status: str | None
    """Outcome of the turn's code block, such as "ok"; None if none was executed."""
    finish_reason: FinishReason
    """Why the engine stopped sampling."""


class _Later(TypedDict, total=False):
    """Fields that files of earlier versions lack; the last three are those of models behind an API."""

    metadata: dict[str, Any]
    """The other fields of the problem's row."""
    files: list[str]
    """Names of the files that the problem's blocks find."""
    prompt_tokens: int
    """Tokens of the prompts of all requests; a later one contains the earlier ones."""
    cost: float | None
    """Price of the tokens; None without one."""
    usage_estimated: bool
    """Whether the server has left some tokens uncounted, and their number is an estimate."""
    prompt: str
    """The prompt as the policy saw it, with the chat template's tokens."""


class Sample(_Later):
    """One episode. Fields that the environment does not report are None or empty."""

    set: str
    """Name of the problem set."""
    problem_index: int
    """Index of the problem in its set."""
    sample: int
    """Number of the episode among those of its problem."""
    problem_id: str
    subject: str | None
    level: str | None
    problem: str
    """The statement."""
    turns: list[SampleTurn]
    """The turns, in order."""
    predicted: Any
    """The extracted answer; None if there is none."""
    answer: Any
    """The right answer."""
    reason: str | None
    """Why the answer is right, wrong or missing, in a few words."""
    reward: float
    reward_valid: bool
    """False if an infrastructure error made the episode invalid: it then counts neither as right nor as wrong."""
    correct: bool
    terminated: bool
    """Whether the policy gave its final answer."""
    truncated: bool
    """Whether a limit or an infrastructure error ended the episode."""
    void: bool
    """Whether the episode ended without an answer."""
    interactions: int
    """Number of executed code blocks."""
    sampled_tokens: int
    """Number of tokens sampled by the policy."""
    feedback_tokens: int
    """Number of tokens inserted by the environment after the prompt."""
    boundary_cuts: int
    """Number of tokens cut at the end of a block; see :func:`agents.rollout.episode.keep_tokens`."""


def transcript(
    trajectory: Trajectory,
    *,
    set_name: str | None = None,
    decode: Callable[[Sequence[int]], str] | None = None,
    usage: Usage | None = None,
) -> Sample:
    """Return the sample of a trajectory, JSON-serializable if the environment's info is.

    Args:
        trajectory: The episode.
        set_name: Name of its problem set; None: the source of the problem in the environment's info.
        decode: Returns the text of token ids, special ones included; None: the sample lacks its prompt.
        usage: The tokens of a trajectory without token ids.
    """
    info = trajectory.info
    sampled = usage.completion_tokens if usage else sum(trajectory.action_mask)
    feedback = usage.feedback_tokens if usage else len(trajectory.token_ids) - trajectory.prompt_length - sampled
    row: Sample = {
        "set": set_name if set_name is not None else str(info.get("source") or ""),
        "problem_index": int(info.get("problem_index", trajectory.group_id)),
        "sample": trajectory.sample,
        "problem_id": trajectory.problem_id,
        "subject": info.get("subject") or None,
        "level": info.get("level") or None,
        "metadata": _metadata(info),
        "files": list(info.get("files") or ()),
        "problem": str(info.get("statement") or ""),
        "turns": [_turn(turn) for turn in trajectory.turns],
        "predicted": info.get("predicted"),
        "answer": info.get("answer"),
        "reason": info.get("reason") or None,
        "reward": trajectory.reward,
        "reward_valid": trajectory.reward_valid,
        "correct": trajectory.is_correct,
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
        "void": trajectory.is_void,
        "interactions": trajectory.interactions,
        "sampled_tokens": sampled,
        "feedback_tokens": feedback,
        "boundary_cuts": trajectory.boundary_cuts,
    }
    if decode is not None:
        row["prompt"] = decode(trajectory.token_ids[: trajectory.prompt_length])
    if usage is not None:
        row |= {"prompt_tokens": usage.prompt_tokens, "cost": usage.cost, "usage_estimated": usage.is_estimated}
    return row


def _turn(turn: Turn) -> SampleTurn:
    row: SampleTurn = {
        "text": turn.text,
        "feedback": turn.feedback,
        "status": turn.info.get("execution_status"),
        "finish_reason": turn.finish_reason,
    }
    if calls := turn.info.get("calls"):
        row["calls"] = [(int(start), int(end), str(code)) for start, end, code in calls]
    return row


def outside_calls(turn: SampleTurn) -> list[str]:
    """Return the pieces of a turn's text outside its tool calls.

    >>> turn = {"text": "a<1>b", "feedback": "", "status": None, "finish_reason": "stop", "calls": [(1, 4, "1")]}
    >>> outside_calls(turn)
    ['a', 'b']
    """
    pieces, begin = [], 0
    for start, end, _ in turn.get("calls", ()):
        pieces.append(turn["text"][begin:start])
        begin = end
    return [*pieces, turn["text"][begin:]]


def _metadata(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata in an environment's info; empty if it has none, or if it is not JSON."""
    metadata = info.get("metadata")
    if not isinstance(metadata, Mapping):
        return {}
    plain = dict(metadata)
    try:
        json.dumps(plain)
    except (TypeError, ValueError):
        return {}
    return plain


def read_samples(path: Path) -> tuple[list[Sample], int]:
    """Read a sample file.

    An incomplete last line, left by a process that was killed, is dropped.

    Returns:
        The rows, and the total length of their lines in bytes.

    Raises:
        RunError: A complete line is not a sample.
    """
    rows, size = read_json_lines(path, expected="a sample's JSON object", is_row=is_sample)
    return cast(list[Sample], rows), size


def is_sample(row: Any) -> bool:
    """Whether a JSON value is a sample."""
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
    """An append-only sample file, locked by one process and resumable by another.

    Args:
        path: The file; created with its folder if missing.

    Attributes:
        rows: The rows that it contained when opened.
        dropped: Whether an incomplete last line was dropped then.

    Raises:
        RunError: Another process is writing to the file, or a line is not a sample.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.rows, size = read_samples(path)
        except BlockingIOError:
            self._file.close()
            raise RunError(f"Expect {path} to be unused, but another evaluation is writing to it.") from None
        except BaseException:
            self._file.close()
            raise
        self.dropped = size < path.stat().st_size
        self._file.truncate(size)

    def append(self, row: Sample) -> None:
        """Append a row without a buffer, so that it survives a kill of the process."""
        rest = memoryview(json_line(row).encode())
        with naming(self._path):
            while rest:  # a disk that is nearly full takes a part
                rest = rest[self._file.write(rest) :]

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
