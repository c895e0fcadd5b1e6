r"""Finds training problems that overlap with a benchmark.

Two rules compare problems as sequences of words. Differences that do not change a problem are removed first: case,
whitespace, punctuation, LaTeX layout commands, and the names of one-letter variables.

- *text*: the words are equal.
- *overlap*: the other problem contains at least `MIN_OVERLAP` of the word n-grams (n = `N`) of the shorter one. This
  finds a problem inside a longer text and one with a changed word or number, but no paraphrases or translations.

The usual rule, a single shared n-gram (GPT-3: 13 words; s1 and Open-R1: 8), fails for mathematics, where problems share
phrases such as "m and n are relatively prime positive integers. Find m + n". AIME24, AIME25, AMC23, MATH500 and
OlymMATH have 800 problems and none in common, but that rule matches 166 (8 words) or 45 (13 words) of them with another
benchmark; it also matches 54 or 6 of the 270 problems of the data set CHAMP, and 1,177 or 0 of 10,000 problems of the
generator "mixed". A share of 0.6 matches none of these. N is 8 rather than 13 since half of the MATH500 problems have
at most 33 words: one changed word affects 8 of their 26 8-grams, but 13 of their 21 13-grams.
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
"""Number of words in an n-gram."""
MIN_OVERLAP = 0.6
"""Minimum share of the n-grams of the shorter problem that the other contains."""

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
    r"""Return the normalised words of a problem.

    >>> words(r"Let $\left(a+1\right)^2 = 2{,}500.$ Find $a$.")
    ('let', 'x', '+', '1', '^', '2', '=', '2500', 'find', 'x')
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", statement).casefold())
    found = _WORD.findall(_LAYOUT.sub(" ", _THOUSANDS.sub("", text)))
    return tuple(_ANY_LETTER if len(word) == 1 and word.isalpha() else _SAME.get(word, word) for word in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A benchmark problem that matches a training problem."""

    benchmark: str
    """The name of the benchmark."""
    problem_id: str
    """The id of its problem."""
    rule: Rule
    """The rule that matched."""


class BenchmarkIndex:
    """Looks up the benchmark problem that matches a statement.

    Args:
        benchmarks: Problem sets by benchmark name.
    """

    def __init__(self, benchmarks: Mapping[str, ProblemSet]) -> None:
        self._names = [(name, problem.id) for name, problems in benchmarks.items() for problem in problems]
        statements = [words(problem.statement) for problems in benchmarks.values() for problem in problems]
        self._places = {statement: place for place, statement in reversed(list(enumerate(statements))) if statement}
        self._counts = [len(ngrams(statement)) for statement in statements]
        self._places_of: dict[tuple[str, ...], list[int]] = defaultdict(list)  # n-gram -> statements with it
        for place, statement in enumerate(statements):
            for ngram in ngrams(statement):
                self._places_of[ngram].append(place)

    def find(self, statement: str) -> Match | None:
        """Return the best match of a statement, or None: the same text, else the largest overlap."""
        own_words = words(statement)
        if own_words in self._places:
            return self._match(self._places[own_words], "text")
        own = ngrams(own_words)
        shared = Counter(place for ngram in own & self._places_of.keys() for place in self._places_of[ngram])
        overlaps = {place: count / min(len(own), self._counts[place]) for place, count in shared.items()}
        best = max(overlaps, key=lambda place: (overlaps[place], -place), default=None)
        return None if best is None or overlaps[best] < MIN_OVERLAP else self._match(best, "overlap")

    def _match(self, place: int, rule: Rule) -> Match:
        name, problem_id = self._names[place]
        return Match(benchmark=name, problem_id=problem_id, rule=rule)


def ngrams(text: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Return the n-grams of a sequence of words.

    >>> len(ngrams(words("How much is one and one and one and one?")))
    3
    """
    return set(zip(*(text[shift:] for shift in range(N)), strict=False))


def split_off(problems: ProblemSet, index: BenchmarkIndex) -> tuple[ProblemSet, dict[str, Match]]:
    """Return the problems that match no benchmark, in order, and the matches of the others by problem id.

    Raises:
        ProblemError: All problems match a benchmark.
    """
    matches = {problem.id: match for problem in problems if (match := index.find(problem.statement))}
    if len(matches) == len(problems):
        raise ProblemError(
            f"Expect problems that are in no benchmark, got {problems.name!r}, all of which are. Train on other "
            "problems, or do not `decontaminate`."
        )
    kept = (problem for problem in problems if problem.id not in matches)
    return ProblemSet(kept, name=problems.name, skipped=problems.skipped, notes=problems.notes), matches


def decontaminate(problems: ProblemSet, folder: str | os.PathLike[str]) -> ProblemSet:
    """Drop problems that overlap with a benchmark; the `notes` of the result say how many.

    The same arguments give the same object within a process.

    Args:
        problems: Training problems.
        folder: Folder with benchmark files; all that it contains are checked.

    Raises:
        OptionError: `folder` is not a path.
        ProblemError: The folder contains no benchmark or another version of one, or all problems match a benchmark.
    """
    if not isinstance(folder, str | os.PathLike):
        raise OptionError(f"Expect `decontaminate` to be the path of a folder or None, got {type(folder).__name__}.")
    return _decontaminate(problems, os.fspath(folder))


@lru_cache(maxsize=8)
def _decontaminate(problems: ProblemSet, folder: str) -> ProblemSet:
    index, names = _index(folder)
    kept, matches = split_off(problems, index)
    note = f"checked against {', '.join(names)}: {_count(matches.values())}"
    return ProblemSet(kept, name=kept.name, skipped=kept.skipped, notes=(*kept.notes, note))


@lru_cache(maxsize=8)
def _index(folder: str) -> tuple[BenchmarkIndex, tuple[str, ...]]:
    found = [name for name, benchmark in BENCHMARKS.items() if (Path(folder) / benchmark.file).is_file()]
    if not found:
        files = ", ".join(benchmark.file for benchmark in BENCHMARKS.values())
        raise ProblemError(
            f"Expect `decontaminate` to be a folder with benchmark files ({files}), got {str(folder)!r}."
        )
    return BenchmarkIndex({name: load_benchmark(name, folder) for name in found}), tuple(found)


def _count(matches: Iterable[Match]) -> str:
    """Describe how many problems were dropped, by benchmark and rule.

    >>> _count([Match(benchmark="AIME24", problem_id="1", rule="text")] * 2)
    '2 dropped (AIME24: 2 by text)'
    """
    counts = Counter((match.benchmark, match.rule) for match in matches)
    by_name: dict[str, list[str]] = defaultdict(list)
    for (name, rule), count in sorted(counts.items(), key=lambda item: list(BENCHMARKS).index(item[0][0])):
        by_name[name].append(f"{count:,} by {rule}")
    reasons = "; ".join(f"{name}: {', '.join(parts)}" for name, parts in by_name.items())
    return f"{sum(counts.values()):,} dropped" + (f" ({reasons})" if reasons else "")
