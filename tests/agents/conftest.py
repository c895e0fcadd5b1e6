from pathlib import Path

import pytest

from agents.core.chat import Chat
from agents.models.load import load_tokenizer
from agents.models.tiny import build_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model, which no test changes."""
    made = tmp_path_factory.mktemp("tiny")
    build_tiny(made)
    return made


@pytest.fixture(scope="session")
def chat(tiny: Path) -> Chat:
    """The tiny model's."""
    return Chat(load_tokenizer(tiny))
