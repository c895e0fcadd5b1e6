"""One problem set from several: all of their problems, or fixed proportions of them.

No problem is in a mixture twice: what a later set repeats is left out of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain

from cir_env.errors import ProblemError
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet


@lru_cache(maxsize=32)
def unite(sets: tuple[ProblemSet, ...], name: str) -> ProblemSet:
    """Return every problem of every set, in order; the same arguments give the same object within a process.

    >>> sums, products = (ProblemSet.generate(name, size=3) for name in ("arithmetic", "products"))
    >>> len(unite((sums, products, sums), "both"))
    6
    """
    parts = _without_repetitions(sets)
    return ProblemSet(_with_distinct_ids(chain(*parts)), name=name, notes=_notes(sets, list(map(len, parts))))


@lru_cache(maxsize=32)
def mix(sets: tuple[ProblemSet, ...], weights: tuple[int, ...], name: str) -> ProblemSet:
    """Return problems in exact proportions; the same arguments give the same object within a process.

    Of ``sum(weights)`` problems in a row, ``weights[i]`` are the next ones of set i. The mixture ends with the last
    whole such row: where one set ends, the others' rest is left out, and nothing repeats.

    Args:
        sets: What is mixed.
        weights: At least 1 each.
        name: The mixture's name.

    Raises:
        ProblemError: A set has fewer problems than its weight.

    >>> sums, products = (ProblemSet.generate(name, size=4) for name in ("arithmetic", "products"))
    >>> [problem.source for problem in mix((sums, products), (1, 2), "both")]
    ['arithmetic', 'products', 'products', 'arithmetic', 'products', 'products']
    """
    parts = _without_repetitions(sets)
    for part, weight, whole in zip(parts, weights, sets, strict=True):
        if len(part) < weight:
            raise ProblemError(
                f"Expect at least {weight} problems in {whole.name!r}, its weight in {name!r}, got {len(part)} that "
                "no part before it has."
            )
    rounds = min(len(part) // weight for part, weight in zip(parts, weights, strict=True))
    rows = (
        part[turn * weight : (turn + 1) * weight]
        for turn in range(rounds)
        for part, weight in zip(parts, weights, strict=True)
    )
    notes = _notes(sets, [rounds * weight for weight in weights])
    return ProblemSet(_with_distinct_ids(chain.from_iterable(rows)), name=name, notes=notes)


def _without_repetitions(sets: Sequence[ProblemSet]) -> list[list[Problem]]:
    seen: set[tuple[str, ...]] = set()
    parts = []
    for problems in sets:
        contents = {(p.statement, p.answer, p.answer_type): p for p in problems}
        parts.append([problem for content, problem in contents.items() if content not in seen])
        seen.update(contents)
    return parts


def _with_distinct_ids(problems: Iterable[Problem]) -> Iterable[Problem]:
    """Number those ids that several problems have, as the rows of two files of one name."""
    ids: set[str] = set()
    for problem in problems:
        unique, number = problem.id, 1
        while unique in ids:
            number += 1
            unique = f"{problem.id}-{number}"
        ids.add(unique)
        yield problem if unique == problem.id else replace(problem, id=unique)


def _notes(sets: Sequence[ProblemSet], used: Sequence[int]) -> list[str]:
    return [
        f"{count:,} of {len(problems):,} of {problems.name!r}"
        + (f" ({', '.join(problems.notes)})" * bool(problems.notes))
        for count, problems in zip(used, sets, strict=True)
    ]
