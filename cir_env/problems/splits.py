"""Divides the problems of a single file into a train and a test split.

The split of a problem depends on a hash of its statement, whose layout is removed first (`contamination.words`). It
does not depend on the order of the rows or on the other rows, and repeated statements are on the same side.
"""

import hashlib
from functools import lru_cache

from cir_env.errors import ProblemError
from cir_env.problems.contamination import words
from cir_env.problems.problem_set import ProblemSet

TEST_SHARE = 0.05
"""Which share of a file the test split has by default."""

_OWN_FILES = "Give the splits files of their own: a folder with train.jsonl and test.jsonl."


def statement_key(statement: str) -> str:
    r"""Return a hash of a statement, uniform over 64 bits; statements that differ only in layout have the same.

    >>> statement_key(r"Find $\left(a + 1\right)^2$."), statement_key("find (a+1)^2")
    ('5397a2ace14e3459', '5397a2ace14e3459')
    """
    text = " ".join(words(statement) or statement.split())
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


@lru_cache(maxsize=32)
def statement_keys(problems: ProblemSet) -> tuple[str, ...]:
    """Return the key of each statement, in order; computed once per process."""
    return tuple(statement_key(problem.statement) for problem in problems)


@lru_cache(maxsize=32)
def divide(problems: ProblemSet, split: str, test_share: float) -> ProblemSet:
    """Return one split of a problem set; the same arguments give the same object within a process.

    A larger share only moves problems from "train" to "test". Each split has at least one problem: the statement with
    the smallest hash is always in "test", that with the largest in "train". A share of 0 or 1 puts all problems on one
    side.

    Args:
        problems: The problems of a file.
        split: "train" or "test".
        test_share: Expected share of the distinct statements in "test", from 0 to 1.

    Raises:
        ProblemError: The split is empty, or there are fewer than two distinct statements.

    >>> from cir_env import Problem
    >>> file = ProblemSet((Problem(id=str(n), statement=f"{n}?", answer="1") for n in range(1000)), name="mine")
    >>> divide(file, "test", 0.05).summary(), divide(file, "train", 0.05).summary()
    ("55 problems of 'mine/test'; held out of 1,000", "945 problems of 'mine/train'; 55 of 1,000 held out")
    """
    share = test_share if split == "test" else 1 - test_share
    if share == 1:
        return problems
    if share == 0:
        limit = "above 0" if split == "test" else "below 1"
        raise ProblemError(
            f"Expect `test_share` {limit} for split {split!r} of {problems.name!r}, got {test_share}. {_OWN_FILES}"
        )
    keys = statement_keys(problems)
    distinct = sorted(set(keys))
    if len(distinct) < 2:
        raise ProblemError(
            f"Expect at least 2 distinct problems in {problems.name!r} to divide it into train and test, got 1. "
            f"{_OWN_FILES} Or set `test_share` to 0 (all problems are in train) or 1 (all are in test)."
        )
    bound = test_share * 2**64
    held_out = {key for key in distinct[1:-1] if int(key, 16) < bound} | {distinct[0]}
    kept = [problem for problem, key in zip(problems, keys, strict=True) if (key in held_out) == (split == "test")]
    total = f"{len(problems):,}"
    note = f"held out of {total}" if split == "test" else f"{len(problems) - len(kept):,} of {total} held out"
    name = f"{problems.name}/{split}"
    return ProblemSet(kept, name=name, skipped=problems.skipped, notes=(*problems.notes, note))
