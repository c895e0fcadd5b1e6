"""The state of one episode of `cir_env.env.CodeMathEnv`."""

import sys
from dataclasses import dataclass, field
from typing import Any, Final

from cir_env.episode.rewards import EpisodeRecord
from cir_env.parsing import count_blocks, final_answer
from cir_env.problems.problem import Problem
from cir_env.sandbox import Session, Status

# A program must not command the terminal of who watches it.
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in b"\t\n"}


@dataclass(slots=True, kw_only=True)
class Episode:
    """What an episode has come to."""

    problem: Problem
    """What is asked."""
    problem_index: int
    """Its place in the problem set."""
    messages: tuple[dict[str, str], ...]
    """The prompt as a chat."""
    budget: int
    """How many blocks it may execute."""
    interactions_left: int
    """How many it still may."""
    transcript: str
    """The prompt, what was kept of the actions, and the feedback."""
    segments: list[str] = field(default_factory=list)
    """What was kept of the actions, turn by turn."""
    n_code_blocks: int = 0
    """Complete python blocks in the segments, executed or not."""
    session: Session | None = None
    """The namespace of a stateful episode, from its first block on."""

    status: Status | None = None
    """How the block of the last step ended."""
    statuses: list[Status] = field(default_factory=list)
    """How each executed block ended."""
    told: bool = False
    """Whether the policy was told that the budget is used up."""
    feedback: str = ""
    """What the last step appended behind its action."""
    kept_chars: int = 0
    """How much of the last action was kept."""

    over: bool = False
    """Whether the episode has ended."""
    predicted: str | None = None
    """The answer that was graded."""
    correct: bool = False
    """Whether it is right."""
    reason: str = ""
    """Why, as the grader says."""
    reward_valid: bool = True
    """False if a fault of ours decided the reward."""
    outcome: str = ""
    """A line about the end, for people."""
    printed_chars: int = 0
    """How much of the transcript and the outcome was printed."""

    def write(self, text: str) -> None:
        """Begin a step with what is kept of the action."""
        self.transcript += text
        self.segments.append(text)
        self.n_code_blocks += count_blocks(text)
        self.kept_chars = len(text)
        self.status = None
        self.feedback = ""

    def run_block(self, status: Status) -> None:
        """Count a block that was executed."""
        self.status = status
        self.statuses.append(status)
        self.interactions_left -= 1

    def record(self, *, truncated: bool) -> EpisodeRecord:
        """Return what rewards are made of."""
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
        """Return the answer that the policy has given so far."""
        return final_answer(self.segments)

    def info(self) -> dict[str, Any]:
        """Return the information that `reset` and `step` give, the right answer only at the end."""
        return {
            "messages": tuple(dict(message) for message in self.messages),  # new ones: users keep infos
            "problem_id": self.problem.id,
            "problem_index": self.problem_index,
            "statement": self.problem.statement,
            "source": self.problem.source,
            "subject": self.problem.subject,
            "level": self.problem.level,
            "interaction_budget": self.budget,
            "interactions_left": self.interactions_left,
            "n_code_blocks": self.n_code_blocks,
            "execution_status": None if self.status is None else self.status.value,
            "feedback": self.feedback,
            "kept_chars": self.kept_chars,
            "predicted": self.predicted,
            "correct": self.correct,
            "reason": self.reason,
            "reward_valid": self.reward_valid,
            "answer": self.problem.answer if self.over else None,
        }


def print_news(episode: Episode) -> None:
    """Print what of an episode was not printed yet."""
    text = episode.transcript + episode.outcome
    news = text[episode.printed_chars :].translate(_CONTROLS)
    encoding = sys.stdout.encoding or "utf-8"
    print(news.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)
    episode.printed_chars = len(text)
