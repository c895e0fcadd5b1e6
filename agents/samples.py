"""One row for each episode that was played: what a reader, a report or another program wants to know of it.

``evaluate.py`` writes one JSON object a line, and so does ``train.py`` to ``samples.jsonl``, with ``step`` and ``kind``
beside these fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

from agents.metrics import is_correct, is_void
from agents.types import FinishReason, Trajectory


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
    """Tokens that were cut at the end of a block; see :func:`agents.episodes.keep_tokens`."""


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
        "correct": is_correct(trajectory),
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
        "void": is_void(trajectory),
        "interactions": info["interaction_budget"] - info["interactions_left"] if "interactions_left" in info else 0,
        "sampled_tokens": sampled,
        "feedback_tokens": len(trajectory.token_ids) - trajectory.prompt_length - sampled,
        "boundary_cuts": trajectory.boundary_cuts,
    }


def best_and_worst(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Return one correct and one wrong trajectory, as far as there are."""
    right = [t for t in trajectories if is_correct(t)]
    wrong = [t for t in trajectories if not is_correct(t)]
    return right[:1] + wrong[:1]
