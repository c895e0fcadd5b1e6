"""Building a run: models that cannot be trained are rejected before the first step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from agents_fakes import small_chat, stretched, tiny_qwen2

from agents import presets
from agents.config.training import TrainConfig
from agents.core.errors import ConfigError
from agents.training.build import build_policy


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
