"""The flags of a cluster: what is rejected, and what a run without them does not need."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from runs import SMALL

import evaluate
import train
from agents.cluster import connect
from agents.config.cluster import ClusterConfig
from agents.config.training import PPOConfig, RolloutConfig, TrainConfig
from agents.core.errors import ConfigError
from agents.training.build import check_processes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engines": -1}, r"^Expect `cluster\.engines` of at least 0, got -1\.$"),
        ({"engines": 1, "engine_cpus": 0}, r"^Expect `cluster\.engine_cpus` of at least 1, got 0\.$"),
        ({"env_actors": 1, "env_cpus": 0}, r"^Expect `cluster\.env_cpus` of at least 1, got 0\.$"),
        ({"engine_gpus": 1}, r"^Expect `cluster\.engine_gpus` 0 without engines, got 1\.$"),
        (
            {"engines": 1, "engine_gpus": 1, "weight_transfer": "nccl"},
            r"^Expect `cluster\.weight_transfer` store unless cluster\.trainers and .* got 'nccl'\.$",
        ),
        ({"patience_s": 0}, r"^Expect `cluster\.patience_s` above 0, got 0\.$"),
    ],
)
def test_values_out_of_range_are_rejected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClusterConfig(**fields)


def test_episodes_are_not_paused_on_a_cluster() -> None:
    with pytest.raises(ConfigError, match=r"^Expect `rollout\.max_new_tokens` None beside cluster\.engines, got 64\.$"):
        TrainConfig(
            rollout=RolloutConfig(max_new_tokens=64, max_staleness=1),
            ppo=PPOConfig(importance_sampling="token"),
            cluster=ClusterConfig(engines=1),
        )


@pytest.fixture
def over_nccl() -> ClusterConfig:
    return ClusterConfig(engines=1, engine_gpus=1, trainers=1, weight_transfer="nccl")


def test_only_vllm_takes_broadcasts(over_nccl: ClusterConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"^Expect `rollout\.engine` vllm for cluster\.weight_transfer nccl, got 'auto'"
    ):
        TrainConfig(cluster=over_nccl)


def test_trainers_without_gpus_do_not_broadcast(over_nccl: ClusterConfig) -> None:
    config = TrainConfig(rollout=RolloutConfig(engine="vllm"), cluster=over_nccl)
    with pytest.raises(
        ConfigError, match=r"^Expect `cluster\.weight_transfer` store unless trainers have GPUs \(here cpu"
    ):
        check_processes(config, torch.device("cpu"), log=print)


@pytest.mark.parametrize(
    "flags", [["--cluster.engines", "2"], ["--cluster.env-actors", "1"], ["--cluster.trainers", "2"]]
)
def test_without_ray_one_line_says_how_to_install_it(
    flags: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connect, "find_spec", lambda name: None)
    assert train.main([*SMALL, "--output-dir", str(tmp_path), *flags]) == 2
    assert capsys.readouterr().err == f"train.py: {connect.MISSING}\n"


def test_an_evaluation_without_ray_says_so_before_it_writes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connect, "find_spec", lambda name: None)
    assert evaluate.main(["--model", "tiny", "--output", str(tmp_path / "new"), "--cluster.engines", "2"]) == 2
    assert capsys.readouterr().err == f"evaluate.py: {connect.MISSING}\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_nothing_imports_ray_before_a_cluster_is_used() -> None:
    code = "import agents.sft.programs, agents.evaluation.runner, sys; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
