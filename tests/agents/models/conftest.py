import shutil
from pathlib import Path

import pytest

from agents.models import find
from agents.models.gguf import wheels


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "made"))


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "hub_cached", lambda name: None)
    monkeypatch.setattr(find, "hub_problem", lambda name: "no answer in 3 s")
    monkeypatch.setattr(wheels, "hub_problem", lambda name: "no answer in 3 s")
