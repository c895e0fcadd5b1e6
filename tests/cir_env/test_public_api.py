"""The names that `cir_env` exports, and what importing them loads."""

import subprocess
import sys

import pytest

import cir_env


def modules_after(statement: str) -> set[str]:
    """Run an import statement in a new interpreter and return the names of all loaded modules."""
    program = [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"]
    return set(subprocess.run(program, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("name", cir_env.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(cir_env, name) is not None


def test_a_star_import_loads_no_deep_learning_library() -> None:
    heavy = {"torch", "transformers", "trl", "verifiers", "stable_baselines3"}
    modules = modules_after("from cir_env import *")
    assert "cir_env.sandbox" in modules
    assert modules & heavy == set()


def test_importing_the_package_loads_no_submodule() -> None:
    assert {name for name in modules_after("import cir_env") if name.startswith("cir_env.")} == set()
