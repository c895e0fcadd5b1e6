import dataclasses
from pathlib import Path

import pytest
import torch

from agents import presets
from agents.metrics import read_metrics
from agents.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]


def test_the_tiny_preset_learns_on_a_gpu(tmp_path: Path) -> None:
    config = dataclasses.replace(presets["tiny"](), output_dir=tmp_path, device="cuda")
    trainer = Trainer(config)
    assert trainer.train()
    trainer.close()
    accuracies = [
        row["validation/accuracy"] for row in read_metrics(tmp_path / "metrics.jsonl") if "validation/accuracy" in row
    ]
    assert accuracies[-1] > 0.9


def test_trainer_and_engine_agree_on_a_gpu_in_float32(tmp_path: Path) -> None:
    config = dataclasses.replace(presets["tiny"](), output_dir=tmp_path, device="cuda", max_steps=1)
    trainer = Trainer(config)
    trainer.train()
    trainer.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert max(row["sampling/sampling_logp_difference/max"] for row in rows if "reward" in row) < 1e-3
