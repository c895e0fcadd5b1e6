"""The state of one episode of `CodeMathEnv`."""

from dataclasses import dataclass, field
from typing import Any

from cir_env.dialects import FENCE, Dialect
from cir_env.episode.rewards import EpisodeRecord
from cir_env.problems.problem import Problem
from cir_env.sandbox import Session, Status


@dataclass(slots=True, kw_only=True)
class Episode:
    """The mutable state of an episode."""

    problem: Problem
    """The problem."""
    problem_index: int
    """Its index in the problem set."""
    messages: tuple[dict[str, str], ...]
    """The prompt as a chat."""
    budget: int
    """How many blocks the episode may execute."""
    interactions_left: int
    """How many blocks it still may execute."""
    dialect: Dialect = FENCE
    """How the policy writes code."""
    transcript: str
    """The prompt, the kept part of each action, and the feedback."""
    segments: list[str] = field(default_factory=list)
    """The kept part of each action."""
    n_code_blocks: int = 0
    """Number of complete Python blocks in the segments, executed or not."""
    session: Session | None = None
    """The sandbox session of a stateful episode, opened at its first block."""

    status: Status | None = None
    """How the block of the last step ended."""
    statuses: list[Status] = field(default_factory=list)
    """How each executed block ended."""
    told: bool = False
    """Whether the policy was told that the budget is used up."""
    feedback: str = ""
    """Text that the last step appended after the action."""
    kept_chars: int = 0
    """Number of characters of the last action that were kept."""
    calls: tuple[tuple[int, int, str], ...] = ()
    """Where each tool call in them begins and ends, and its code."""

    over: bool = False
    """Whether the episode has ended."""
    predicted: str | None = None
    """The graded answer."""
    correct: bool = False
    """Whether it is right."""
    reason: str = ""
    """The grader's reason, or why there was nothing to grade."""
    reward_valid: bool = True
    """False if an infrastructure error decided the reward."""
    outcome: str = ""
    """Human-readable line about the outcome."""
    printed_chars: int = 0
    """How many characters of the transcript and the outcome were printed."""

    def write(self, text: str) -> None:
        """Begin a step with the kept part of the action."""
        self.transcript += text
        self.segments.append(text)
        calls = self.dialect.calls(text)
        self.calls = tuple((call.start, call.close, call.code) for call in calls)
        self.n_code_blocks += len(calls) if calls else self.dialect.count(text)
        self.kept_chars = len(text)
        self.status = None
        self.feedback = ""

    @property
    def takes_code(self) -> bool:
        """Whether the policy may write code; a tool is not offered to one that may never call it."""
        return self.dialect is FENCE or self.budget > 0

    def run_block(self, status: Status) -> None:
        """Count a block that was executed."""
        self.status = status
        self.statuses.append(status)
        self.interactions_left -= 1

    def record(self, *, truncated: bool) -> EpisodeRecord:
        """Return the input of a reward function."""
        return EpisodeRecord(
            problem=self.problem,
            segments=tuple(self.segments),
            statuses=tuple(self.statuses),
            predicted=self.predicted,
            correct=self.correct,
            truncated=truncated,
            interaction_budget=self.budget,
        )

    def answer(self) -> str | None:
        """Return the last boxed answer so far; None without one."""
        return self.dialect.final_answer(self.segments)

    def why_no_answer(self) -> str:
        """Return why there is no answer, in a few words."""
        return self.dialect.why_no_answer(self.segments)

    def info(self) -> dict[str, Any]:
        """Return the info of `reset` and `step`; it includes the right answer only at the end."""
        return {
            "messages": tuple(dict(message) for message in self.messages),  # copies: users keep infos
            "tools": self.dialect.tools() if self.takes_code else (),
            "problem_id": self.problem.id,
            "problem_index": self.problem_index,
            "statement": self.problem.statement,
            "source": self.problem.source,
            "subject": self.problem.subject,
            "level": self.problem.level,
            "metadata": self.problem.metadata,
            "files": tuple(self.problem.files),
            "interaction_budget": self.budget,
            "interactions_left": self.interactions_left,
            "n_code_blocks": self.n_code_blocks,
            "execution_status": None if self.status is None else self.status.value,
            "feedback": self.feedback,
            "kept_chars": self.kept_chars,
            "calls": self.calls,
            "predicted": self.predicted,
            "correct": self.correct,
            "reason": self.reason,
            "reward_valid": self.reward_valid,
            "answer": self.problem.answer if self.over else None,
        }
