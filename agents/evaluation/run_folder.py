"""A run of an evaluation: one model in one arm, as a folder.

::

    manifest.json    what it was made with           manifest-0-of-2.json   (of a shard)
    samples.jsonl    its samples, as they finished   samples-0-of-2.jsonl
    summary.json     its figures, once it is whole

The shards of a run lie in one folder: whoever reads the run reads them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.config.evaluation import EvalConfig, folder_name
from agents.core.errors import RunError
from agents.core.files import write_json
from agents.core.samples import Sample, read_samples
from agents.evaluation.manifest import differences, is_of_another_version

SUMMARY = "summary.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A whole run."""

    folder: Path
    """Where it lies."""
    about: Mapping[str, Any]
    """What it was made with; :func:`agents.evaluation.manifest.describe_run`."""
    samples: Mapping[str, tuple[tuple[Sample, ...], ...]]
    """By set: the samples of each problem, in order."""

    @property
    def name(self) -> str:
        """The model and the arm."""
        return f"{self.about['model']['name']} ({self.about['arm']})"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """Where a process writes its part of a run."""

    folder: Path
    samples: Path
    manifest: Path

    @classmethod
    def of(cls, config: EvalConfig, model: str, arm: str) -> RunFiles:
        """Return the files of one of the configuration's runs."""
        index, count = config.shard_of
        part = f"-{index}-of-{count}" if count > 1 else ""
        folder = config.output / folder_name(model) / arm.replace(":", "-")
        return cls(folder=folder, samples=folder / f"samples{part}.jsonl", manifest=folder / f"manifest{part}.json")

    def claim(self, about: Mapping[str, Any]) -> None:
        """Check that what is there may be gone on with, before anything is written.

        Raises:
            RunError: It was made with something else or by an earlier version, or split into other shards.
        """
        shards = self.samples.stem.partition("-of-")[2]
        for path in self.folder.glob("samples*.jsonl"):
            if path.stem.partition("-of-")[2] != shards:
                raise RunError(f"Expect the same --shard I/N for all parts of a run, got {path} there already.")
        if not self.samples.exists() or not read_samples(self.samples)[0]:
            return
        if not self.manifest.exists():
            raise RunError(f"Expect {self.manifest} beside the samples, got none. Choose another --output.")
        before = read_manifest(self.manifest)["run"]
        if is_of_another_version(before, about):
            raise RunError(
                f"The run in {self.folder} was begun by an earlier version, whose manifest has other fields: finish it "
                "with that version, or choose another --output."
            )
        found = differences(before, about)
        if found:
            listed = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
            raise RunError(
                f"Expect the settings of the run in {self.folder}, got others: {listed}. Choose another --output."
            )

    def num_samples(self) -> int:
        """Return how many whole samples there are, each a line; :meth:`claim` has read them."""
        return self.samples.read_bytes().count(b"\n") if self.samples.exists() else 0

    def write_manifest(self, about: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        """Write what the run is made with, and add a process that works on it."""
        earlier = read_manifest(self.manifest)["sessions"] if self.num_samples() else []
        write_json(self.manifest, {"run": about, "sessions": [*earlier, session]})


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest.

    Raises:
        RunError: It is none.
    """
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except ValueError:
        manifest = {}
    match manifest:
        case {
            "run": {"model": {"name": str(), "revision": str()}, "arm": str(), "sets": dict(sets)},
            "sessions": [*_, {"command": str()}],
        } if all(map(_is_size, sets.values())):
            return manifest
    raise RunError(f"Expect a manifest of evaluate.py in {path}, got something else.")


def _is_size(size: Any) -> bool:
    match size:
        case {"problems": int(problems), "num_samples": int(samples)}:
            return problems > 0 and samples > 0
    return False


def read_run(folder: Path) -> Run:
    """Read a whole run, all of its shards.

    Raises:
        RunError: The folder holds no run, parts of different runs, or a sample twice.
        RunError: Samples are missing.
    """
    manifests = sorted(folder.glob("manifest*.json"))
    if not manifests:
        raise RunError(f"Expect the folder of a run, with manifest.json, got {folder}.")
    first, *others = [read_manifest(path) for path in manifests]
    about = first["run"]
    for path, other in zip(manifests[1:], others, strict=True):
        if found := differences(about, other["run"]):
            raise RunError(f"Expect parts of one run in {folder}, but {path.name} differs: {'; '.join(found[:5])}.")
    rows: dict[tuple[str, int, int], Sample] = {}
    for path in sorted(folder.glob("samples*.jsonl")):
        for row in read_samples(path)[0]:
            place = (row["set"], row["problem_index"], row["sample"])
            if place in rows:
                raise RunError(f"Expect each sample once in {folder}, got twice set, problem, sample {place}.")
            rows[place] = row
    wanted = {
        name: [
            [(name, problem, sample) for sample in range(size["num_samples"])] for problem in range(size["problems"])
        ]
        for name, size in about["sets"].items()
    }
    places = [place for problems in wanted.values() for problem in problems for place in problem]
    missing = [place for place in places if place not in rows]
    if missing:
        command = _of_shard(first["sessions"][-1]["command"], missing[0][1])
        raise RunError(
            f"Expect a finished run in {folder}, got {len(places) - len(missing)} of {len(places)} samples. "
            f"Go on with: {command}"
        )
    samples = {
        name: tuple(tuple(rows[place] for place in problem) for problem in problems)
        for name, problems in wanted.items()
    }
    return Run(folder=folder, about=about, samples=samples)


def _of_shard(command: str, problem: int) -> str:
    """Return a shard's command for the shard that plays a problem; any other command as it is.

    >>> _of_shard("python evaluate.py --model M --shard 0/2", 3)
    'python evaluate.py --model M --shard 1/2'
    """
    return re.sub(r"(--shard[ =])\d+/0*(\d+)", lambda m: f"{m[1]}{problem % int(m[2])}/{m[2]}", command)


def find_runs(path: Path) -> list[Path]:
    """Return the folder itself if it is a run's, else those of the runs below it.

    Raises:
        RunError: There is none.
    """
    found = sorted({manifest.parent for manifest in path.rglob("manifest*.json")})
    if not found:
        raise RunError(f"Expect a run's folder, with manifest.json, or one that holds such folders, got {path}.")
    return found
