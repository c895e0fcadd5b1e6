from pathlib import Path

import pytest

from agents.models import find, smollm2
from agents.models.tiny import build_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    build_tiny(made)
    return made


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "hub_cached", lambda name: None)
    monkeypatch.setattr(find, "hub_problem", lambda name: "no answer in 3 s")
    monkeypatch.setattr(smollm2, "hub_problem", lambda name: "no answer in 3 s")
