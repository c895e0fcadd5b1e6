"""A run that samples several steps ahead on a cluster: no token is older than the bound, and it resumes exactly."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from runs import rows, trainer

from agents.config.cluster import ClusterConfig
from agents.training.checkpoint import checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(600)]
SETTINGS: dict[str, Any] = {
    "rollout": {"max_staleness": 2},
    "ppo": {"importance_sampling": "token"},
    "cluster": ClusterConfig(engines=1),
    "max_steps": 6,
    "save_every": 3,
    "save_total_limit": 9,
}


def test_a_run_two_steps_ahead_resumes_exactly(nodes: Any, tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    with trainer(whole, **SETTINGS) as made:
        made.train()
    assert [row["sampling/staleness_max"] for row in rows(whole)] == [0, 1, 2, 2, 2, 2]
    shutil.copytree(whole / "checkpoint-3", parted / "checkpoint-3")
    with trainer(parted, **SETTINGS, resume=True) as made:
        made.train()
    one, other = (checkpoints(folder)[-1] / "model.safetensors" for folder in (whole, parted))
    assert one.read_bytes() == other.read_bytes()
