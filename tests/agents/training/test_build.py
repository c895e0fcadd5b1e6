"""Building a run: models that cannot be trained are rejected before the first step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from agents_fakes import small_chat, tiny_qwen2

from agents import presets
from agents.config.training import TrainConfig
from agents.core.errors import ConfigError
from agents.training.build import build_policy


def build(config: TrainConfig, folder: Path) -> list[str]:
    lines: list[str] = []
    build_policy(config, folder, small_chat(), torch.device("cpu"), is_new=False, log=lines.append)
    return lines


def test_episodes_longer_than_the_models_window_are_rejected(tmp_path: Path) -> None:
    config = presets["tiny"]()
    tiny_qwen2(40, use_sliding_window=True, sliding_window=64, max_window_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"^Expect `max_model_len` within the model's window \(64\), got 256\.$"):
        build(config, tmp_path)
    build(replace(config, rollout=replace(config.rollout, max_completion_length=32, max_model_len=64)), tmp_path)


def test_a_window_that_no_layer_uses_is_none(tmp_path: Path) -> None:
    tiny_qwen2(40, use_sliding_window=False, sliding_window=64).save_pretrained(tmp_path)
    build(presets["tiny"](), tmp_path)


def test_episodes_longer_than_the_model_supports_cause_a_warning(tmp_path: Path) -> None:
    warning = "Warning: episodes may have 256 tokens, though the model was made for 200."
    for made_for, said in ((200, [warning]), (256, [])):
        tiny_qwen2(40, max_position_embeddings=made_for).save_pretrained(tmp_path)
        assert build(presets["tiny"](), tmp_path) == said
