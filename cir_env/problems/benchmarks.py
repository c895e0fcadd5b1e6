"""The benchmarks: their files, fields, patches for known flaws, and fingerprints.

This project contains no benchmark data: it is read from a folder that you name, or from the hub. The loaded problems
are checked against a pinned SHA-256, so that results always refer to the same problems. docs/benchmarks.md describes
the origin and the known flaws of each benchmark.
"""

import dataclasses
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cir_env.errors import ProblemError
from cir_env.problems.problem import Problem
from cir_env.problems.problem_set import ProblemSet
from cir_env.problems.rows import Fields

PATCHES_VERSION: Final = 1
"""Increases whenever a patch is added, removed or changed; the pinned SHA-256 of its benchmark changes with it."""

HUB: Final = "hub"
"""Value of `folder` that loads a benchmark from the hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A correction of one flaw in a benchmark file; it does nothing if the file is already correct."""

    row: int
    """Index of the problem, from 0."""
    part: Literal["statement", "answer"]
    """The field to correct."""
    old: str
    """The wrong text, whose first occurrence is replaced."""
    new: str
    """The replacement."""
    why: str
    """What is wrong, and how that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubData:
    """A benchmark on the hub; its split is "test"."""

    name: str
    """The data set, ``owner/name``."""
    fields: Fields
    """Which of its columns hold the parts of a problem."""
    config: str | None = None
    """Its configuration, if it has several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark, as a file and on the hub."""

    name: str
    """Its name in tables."""
    file: str
    """Name of its JSON Lines file."""
    fields: Fields
    """Which fields of the file hold the parts of a problem."""
    n_problems: int
    """Number of problems."""
    sha256: str
    """`content_sha256` of the patched problems."""
    hub: HubData
    """Where it is on the hub."""
    patches: tuple[Patch, ...] = ()
    """Corrections of its known flaws."""


_OLYMMATH = Fields(answer="solution", id="unique_id")
_OLYMMATH_HUB = Fields(answer="answer", id="unique_id")
_ALL = (
    Benchmark(
        name="AIME24",
        file="AIME24.jsonl",
        fields=Fields(answer="solution", boxed=True),
        n_problems=30,
        sha256="2ca83cf83f7f30ddd83ebf59af7c7880f579a27370687741eb50c5d449fce15f",
        hub=HubData(name="math-ai/aime24", fields=Fields(answer="solution", boxed=True)),
        patches=(
            Patch(
                row=28,
                part="statement",
                old="outside of $S$, it is externally",
                new="inside of $S$, it is internally",
                why="Both radii are defined by the outer position, so their difference is 0; in the contest "
                "(2024 AIME II, problem 8) the torus rests on the inside first.",
            ),
        ),
    ),
    Benchmark(
        name="AIME25",
        file="AIME25.jsonl",
        fields=Fields(answer="solution", boxed=True),
        n_problems=30,
        sha256="8d6a81306a198501411c0fd9dde73e2948f1dece0e1145b22330bfad3a8b234d",
        hub=HubData(name="math-ai/aime25", fields=Fields()),
    ),
    Benchmark(
        name="AMC23",
        file="amc23.jsonl",
        fields=Fields(answer="solution"),
        n_problems=40,
        sha256="d54a8db19b70f64746692a91a3a852cd03d2f5f6f00adaaf9827888ea02de1a9",
        hub=HubData(name="math-ai/amc23", fields=Fields(statement="question")),
        patches=(
            Patch(
                row=30,
                part="statement",
                old="$$43$ dollars",
                new="$\\$43$",
                why="An unescaped dollar sign opens a displayed formula that never closes.",
            ),
        ),
    ),
    Benchmark(
        name="MATH500",
        file="MATH_OAI.jsonl",
        fields=Fields(answer="solution", boxed=True, id="unique_id"),
        n_problems=500,
        sha256="108425accfd3c712a24b3b4086d3ab5da9b102abc5341be34c067764a9893483",
        hub=HubData(name="HuggingFaceH4/MATH-500", fields=Fields(answer="solution", boxed=True, id="unique_id")),
    ),
    Benchmark(
        name="OlymMATH-EN-EASY",
        file="OlymMATH-EN-EASY.jsonl",
        fields=_OLYMMATH,
        n_problems=100,
        sha256="28b5327fc79ca996c76f8262ae83fc9c58e674c94ebe6c727239a78d9a132ebf",
        hub=HubData(name="RUC-AIBOX/OlymMATH", config="en-easy", fields=_OLYMMATH_HUB),
    ),
    Benchmark(
        name="OlymMATH-EN-HARD",
        file="OlymMATH-EN-HARD.jsonl",
        fields=_OLYMMATH,
        n_problems=100,
        sha256="a8c21a01ee7c0f6799cd006b0f7e755c8234f38bb685cb3fad1458b0ab2376e6",
        hub=HubData(name="RUC-AIBOX/OlymMATH", config="en-hard", fields=_OLYMMATH_HUB),
        patches=(
            Patch(
                row=23,
                part="answer",
                old="2^2023",
                new="2^{2023}",
                why="As LaTeX it reads 2 squared, followed by 023.",
            ),
        ),
    ),
)

BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
"""All benchmarks by name."""


def load_benchmark(name: str, folder: str | os.PathLike[str] | None = None, *, pinned: bool = True) -> ProblemSet:
    """Load a benchmark with its known flaws corrected.

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
    loaded = _from_hub(benchmark) if on_hub else _from_folder(benchmark, Path(folder))
    problems = ProblemSet(_patch(loaded, benchmark), name=name)
    sha256 = content_sha256(problems)
    if pinned and sha256 != benchmark.sha256:
        place = benchmark.hub.name if on_hub else str(Path(folder) / benchmark.file)
        raise ProblemError(
            f"Expect the {benchmark.n_problems} problems of {name} with SHA-256 {benchmark.sha256[:12]}…, got "
            f"{len(problems)} with {sha256[:12]}… in {place!r}: results would not compare. Get the right file, or "
            "load it with pinned=False."
        )
    return problems


def _from_hub(benchmark: Benchmark) -> ProblemSet:
    hub = benchmark.hub
    loaded = ProblemSet.from_hub(hub.name, split="test", config=hub.config, fields=hub.fields)
    return ProblemSet((dataclasses.replace(p, source=benchmark.name) for p in loaded), name=benchmark.name)


def _from_folder(benchmark: Benchmark, folder: Path) -> ProblemSet:
    path = folder / benchmark.file
    if not path.parent.is_dir():
        raise ProblemError(f"Expect a folder with benchmark files, got {str(folder)!r}: there is no such folder.")
    if not path.is_file():
        found = ", ".join(sorted(file.name for file in path.parent.glob("*.jsonl"))) or "no .jsonl file"
        raise ProblemError(f"Expect {benchmark.file} in the folder {str(folder)!r} for {benchmark.name}, got {found}.")
    return ProblemSet.from_jsonl(path, fields=benchmark.fields, name=benchmark.name)


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


def _patch(problems: ProblemSet, benchmark: Benchmark) -> Iterable[Problem]:
    """Apply the patches, and prefix numeric ids so that they are unique among benchmarks."""
    for row, problem in enumerate(problems):
        patched = problem
        for patch in benchmark.patches:
            if patch.row == row:
                text = getattr(problem, patch.part)
                if patch.new not in text:
                    patched = dataclasses.replace(patched, **{patch.part: text.replace(patch.old, patch.new, 1)})
        if patched.id.isdigit():
            patched = dataclasses.replace(patched, id=f"{benchmark.name}-{patched.id}")
        yield patched
