"""Metrics are written to a file, and to trackers that may fail."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from runs import wait_for

from agents.core.errors import RunError, ServiceError
from agents.core.files import read_metrics
from agents.tracking.trackers import MetricsLog, check_installed

Install = Callable[[str], None]


def test_rows_are_written_one_per_line(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "run", keep_before=0) as log:
        log.write(0, {"reward": 0.5})
        log.write(1, {"reward": 1.0})
        log.write(1, {"validation/accuracy": 0.25})
        rows = read_metrics(tmp_path / "run" / "metrics.jsonl")  # readable while the run continues
    assert rows == [{"step": 0, "reward": 0.5}, {"step": 1, "reward": 1.0}, {"step": 1, "validation/accuracy": 0.25}]


def test_tensorboard_gets_the_same_metrics_and_the_configuration(tmp_path: Path) -> None:
    reader: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    with MetricsLog(tmp_path, keep_before=0, report_to=["tensorboard"], config={"seed": 7}) as log:
        log.write(3, {"reward": 0.5})
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(3, 0.5)]
    (text,) = events.Tensors("config/text_summary")
    assert b'"seed": 7' in text.tensor_proto.string_val[0]


def test_a_new_run_starts_with_an_empty_file(tmp_path: Path) -> None:
    for reward in (0.1, 0.2):
        with MetricsLog(tmp_path, keep_before=0) as log:
            log.write(0, {"reward": reward})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "reward": 0.2}]


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, keep_before=0) as log:
        for step in range(5):
            log.write(step, {"reward": step})
    with MetricsLog(tmp_path, keep_before=3) as log:
        log.write(3, {"reward": 30})
    assert [row["reward"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 30]


@pytest.mark.parametrize("line", ['{"step": 1, "rew', "[1]", '{"reward": 1}'])
def test_a_malformed_line_is_named_and_nothing_is_lost(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0, "reward": 1}}\n{line}\n{{"step": 2, "reward": 2}}\n')
    before = path.read_text()
    with pytest.raises(RunError) as raised:
        MetricsLog(tmp_path, keep_before=3)
    assert str(raised.value).startswith(f"{path}, line 2: Expect a row with a step, got b'{line[:5]}")
    assert path.read_text() == before


def test_an_incomplete_last_line_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "reward": 1}\n{"step": 1, "rew')
    assert read_metrics(path) == [{"step": 0, "reward": 1}]
    with MetricsLog(tmp_path, keep_before=2) as log:
        log.write(2, {"reward": 2})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 2]


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make a library ``fake_tracker`` with this code importable."""

    def write(code: str) -> None:
        (tmp_path / "fake_tracker.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "fake_tracker", raising=False)

    return write


@pytest.mark.slow
def test_wandb_gets_metrics_and_configuration_and_resumes_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for keep_before in (0, 2):
        with MetricsLog(tmp_path, keep_before=keep_before, report_to=["wandb"], config={"ppo": {"lam": 1.0}}) as log:
            log.write(keep_before, {"reward": 0.5})
    files = list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert {file.stem for file in files} == {f"run-{(tmp_path / 'run_id').read_text()}"}
    for file in files:  # a process of wandb's own writes them
        wait_for(lambda file=file: all(word in file.read_bytes() for word in (b"reward", b"lam", b"cir-env")))


TRACKIO = """
import sys, trackio
from pathlib import Path
from agents.tracking.trackers import MetricsLog
from trackio.sqlite_storage import SQLiteStorage
for step in (1, 2):
    with MetricsLog(Path(sys.argv[1]), keep_before=step - 1, report_to=["trackio"], config={"seed": 3}) as log:
        log.write(step, {"reward": step / 2})
(run,) = trackio.Api().runs("of-a-test")
rows = SQLiteStorage.get_logs("of-a-test", run.name)
print(run.name, run.config["seed"], [(row["step"], row["reward"]) for row in rows], sep="|")
"""


@pytest.mark.slow
def test_trackio_gets_metrics_and_configuration_and_resumes_the_same_run(tmp_path: Path) -> None:
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "TRACKIO_PROJECT": "of-a-test"}
    command = [sys.executable, "-c", TRACKIO, str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    (line,) = [line for line in done.stdout.splitlines() if "|" in line]
    assert line == f"run-{(tmp_path / 'run' / 'run_id').read_text()}|3|[(1, 0.5), (2, 1.0)]"


def test_a_missing_library_is_named_with_the_command_that_installs_it() -> None:
    check_installed(["tensorboard"])
    with pytest.raises(ValueError, match=r"^Expect the library no_tracker for --report-to no_tracker, got none: pip "):
        check_installed(["tensorboard", "no_tracker"])


def test_a_tracker_that_does_not_start_prevents_the_run(tmp_path: Path, install: Install) -> None:
    install("def init(**more):\n    raise RuntimeError('no key.\\nLog in.')")
    with pytest.raises(ServiceError, match=r"^Expect fake_tracker to start a run, got: no key. Log in. Remove it "):
        MetricsLog(tmp_path, keep_before=0, report_to=["tensorboard", "fake_tracker"])


def test_a_failing_tracker_is_dropped_with_one_warning(tmp_path: Path, install: Install) -> None:
    install(
        "class Run:\n"
        "    def log(self, data, step):\n        if step: raise OSError('no network')\n"
        "    def finish(self):\n        raise AssertionError('it was left behind')\n"
        "def init(**more):\n    return Run()\n"
    )
    warnings: list[str] = []
    with MetricsLog(tmp_path, keep_before=0, report_to=["fake_tracker"], warn=warnings.append) as log:
        for step in range(3):
            log.write(step, {"reward": 0.5})
    assert warnings == [
        "Warning: fake_tracker failed and gets no more metrics; metrics.jsonl has them all: no network."
    ]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3
