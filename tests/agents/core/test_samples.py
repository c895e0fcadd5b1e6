"""Sample files and runs."""

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from agents_fakes import trajectory
from eval_fakes import row

from agents.core.errors import RunError
from agents.core.samples import SampleFile, read_samples, transcript
from agents.core.types import Turn
from agents.evaluation.run_folder import find_runs, read_run


def test_rows_round_trip_whatever_they_contain(tmp_path: Path) -> None:
    rows = [row(predicted="\u2028 \r\n \ud800 é"), row(False)]
    with SampleFile(tmp_path / "new" / "samples.jsonl") as file:
        for each in rows:
            file.append(each)
    assert read_samples(tmp_path / "new" / "samples.jsonl")[0] == rows


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        (MappingProxyType({"level": 3, "tests": [1]}), {"level": 3, "tests": [1]}),
        ({}, {}),
        (None, {}),
        ("text", {}),
        ({"at": object()}, {}),
    ],
)
def test_a_sample_has_the_metadata_of_its_problem_if_it_is_json(metadata: Any, kept: dict[str, Any]) -> None:
    info = {} if metadata is None else {"metadata": metadata}
    made = trajectory(turns=(Turn(text="", feedback="", finish_reason="stop", info=info),))
    assert json.loads(json.dumps(transcript(made)))["metadata"] == kept


def test_samples_of_an_earlier_version_without_metadata_are_read(tmp_path: Path) -> None:
    earlier = {name: value for name, value in row().items() if name != "metadata"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(earlier) + "\n")
    assert read_samples(tmp_path / "samples.jsonl")[0] == [earlier]


@pytest.mark.parametrize("line", ["{}", "[1]", "nonsense", '{"set": "a"'])
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(row()) + f"\n{line}\n")
    before = path.read_text()
    with pytest.raises(RunError) as raised:
        SampleFile(path)
    assert str(raised.value) == f"{path}, line 2: Expect a sample's JSON object, got {line.encode()!r}."
    assert path.read_text() == before


@pytest.mark.parametrize(
    "changes",
    [
        {"turns": ["text"]},
        {"turns": [{}]},
        {"turns": None},
        {"turns": [{**row()["turns"][0], "text": 5}]},
        {"turns": [{**row()["turns"][0], "feedback": None}]},
        {"sampled_tokens": "3"},
        {"problem_index": 0.5},
        {"correct": "yes"},
        {"set": 3},
        {"subject": ["algebra"]},
    ],
)
def test_a_line_with_malformed_fields_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(row() | changes) + "\n")
    with pytest.raises(RunError, match="line 1: Expect a sample's JSON object"):
        read_samples(path)


def test_an_incomplete_last_line_is_dropped_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(row()) + "\n" + json.dumps(row())[:50])
    with SampleFile(path) as file:
        assert (len(file.rows), file.dropped) == (1, True)
    with SampleFile(path) as file:
        assert (len(file.rows), file.dropped) == (1, False)


ABOUT = {
    "model": {"name": "A", "revision": "sha256 0f"},
    "arm": "code",
    "sets": {"set": {"problems": 1, "num_samples": 1}},
}


def whole_run(folder: Path) -> Path:
    """A run of one sample."""
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"run": ABOUT, "sessions": [{"command": "again"}]}))
    (folder / "samples.jsonl").write_text(json.dumps(row()) + "\n")
    return folder


def test_runs_are_found_below_a_folder(tmp_path: Path) -> None:
    runs = [whole_run(tmp_path / name) for name in ("a", "b")]
    assert find_runs(tmp_path) == runs
    assert find_runs(runs[0]) == runs[:1]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"Expect a run's folder, with manifest.json, or one that holds such"):
        find_runs(tmp_path)
    with pytest.raises(RunError, match=r"Expect the folder of a run, with manifest.json, got"):
        read_run(tmp_path / "none")


def test_a_duplicate_sample_is_rejected(tmp_path: Path) -> None:
    folder = whole_run(tmp_path / "a")
    (folder / "samples.jsonl").write_text(2 * (folder / "samples.jsonl").read_text())
    with pytest.raises(RunError, match=r"Expect each sample once in .*, got twice set, problem, sample"):
        read_run(folder)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"run": {}, "sessions": []}',
        '{"run": 3, "sessions": 4}',
        json.dumps({"run": ABOUT | {"model": {}}, "sessions": [{"command": "again"}]}),
        json.dumps({"run": ABOUT | {"sets": {"set": {"problems": 0}}}, "sessions": [{"command": "again"}]}),
        json.dumps({"run": ABOUT, "sessions": [{}]}),
    ],
)
def test_a_malformed_manifest_is_rejected(tmp_path: Path, text: str) -> None:
    folder = whole_run(tmp_path / "a")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"Expect a manifest of evaluate.py in .*manifest.json, got something else"):
        read_run(folder)
