"""Settings of all tests; being here also puts this folder on the import path of the tests in its subfolders."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that would download fails instead
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

pytest.register_assert_rewrite("engine_contract")
