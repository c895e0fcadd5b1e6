from pathlib import Path

import pytest

from agents.models.folders import build_once, missing_part
from agents.models.tiny import build_tiny


def test_a_folder_gets_its_final_name_only_when_complete(tmp_path):
    target = tmp_path / "cache" / "model"

    def build(made: Path) -> None:
        build_tiny(made)
        assert not target.exists()

    build_once(target, build)
    assert missing_part(target) is None
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_an_interrupted_build_leaves_nothing_behind(tmp_path):
    def build(made: Path) -> None:
        (made / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "model", build)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_concurrent_builds_wins(tmp_path):
    target = tmp_path / "model"

    def build(made: Path) -> None:
        build_tiny(made, seed=2)
        build_tiny(target, seed=1)  # the other process

    build_once(target, build)
    build_tiny(tmp_path / "expected", seed=1)
    expected = (tmp_path / "expected" / "model.safetensors").read_bytes()
    assert (target / "model.safetensors").read_bytes() == expected
