"""Combines problem sets: all of their problems (`unite`), or fixed proportions of them (`mix`).

A mixture contains no problem twice: repetitions are dropped from the later set.
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

    The mixture consists of rounds of ``sum(weights)`` problems, in which ``weights[i]`` are the next ones of set i. It
    ends when one set cannot fill another round; the remaining problems of the other sets are dropped.

    Args:
        sets: The sets to mix.
        weights: One weight of at least 1 for each set.
        name: Name of the mixture.

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
                f"Expect {whole.name!r} to have at least {weight} problems, its weight in {name!r}, got {len(part)} "
                "that no earlier set contains."
            )
    rounds = min(len(part) // weight for part, weight in zip(parts, weights, strict=True))
    slices = (
        part[turn * weight : (turn + 1) * weight]
        for turn in range(rounds)
        for part, weight in zip(parts, weights, strict=True)
    )
    notes = _notes(sets, [rounds * weight for weight in weights])
    return ProblemSet(_with_distinct_ids(chain.from_iterable(slices)), name=name, notes=notes)


def _without_repetitions(sets: Sequence[ProblemSet]) -> list[list[Problem]]:
    seen: set[tuple[object, ...]] = set()
    parts = []
    for problems in sets:
        contents = {(p.statement, p.answer, p.answer_type, p.files): p for p in problems}
        parts.append([problem for content, problem in contents.items() if content not in seen])
        seen.update(contents)
    return parts


def _with_distinct_ids(problems: Iterable[Problem]) -> Iterable[Problem]:
    """Number repeated ids, such as those of two files with the same stem."""
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
