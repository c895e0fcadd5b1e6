"""Settings of all tests. Helpers lie in support/ and its folders, all on the import path (pyproject.toml)."""

import gc
import os
from collections import Counter
from collections.abc import Iterator

import gymnasium
import pytest
from hypothesis import settings

import cir_env

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that would download fails instead
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # on tensors of this size threads cost more than they give

settings.register_profile("thorough", max_examples=1_000, deadline=None)  # pytest --hypothesis-profile thorough
pytest.register_assert_rewrite("engine_contract")
gymnasium.register_envs(cir_env)  # before any test

gc.disable()  # until all is imported, which makes millions of objects that stay


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # else xdist begins with the files of the most tests, not of the longest


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of the most slow tests, so that no worker is left alone with one of them at the end."""
    slow = Counter(item.path for item in items if {"slow", "browser"} & {mark.name for mark in item.iter_markers()})
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def _no_other_environment_stays_registered() -> Iterator[None]:
    before = {**gymnasium.registry}
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)
