"""The page of runs in progress, served on loopback."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from reports import row, some_rows, write_rows, write_run, write_training

from agents.core.errors import ConfigError
from agents.evaluation.run_folder import read_run
from agents.report.watch import WatchServer


@contextmanager
def watching(*folders: Path) -> Iterator[WatchServer]:
    with WatchServer(folders, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: WatchServer, path: str = "/", host: str | None = None) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def items_of(html: str) -> list[dict[str, Any]]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    items: list[dict[str, Any]] = json.loads(data)["items"]
    return items


def test_a_growing_evaluation_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    rows = some_rows()
    folder = write_run(tmp_path / "runs" / "mine", rows)
    (folder / "samples.jsonl").unlink()
    with watching(tmp_path / "runs") as server:
        assert "No sample has been written" in get(server)[1]
        write_rows(folder / "samples.jsonl", rows[:7])
        page, version = get(server)[1], get(server, "/version")[1]
        assert f'data-version="{version}"' in page
        assert "mine (code) (partial: 7 of 24)" in page
        assert len(items_of(page)) == 7
        write_rows(folder / "samples.jsonl", rows)
        assert get(server, "/version")[1] != version
        page = get(server)[1]
        assert "partial" not in page
        assert len(items_of(page)) == 24


def test_a_growing_training_run_shows_its_last_step_first(tmp_path: Path) -> None:
    whole, folder = write_training(tmp_path / "whole"), tmp_path / "run"
    write_rows(folder / "run.json", [{"config": {"max_steps": 4}}])
    metrics, samples = ((whole / name).read_text().splitlines(True) for name in ("metrics.jsonl", "samples.jsonl"))
    with watching(folder) as server:
        assert "Waiting for results" in get(server)[1]
        (folder / "metrics.jsonl").write_text("".join(metrics[:3]))
        (folder / "samples.jsonl").write_text("".join(samples[:3]) + samples[3][:20])  # a line that is being written
        page = get(server)[1]
        assert "Not finished: step 2 of 4." in page
        assert items_of(page)[0]["facets"]["step"] == ["2"]


def test_a_partial_run_has_the_problems_that_have_a_sample(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [row(n, sample) for n in range(3) for sample in range(2)])
    write_rows(folder / "samples.jsonl", [row(2, 1), row(0, 0), row(0, 1)])
    run = read_run(folder, partial=True)
    assert [[each["sample"] for each in rows] for rows in run.samples["AIME24"]] == [[0, 1], [1]]
    assert run.missing == 3


def test_only_requests_for_loopback_are_answered(tmp_path: Path) -> None:
    with watching(write_training(tmp_path)) as server:
        assert get(server, host="attacker.example")[0] == 421
        assert get(server, "/../etc/passwd")[0] == 404


def test_a_missing_folder_and_a_used_port_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Expect the folder of a run"):
        WatchServer([tmp_path / "none"], 0)
    with WatchServer([tmp_path], 0) as server, pytest.raises(ConfigError, match="Expect `port` to be free"):
        WatchServer([tmp_path], server.server_port)


@pytest.mark.slow
def test_the_command_says_where_and_ends_with_an_interrupt(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "evaluate.py"), "report", str(write_training(tmp_path)), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line
        connection = HTTPConnection("127.0.0.1", int(found[1]))
        connection.request("GET", "/")
        assert b"data-version" in connection.getresponse().read()
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
