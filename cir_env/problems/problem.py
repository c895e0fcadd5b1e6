"""One problem."""

from dataclasses import dataclass

from cir_env.errors import OptionError, ProblemError
from cir_env.grading.answer_types import check_gold


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question with one right answer.

    Raises:
        ProblemError: There is no such answer type, or the answer is not of it.
    """

    id: str
    """Unique in its set; of a generated problem, the same wherever the same operands are asked for."""
    statement: str
    """What is asked, as the policy reads it."""
    answer: str
    r"""The gold answer, LaTeX or plain, without ``\boxed{}`` or dollar signs."""
    source: str = ""
    """Where it comes from: a file's stem, a data set's or a generator's name."""
    subject: str = ""
    """Its field, such as "algebra"; empty when unknown."""
    level: str = ""
    """How hard it is, such as "3" or "Level 3", more being harder; empty when unknown."""
    answer_type: str = "math"
    """How answers are compared with the gold answer, such as "number?rel_tol=0.01" (`cir_env.grading.answer_types`)."""

    def __post_init__(self) -> None:
        if self.answer_type == "math":
            return
        try:
            check_gold(self.answer_type, self.answer)
        except OptionError as error:
            raise ProblemError(f"Problem {self.id!r}: {error}") from None
