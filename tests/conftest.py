"""Settings of all tests. Helpers lie in support/, which pyproject.toml puts on the import path."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that would download fails instead
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

pytest.register_assert_rewrite("engine_contract")
