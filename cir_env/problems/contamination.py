r"""Training problems that are a benchmark's as well, found by their words.

Two rules, each on words without what does not change a problem: case, blanks, punctuation, LaTeX's layout, and which
letter a variable has.

- *text*: the words are the same.
- *overlap*: at least `MIN_OVERLAP` of the runs of `N` words in the shorter of the two are in the other as well. So a
  problem within a longer text is found, and one with a changed word or number, but neither a paraphrase nor a
  translation.

One shared run, the usual rule (GPT-3: 13 words; s1 and Open-R1: 8), is wrong for mathematics, where problems share
phrases such as "m and n are relatively prime positive integers. Find m + n". Of the 800 problems of our six benchmarks,
which have no problem in common, it takes 166 (8 words) or 45 (13 words) for another benchmark's; of the 270 problems of
the data set CHAMP 54 or 6; of 10,000 that the generator "mixed" makes 1,177 or 0. A share of 0.6 takes none of them.
Runs have 8 words rather than 13 since half of MATH500's problems have at most 33: one changed word is in 8 of their 26
runs, or in 13 of the 21 longer ones.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from cir_env.errors import OptionError, ProblemError
from cir_env.problems.benchmarks import BENCHMARKS, load_benchmark
from cir_env.problems.problem_set import ProblemSet

N = 8
"""Words of a run."""
MIN_OVERLAP = 0.6
"""Share of the shorter problem's runs, at least."""

Rule = Literal["text", "overlap"]

_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|,)(?=\d{3}(?!\d))")
_LAYOUT = re.compile(
    r"\\!|\\(?:left|right|big|bigg|displaystyle|limits|quad|qquad|text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox)"
    r"(?![a-z])"
)
_WORD = re.compile(r"\d+|[^\W\d_]+|[-+*/=<>^%|!]")
_SAME = {"dfrac": "frac", "tfrac": "frac", "leq": "le", "geq": "ge", "neq": "ne", "≤": "le", "≥": "ge", "×": "times"}
_ANY_LETTER = "x"


def words(statement: str) -> tuple[str, ...]:
    r"""Return what a problem says, without what does not change it.

    >>> words(r"Let $\left(a+1\right)^2 = 2{,}500.$ Find $a$.")
    ('let', 'x', '+', '1', '^', '2', '=', '2500', 'find', 'x')
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", statement).casefold())
    found = _WORD.findall(_LAYOUT.sub(" ", _THOUSANDS.sub("", text)))
    return tuple(_ANY_LETTER if len(word) == 1 and word.isalpha() else _SAME.get(word, word) for word in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Why a problem is taken for a benchmark's."""

    benchmark: str
    """The benchmark's name."""
    problem_id: str
    """Its problem."""
    rule: Rule
    """What of the two is the same."""


class BenchmarkIndex:
    """Finds the benchmark's problem that a text is.

    Args:
        benchmarks: Problem sets by the names of their benchmarks.
    """

    def __init__(self, benchmarks: Mapping[str, ProblemSet]) -> None:
        self._names = [(name, problem.id) for name, problems in benchmarks.items() for problem in problems]
        statements = [words(problem.statement) for problems in benchmarks.values() for problem in problems]
        self._places = {statement: place for place, statement in reversed(list(enumerate(statements))) if statement}
        self._counts = [len(runs(statement)) for statement in statements]
        self._having: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, statement in enumerate(statements):
            for run in runs(statement):
                self._having[run].append(place)

    def find(self, statement: str) -> Match | None:
        """Return the first rule that takes a statement for a benchmark's, and for which of its problems."""
        said = words(statement)
        if said in self._places:
            return self._match(self._places[said], "text")
        mine = runs(said)
        shared = Counter(place for run in mine & self._having.keys() for place in self._having[run])
        overlaps = {place: count / min(len(mine), self._counts[place]) for place, count in shared.items()}
        best = max(overlaps, key=lambda place: (overlaps[place], -place), default=None)
        return None if best is None or overlaps[best] < MIN_OVERLAP else self._match(best, "overlap")

    def _match(self, place: int, rule: Rule) -> Match:
        name, problem_id = self._names[place]
        return Match(benchmark=name, problem_id=problem_id, rule=rule)


def runs(said: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Return the runs of `N` words.

    >>> len(runs(words("How much is one and one and one and one?")))
    3
    """
    return set(zip(*(said[shift:] for shift in range(N)), strict=False))


def split_off(problems: ProblemSet, index: BenchmarkIndex) -> tuple[ProblemSet, dict[str, Match]]:
    """Return the problems that are no benchmark's, in order, and why each of the others is left out, by its id.

    Raises:
        ProblemError: All of them are a benchmark's.
    """
    matches = {problem.id: match for problem in problems if (match := index.find(problem.statement))}
    if len(matches) == len(problems):
        raise ProblemError(
            f"Expect problems to train on that are in no benchmark, got {problems.name!r}, all of which are. Train on "
            "others, or do not ask to `decontaminate`."
        )
    kept = (problem for problem in problems if problem.id not in matches)
    return ProblemSet(kept, name=problems.name, skipped=problems.skipped, notes=problems.notes), matches


def decontaminate(problems: ProblemSet, folder: str | os.PathLike[str]) -> ProblemSet:
    """Leave out what is in one of the benchmarks whose files a folder holds; its `notes` say what that was.

    The same arguments give the same object within a process.

    Raises:
        OptionError: The folder is no path.
        ProblemError: The folder holds no benchmark, or another version of one; or all problems are a benchmark's.
    """
    if not isinstance(folder, str | os.PathLike):
        raise OptionError(f"Expect `decontaminate` to be a folder's path or None, got {type(folder).__name__}.")
    return _decontaminate(problems, os.fspath(folder))


@lru_cache(maxsize=8)
def _decontaminate(problems: ProblemSet, folder: str) -> ProblemSet:
    index, names = _index(folder)
    kept, matches = split_off(problems, index)
    note = f"checked against {', '.join(names)}: {_count(matches.values())}"
    return ProblemSet(kept, name=kept.name, skipped=kept.skipped, notes=(*kept.notes, note))


@lru_cache(maxsize=8)
def _index(folder: str) -> tuple[BenchmarkIndex, tuple[str, ...]]:
    there = [name for name, benchmark in BENCHMARKS.items() if (Path(folder) / benchmark.file).is_file()]
    if not there:
        files = ", ".join(benchmark.file for benchmark in BENCHMARKS.values())
        raise ProblemError(
            f"Expect `decontaminate` to be a folder with files of benchmarks ({files}), got {str(folder)!r}."
        )
    return BenchmarkIndex({name: load_benchmark(name, folder) for name in there}), tuple(there)


def _count(matches: Iterable[Match]) -> str:
    """Return how many problems were dropped, and for which benchmarks and rules.

    >>> _count([Match(benchmark="AIME24", problem_id="1", rule="text")] * 2)
    '2 dropped (AIME24: 2 by text)'
    """
    counts = Counter((match.benchmark, match.rule) for match in matches)
    by_name: dict[str, list[str]] = defaultdict(list)
    for (name, rule), count in sorted(counts.items(), key=lambda item: list(BENCHMARKS).index(item[0][0])):
        by_name[name].append(f"{count:,} by {rule}")
    reasons = "; ".join(f"{name}: {', '.join(parts)}" for name, parts in by_name.items())
    return f"{sum(counts.values()):,} dropped" + (f" ({reasons})" if reasons else "")
