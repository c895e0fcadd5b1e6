import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ordinary_user import AS_NOBODY, NoInterpreter, copied_interpreter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user, which needs root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the profile has the calls of x86-64"),
]


@pytest.fixture(scope="module")
def machine() -> Iterator[tuple[Path, Path]]:
    try:
        with copied_interpreter() as copied:
            yield copied
    except NoInterpreter as error:
        pytest.skip(str(error))


def layers(machine: tuple[Path, Path], *container: str) -> dict[str, bool]:
    """Return which layers are active for an ordinary user in a container."""
    python, checkout = machine
    within = [python, checkout / "tests/support/sandbox/container.py", *container] if container else []
    program = [*within, python, "-m", "cir_env.sandbox"]
    environment = {"PYTHONPATH": str(checkout), "HOME": "/nonexistent"}
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60, env=environment, **AS_NOBODY)
    *lines, verdict = done.stdout.splitlines()
    assert verdict == "Blocks can run: the self-test passed."
    return {line.split()[0]: line.split()[1] == "on" for line in lines}


def test_under_dockers_default_profile_all_layers_but_namespaces_and_scratch_hold(machine: tuple[Path, Path]) -> None:
    outside = layers(machine)
    assert layers(machine, "--allow", "nothing") == outside | {"namespaces": False, "scratch": False}


def test_four_system_calls_more_bring_all_layers_back(machine: tuple[Path, Path]) -> None:
    if not (outside := layers(machine))["namespaces"]:
        pytest.skip("this machine forbids namespaces to ordinary users")
    needed = ["unshare", "mount", "umount2", "pivot_root"]
    assert layers(machine, "--allow", ",".join(needed)) == outside
    for call in needed:
        assert not layers(machine, "--allow", ",".join({*needed} - {call}))["namespaces"]
