"""train.py with a served engine: the same run as with a local one, and its end when the engine is lost."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from runs import SMALL
from serving import served

import train
from agents.core.chat import Chat
from agents.core.files import read_metrics
from agents.engines import open_engine
from agents.engines.__main__ import main as serve
from agents.engines.remote import KEY
from agents.models.find import resolve_model
from agents.models.load import load_tokenizer
from agents.tracking.trackers import MetricsLog

SERVE = ("--model", "tiny", "--dtype", "float32", "--max-num-seqs", "4")


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")


@pytest.fixture(scope="module")
def engine() -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Serve the tiny model in a process; yield the address and the process, which the last test kills."""
    address = free_address()
    command = [sys.executable, "-m", "agents.engines", "--address", address, *SERVE]
    env = os.environ | {KEY: "secret", "OMP_NUM_THREADS": str(torch.get_num_threads())}  # last bits depend on it
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env) as process:
        try:
            assert process.stdout is not None
            assert f"Serving an engine on {address}.\n" in iter(process.stdout.readline, "")
            yield address, process
        finally:
            process.kill()


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if "reward" in row]


def transcripts(folder: Path) -> list[Any]:
    return [json.loads(line)["turns"] for line in (folder / "samples.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_with_a_served_engine_equals_one_with_a_local_engine(
    tmp_path: Path, engine: tuple[str, "subprocess.Popen[str]"]
) -> None:
    own, served = tmp_path / "own", tmp_path / "served"
    address, process = engine
    args = [*SMALL, "--max-steps", "2", "--rollout.dtype", "float32"]
    assert train.main([*args, "--output-dir", str(own)]) == 0
    assert train.main([*args, "--output-dir", str(served), "--rollout.engine", address]) == 0
    assert process.poll() is None
    assert [row["reward"] for row in rows(served)] == [row["reward"] for row in rows(own)]
    assert len(rows(served)) == 2
    assert transcripts(served) == transcripts(own)
    weights = "checkpoint-2/model.safetensors"
    assert (served / weights).read_bytes() == (own / weights).read_bytes()


@pytest.mark.slow
def test_a_run_whose_engine_is_killed_ends_with_one_line_and_resumes_with_another(
    tmp_path: Path,
    engine: tuple[str, "subprocess.Popen[str]"],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, process = engine
    write = MetricsLog.write

    def write_and_kill(log: MetricsLog, step: int, *arguments: Any) -> None:
        write(log, step, *arguments)
        if step == 2:
            process.kill()
            process.wait()

    args = [*SMALL, "--output-dir", str(tmp_path), "--max-steps", "3", "--rollout.engine"]
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", write_and_kill)
        assert train.main([*args, address]) == 1
    output, errors = capsys.readouterr()
    assert errors.splitlines()[-1].startswith(f"train.py: Expect an engine at {address}, got none (")
    assert "Traceback" not in errors
    assert "Continue with --resume" in output
    assert (tmp_path / "checkpoint-2" / "trainer_state.json").exists()
    path = resolve_model("tiny")
    sizes = {"max_num_seqs": 4, "max_model_len": 512}
    another = open_engine(
        "transformers", path, Chat(load_tokenizer(path), "raw"), dtype="float32", device=torch.device("cpu"), **sizes
    )
    with served(another) as address:
        assert train.main([*args, address, "--resume"]) == 0
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("given", "key", "code", "message"),
    [
        (
            "{free}",
            "secret",
            1,
            "Expect an engine at {free}, got none ([Errno 111] Connection refused). Restart it: ",
        ),
        (
            "{free}",
            "",
            2,
            "Expect a secret in the environment variable CIR_ENGINE_KEY, the same on both sides; it is not ",
        ),
        (
            "somewhere",
            "secret",
            2,
            "Expect an engine to be auto, transformers, vllm, HOST:PORT or module:function, got ",
        ),
    ],
)
def test_train_ends_with_one_line_without_an_engine_or_a_secret(
    *,
    given: str,
    key: str,
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(KEY, key)
    free = free_address()
    args = [*SMALL, "--output-dir", str(tmp_path), "--rollout.engine", given.format(free=free)]
    assert train.main(args) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: " + message.format(free=free))


@pytest.mark.parametrize(
    ("address", "key", "code", "message"),
    [
        ("nowhere", "secret", 2, "agents.engines: Expect the address of an engine, HOST:PORT, got 'nowhere'."),
        ("127.0.0.1:5005", "", 2, f"agents.engines: Expect a secret in the environment variable {KEY}, the same on"),
        ("192.0.2.1:5005", "secret", 1, "agents.engines: Cannot listen on 192.0.2.1:5005: "),
    ],
)
def test_bad_server_settings_end_with_one_line(
    *,
    address: str,
    key: str,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(KEY, key)
    assert serve(["--address", address, *SERVE]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
