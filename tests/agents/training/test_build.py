"""Building a run: models that cannot be trained are rejected before the first step."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from agents_fakes import FakeEngine, small_chat, stretched, tiny_qwen2

from agents import presets
from agents.config.training import PPOConfig, RolloutConfig, TrainConfig
from agents.core.errors import ConfigError
from agents.learning.policy import Policy
from agents.rollout import source
from agents.rollout.episode import TurnRules
from agents.training.build import build_policy, build_source, reserved_bytes
from agents.training.weight_sync import BUCKET_BYTES


def build(config: TrainConfig, folder: Path) -> list[str]:
    lines: list[str] = []
    build_policy(config, folder, small_chat(), torch.device("cpu"), is_new=False, log=lines.append)
    return lines


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_episodes_longer_than_the_models_positions_allow_are_rejected(kind: str, tmp_path: Path) -> None:
    config = presets["tiny"]()
    stretched(40, kind, made_for=64).save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=rf"^Expect `max_model_len` of at most 64 for `{kind}` positions, .*got 256\.$"
    ):
        build(config, tmp_path)
    build(replace(config, rollout=replace(config.rollout, max_completion_length=32, max_model_len=64)), tmp_path)


def test_episodes_longer_than_the_model_supports_cause_a_warning(tmp_path: Path) -> None:
    warning = "Warning: episodes may have 256 tokens, though the model was made for 200."
    for made_for, said in ((200, [warning]), (256, [])):
        tiny_qwen2(40, max_position_embeddings=made_for).save_pretrained(tmp_path)
        assert build(presets["tiny"](), tmp_path) == said


def opened(monkeypatch: pytest.MonkeyPatch, device: str, **rollout: Any) -> dict[str, Any]:
    """What an engine is opened with."""
    asked: dict[str, Any] = {}

    def open_engine(*_: Any, **settings: Any) -> FakeEngine:
        asked.update(settings)
        return FakeEngine(small_chat())

    monkeypatch.setattr(source, "open_engine", open_engine)
    config = TrainConfig(rollout=RolloutConfig(**rollout), ppo=PPOConfig(importance_sampling="token"))
    policy = Policy(tiny_qwen2(40))
    place: Any = {"dtype": "float32", "device": torch.device(device)}
    build_source(config, Path(), small_chat(), policy, TurnRules(), log=print, **place)
    return asked


def test_requests_have_seeds_on_a_cpu_and_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(monkeypatch, "cpu")["seed"] is None
    assert opened(monkeypatch, "cuda", reproducible=True)["seed"] is None
    seeds = [opened(monkeypatch, "cuda")["seed"], opened(monkeypatch, "cpu", reproducible=False)["seed"]]
    assert seeds[0] == seeds[1] < 2**31


def test_an_engine_that_samples_during_the_update_gets_a_fixed_share(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(monkeypatch, "cuda")["gpu_memory_utilization"] is None
    assert opened(monkeypatch, "cuda", max_staleness=1)["gpu_memory_utilization"] == 0.3
    assert opened(monkeypatch, "cuda", vllm_gpu_memory_utilization=0.6)["gpu_memory_utilization"] == 0.6


def test_training_reserves_its_optimizer_state_and_two_buckets() -> None:
    policy = Policy(tiny_qwen2(40))
    trained = sum(p.numel() for p in policy.parameters())
    assert reserved_bytes(policy, 8) == 8 * trained + 2 * BUCKET_BYTES
    policy.model.requires_grad_(False)
    assert reserved_bytes(policy, 8) == 2 * BUCKET_BYTES
