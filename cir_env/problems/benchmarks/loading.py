"""Loads benchmarks, with their known flaws corrected, and identifies their problems."""

import dataclasses
import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from cir_env.errors import ProblemError
from cir_env.problems.benchmarks.known import BENCHMARKS, Benchmark
from cir_env.problems.files import PlacedRow, hub_rows, read_rows
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet, exclude_unreadable, make_set
from cir_env.problems.rows import Fields

HUB: Final = "hub"
"""Value of `folder` that loads a benchmark from the hub."""


def load_benchmark(name: str, folder: str | os.PathLike[str] | None = None, *, pinned: bool = True) -> ProblemSet:
    """Load a benchmark with its known flaws corrected; the `notes` of the set say what was dropped, and why.

    Problems that are not the pinned ones, because there are none or `pinned` is False, lose those whose answers the
    grader cannot read, with a warning, and a note has their SHA-256.

    Args:
        name: A key of `BENCHMARKS`.
        folder: Folder with the benchmark files, or "hub" (needs the extra ``hub`` and a network). The default is the
            environment variable CIR_BENCHMARKS.
        pinned: Whether to check the problems against the pinned SHA-256; False allows another version.

    Raises:
        ProblemError: The name is unknown, no folder is given, the file is missing or bad or has other problems, or the
            hub cannot be reached.
    """
    if name not in BENCHMARKS:
        raise ProblemError(f"Expect a benchmark's name, one of {', '.join(BENCHMARKS)}; got {name!r}.")
    folder = folder or os.environ.get("CIR_BENCHMARKS")
    if not folder:
        raise ProblemError(
            f"Expect a folder with the file of {name}, or 'hub', got neither: name it (--benchmarks FOLDER, or "
            f"'benchmark:{name}?folder=FOLDER') or set the environment variable CIR_BENCHMARKS."
        )
    benchmark = BENCHMARKS[name]
    on_hub = str(folder) == HUB and not Path(folder).is_dir()
    rows, fields, place = _on_hub(benchmark) if on_hub else _in_folder(benchmark, Path(folder))
    dropped: Counter[str] = Counter()
    corrected = _correct(rows, benchmark, fields, dropped)
    problems = make_set(corrected, name=name, fields=fields, check_golds=False)
    sha256 = content_sha256(problems)
    expected = benchmark.sha256 if not on_hub or (benchmark.hub and benchmark.hub.is_pinned) else None
    if pinned and expected not in (None, sha256):
        raise ProblemError(
            f"Expect the {benchmark.n_problems} problems of {name} with SHA-256 {benchmark.sha256:.12}…, got "
            f"{len(problems)} with {sha256[:12]}… in {place!r}: results would not compare. Get the right file, or "
            "load it with pinned=False."
        )
    notes = [*problems.notes, *(f"dropped: {count:,} with {why}" for why, count in dropped.items())]
    if sha256 != benchmark.sha256:
        notes.append(f"not pinned, SHA-256 {sha256[:12]}…")
    named = ProblemSet(_with_distinct_ids(problems, name), name=name, skipped=problems.skipped, notes=notes)
    return named if sha256 == benchmark.sha256 else exclude_unreadable(named)


def is_pinned(problems: Iterable[Problem]) -> bool:
    """Whether problems are those of a benchmark whose SHA-256 is pinned."""
    return content_sha256(problems) in {benchmark.sha256 for benchmark in BENCHMARKS.values()}


def _on_hub(benchmark: Benchmark) -> tuple[Iterator[PlacedRow], Fields, str]:
    hub = benchmark.hub
    if hub is None:
        raise ProblemError(f"Expect a folder with {benchmark.file} for {benchmark.name}, which is not on the hub.")
    return hub_rows(hub.name, split=hub.split, config=hub.config), hub.fields, hub.name


def _in_folder(benchmark: Benchmark, folder: Path) -> tuple[Iterator[PlacedRow], Fields, str]:
    path = folder / benchmark.file
    if not path.parent.is_dir():
        raise ProblemError(f"Expect a folder with benchmark files, got {str(folder)!r}: there is no such folder.")
    if not path.is_file():
        found = ", ".join(sorted(file.name for file in path.parent.glob("*.jsonl"))) or "no .jsonl file"
        raise ProblemError(f"Expect {benchmark.file} in the folder {str(folder)!r} for {benchmark.name}, got {found}.")
    return read_rows(path), benchmark.fields, str(path)


def _correct(
    rows: Iterable[PlacedRow], benchmark: Benchmark, fields: Fields, dropped: Counter[str]
) -> Iterator[PlacedRow]:
    """Prepare, patch and drop rows; `dropped` counts the reasons."""
    reasons = {row: drop.why for drop in benchmark.drops for row in drop.rows}
    for number, (place, row) in enumerate(rows):
        if not isinstance(row, dict):
            yield place, row  # reported by its reader
            continue
        prepared = benchmark.prepare(row) if benchmark.prepare else row
        reason = prepared if isinstance(prepared, str) else reasons.get(number)
        if reason is None:
            yield place, _patch(prepared, number, benchmark, fields)
        else:
            dropped[reason] += 1


def _patch(row: Any, number: int, benchmark: Benchmark, fields: Fields) -> Any:
    for patch in benchmark.patches:
        name = getattr(fields, patch.part)
        if patch.row == number and patch.new not in (text := str(row.get(name, ""))):
            row = {**row, name: text.replace(patch.old, patch.new, 1)}
    return row


def _with_distinct_ids(problems: ProblemSet, name: str) -> Iterator[Problem]:
    """Prefix numeric ids, so that they are unique among benchmarks."""
    for problem in problems:
        yield dataclasses.replace(problem, id=f"{name}-{problem.id}") if problem.id.isdigit() else problem


def content_sha256(problems: Iterable[Problem]) -> str:
    """Return a hash of statements, answers, files and limits in order, independent of the file format.

    Field names, ids, whitespace and Unicode normalisation of statements and answers do not affect it.

    >>> a = Problem(id="1", statement="What is 1 + 1?", answer="2")
    >>> b = Problem(id="x", statement="What is  1 + 1?", answer="2")
    >>> content_sha256([a]) == content_sha256([b])
    True
    """
    rows = [[_normalise(problem.statement), _normalise(problem.answer), *_settings(problem)] for problem in problems]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode(errors="surrogatepass")).hexdigest()


def _settings(problem: Problem) -> list[dict[str, Any]]:
    """Return what a problem sets for its blocks; [] for most problems, whose hash must not change."""
    limits = {"time_limit_s": problem.time_limit_s, "memory_limit_mb": problem.memory_limit_mb}
    settings: dict[str, Any] = {name: float(value) for name, value in limits.items() if value is not None}
    if problem.files:
        settings["files"] = dict(problem.files)
    return [settings] if settings else []


def _normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
