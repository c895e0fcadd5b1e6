"""`Problem`, one question and its answer."""

from dataclasses import dataclass

from cir_env.errors import OptionError, ProblemError
from cir_env.grading.answer_types import check_gold


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question with one right answer.

    Raises:
        ProblemError: The answer type is unknown, or the answer is not of that type.
    """

    id: str
    """Unique within its set. Generated problems with the same operands have the same id."""
    statement: str
    """The question, as the policy reads it."""
    answer: str
    r"""The gold answer, LaTeX or plain text, without ``\boxed{}`` or dollar signs."""
    source: str = ""
    """Where it comes from: the stem of a file, or the name of a data set or a generator."""
    subject: str = ""
    """Its field, such as "algebra"; empty when unknown."""
    level: str = ""
    """Its difficulty, such as "3" or "Level 3", higher is harder; empty when unknown."""
    answer_type: str = "math"
    """How to compare answers with the gold answer, such as "number?rel_tol=0.01" (`cir_env.grading.answer_types`)."""

    def __post_init__(self) -> None:
        if self.answer_type == "math":
            return
        try:
            check_gold(self.answer_type, self.answer)
        except OptionError as error:
            raise ProblemError(f"Problem {self.id!r}: {error}") from None
