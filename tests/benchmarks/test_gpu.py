"""The benchmark for a GPU: its dry run is the same code on tiny models."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.core.errors import ModelError
from benchmarks import gpu
from benchmarks.gpu import Config

OF_ENGINE = {
    "seconds",
    "tokens_per_s",
    "held_mb",
    "asleep_mb",
    "sync_s",
    "sleep_s",
    "wake_s",
    "gap_mean",
    "gap_largest",
}
OF_UPDATE = {"seconds", "tokens_per_s", "flops", "utilisation", "peak_mb", "takes_steps", "gradient_norms"}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part would import torch in a process of its own."""
    monkeypatch.setattr(gpu, "apart", lambda work, *arguments, timeout_s: work(*arguments))
    monkeypatch.setattr(gpu, "LIBRARIES", dict.fromkeys(gpu.LIBRARIES, "no_such_library"))


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_the_dry_run_measures_every_part_whose_library_is_there(tmp_path: Path) -> None:
    found = gpu.main(Config(dry_run=True, output=tmp_path / "gpu.json"))
    assert json.loads((tmp_path / "gpu.json").read_text())["rows"] == found["rows"]
    rows = {(row["model"], row["part"]): row for row in found["rows"]}
    missing = {part for part, row in rows.items() if "reason" in row}
    assert missing == {("tiny", "vllm"), ("tiny", "TRL"), ("tiny 7B", "vllm")}
    for model in ("tiny", "tiny 7B"):
        assert rows[model, "transformers"].keys() >= OF_ENGINE
        assert rows[model, "transformers"]["gap_largest"] < 0.1  # the engine and the trainer began with other weights
        assert rows[model, "update"].keys() >= OF_UPDATE
        assert 0 < rows[model, "update"]["utilisation"] < 1
    assert [rows[model, "update"]["takes_steps"] for model in ("tiny", "tiny 7B")] == [True, False]


def test_the_shape_of_smollm2_has_its_number_of_weights() -> None:
    with torch.device("meta"):
        model = gpu.smollm2_135m()
    assert sum(p.numel() for p in model.parameters()) == 134_515_008


def test_weights_that_can_not_be_had_are_replaced_by_the_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "smollm2_135m", lambda: gpu.qwen_7b(torch.device("cpu"), torch.float32, **gpu.TINY_7B))
    small, _ = gpu.subjects(Config(model="./none"), torch.device("cpu"), tmp_path)
    assert small.weights.startswith("random initialisation, for lack of ./none: Expect `model`")
    assert (tmp_path / "small/model.safetensors").exists()


@pytest.mark.slow
def test_what_fails_or_takes_too_long_is_a_reason() -> None:
    def run(work: Any, timeout_s: float = 120.0) -> str:
        return str(gpu.apart(work, timeout_s=timeout_s)["reason"])

    assert run(partial(int, "x")) == "ValueError: invalid literal for int() with base 10: 'x'"
    assert run(partial(os._exit, 3)) == "the process ended with exit code 3"
    assert run(dict, timeout_s=0.01) == gpu.OVER


def test_parts_after_the_last_minute_are_excluded() -> None:
    assert gpu.attempt("update", left_s=0.0) == {"reason": gpu.OVER}


def test_without_a_gpu_only_the_dry_run_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="Expect a CUDA device for --device cuda"):
        gpu.main(Config())
