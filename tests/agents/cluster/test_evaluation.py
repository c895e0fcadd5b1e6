"""An evaluation on two engines writes the samples of one in this process, each once, also after one was killed."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import products
from ray_processes import processes

from agents.config.cluster import ClusterArguments
from agents.config.evaluation import EvalConfig
from agents.evaluation.runner import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def evaluated(tiny: Path, output: Path, *, engines: int = 0, log: Callable[[str], Any] = print) -> Path:
    """Evaluate; return the file of the samples."""
    config = EvalConfig(
        model=(str(tiny),),
        num_samples="3",
        dtype="float32",
        max_num_seqs=4,
        max_completion_length=24,
        max_model_len=700,
        output=output,
        cluster=ClusterArguments(engines=engines),
    )
    return run(config, {"products": products()}, log=log)[0] / "samples.jsonl"


def test_two_engines_play_what_is_missing_and_what_a_killed_one_did_not_finish(
    nodes: object, tiny: Path, tmp_path: Path
) -> None:
    whole = evaluated(tiny, tmp_path).read_bytes().splitlines()
    (path,) = tmp_path.rglob("samples.jsonl")
    path.write_bytes(b"".join(line + b"\n" for line in whole[:4]))
    lines: list[str] = []

    def kill_at_progress(line: str) -> None:
        if " of 15 samples, " in line and not any(" of 15 samples, " in each for each in lines):
            os.kill(processes("RolloutActor")[0], signal.SIGKILL)
        lines.append(line)

    evaluated(tiny, tmp_path, engines=2, log=kill_at_progress)
    assert any("is lost" in line for line in lines)
    rows = path.read_bytes().splitlines()
    assert rows[:4] == whole[:4]
    assert sorted(rows) == sorted(whole)
