"""Writes samples of other programs, and regraded ones, as the folder of a run: for reports, pages and comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.core.files import write_json, write_json_lines
from agents.core.samples import Sample
from agents.evaluation.manifest import describe_session
from agents.evaluation.run_folder import RunFiles, read_manifest

NO_SAMPLE = "no sample"
"""Reason of a row that stands for a sample which the file lacks."""


def write_imported(folder: Path, rows: Sequence[Sample], *, name: str, source: Mapping[str, str], command: str) -> int:
    """Write samples and a manifest to a new folder.

    Problems are numbered anew, in order. A run has as many samples of each problem: where the file has fewer, rows
    that count as not judged stand for the others.

    Args:
        folder: The folder.
        rows: At least one sample.
        name: Of the model, for tables.
        source: Where the samples come from.
        command: The command that imports them.

    Returns:
        How many samples were missing.
    """
    groups: dict[str, dict[int, list[Sample]]] = {}
    for row in rows:
        groups.setdefault(row["set"], {}).setdefault(row["problem_index"], []).append(row)
    sizes = {
        set_name: {"problems": len(problems), "num_samples": max(map(len, problems.values()))}
        for set_name, problems in groups.items()
    }
    whole = [
        row
        for set_name, problems in groups.items()
        for index, number in enumerate(sorted(problems))
        for row in _numbered(problems[number], index, sizes[set_name]["num_samples"])
    ]
    about = {"model": {"name": name, "revision": "imported"}, "arm": "imported", "sets": sizes, "source": dict(source)}
    _write(folder, whole, about, command)
    return len(whole) - len(rows)


def write_regraded(folder: Path, rows: Sequence[Sample], *, before: Path, grader: str, command: str) -> None:
    """Write regraded samples of a run to a new folder, with the run's manifest and the grader's version."""
    about = read_manifest(RunFiles.at(before).manifest)["run"]
    _write(folder, rows, {**about, "regraded": {"grader": grader}}, command)


def _write(folder: Path, rows: Sequence[Sample], about: Mapping[str, Any], command: str) -> None:
    folder.mkdir(parents=True)
    write_json_lines(folder / "samples.jsonl", rows)
    write_json(folder / "manifest.json", {"run": about, "sessions": [describe_session(command)]})


def _numbered(rows: Sequence[Sample], index: int, count: int) -> Iterator[Sample]:
    for number in range(count):
        row = rows[number] if number < len(rows) else _missing(rows[0])
        yield {**row, "problem_index": index, "sample": number}


def _missing(row: Sample) -> Sample:
    return {
        **row,
        "turns": [],
        "predicted": None,
        "reason": NO_SAMPLE,
        "reward": 0.0,
        "reward_valid": False,
        "correct": False,
        "terminated": False,
        "truncated": True,
    }
