"""The folder of an evaluation run: one model in one arm.

::

    manifest.json    settings and sessions
    samples.jsonl    samples, in order of completion
    summary.json     metrics, once the run is complete
"""

from __future__ import annotations

import json
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
    """A complete run."""

    folder: Path
    """The run's folder."""
    about: Mapping[str, Any]
    """Its settings; see :func:`agents.evaluation.manifest.describe_run`."""
    samples: Mapping[str, tuple[tuple[Sample, ...], ...]]
    """The samples of each problem by set, in order."""
    missing: int = 0
    """Number of samples that are still to be played; of a run in progress."""

    @property
    def rows(self) -> list[Sample]:
        """All samples, in order."""
        return [row for problems in self.samples.values() for rows in problems for row in rows]

    @property
    def name(self) -> str:
        """Model and arm."""
        return f"{self.about['model']['name']} ({self.about['arm']})"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """The files of a run."""

    folder: Path
    samples: Path
    manifest: Path

    @classmethod
    def of(cls, config: EvalConfig, model: str, arm: str) -> RunFiles:
        """Return the files of one run of a configuration."""
        return cls.at(config.output / folder_name(model) / arm.replace(":", "-"))

    @classmethod
    def at(cls, folder: Path) -> RunFiles:
        """Return the files of the run in a folder."""
        return cls(folder=folder, samples=folder / "samples.jsonl", manifest=folder / "manifest.json")

    def claim(self, about: Mapping[str, Any]) -> None:
        """Check that an existing run can be resumed, before anything is written.

        Raises:
            RunError: It has other settings, or was begun by an earlier version.
        """
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
        """Return the number of complete samples; :meth:`claim` has validated the file."""
        return self.samples.read_bytes().count(b"\n") if self.samples.exists() else 0

    def write_manifest(self, about: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        """Write the run's settings and append the current session."""
        earlier = read_manifest(self.manifest)["sessions"] if self.num_samples() else []
        write_json(self.manifest, {"run": about, "sessions": [*earlier, session]})


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        RunError: The file is not a manifest.
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


def read_run(folder: Path, *, partial: bool = False) -> Run:
    """Read a run.

    Args:
        folder: The run's folder.
        partial: Whether it may lack samples; problems and sets without any are then dropped.

    Raises:
        RunError: The folder does not hold a run, has a duplicate sample, or lacks samples.
    """
    files = RunFiles.at(folder)
    if not files.manifest.exists():
        raise RunError(f"Expect the folder of a run, with manifest.json, got {folder}.")
    manifest = read_manifest(files.manifest)
    about = manifest["run"]
    rows: dict[tuple[str, int, int], Sample] = {}
    for row in read_samples(files.samples)[0] if files.samples.exists() else ():
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
    if missing and not partial:
        raise RunError(
            f"Expect a finished run in {folder}, got {len(places) - len(missing)} of {len(places)} samples. "
            f"Resume with: {manifest['sessions'][-1]['command']}"
        )
    played = {
        name: [[rows[place] for place in problem if place in rows] for problem in problems]
        for name, problems in wanted.items()
    }
    samples = {
        name: tuple(tuple(problem) for problem in problems if problem)
        for name, problems in played.items()
        if any(problems)
    }
    return Run(folder=folder, about=about, samples=samples, missing=len(missing))


def find_runs(path: Path) -> list[Path]:
    """Return the folders of all runs at or below a path.

    Raises:
        RunError: There are none.
    """
    found = sorted(manifest.parent for manifest in path.rglob("manifest.json"))
    if not found:
        raise RunError(f"Expect a run's folder, with manifest.json, or one that holds such folders, got {path}.")
    return found
