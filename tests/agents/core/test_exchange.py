"""Trajectories of four processes on two nodes reach all of them, each node once."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from paths import ROOT


@pytest.fixture(scope="module")
def said() -> list[dict[str, Any]]:
    """What four processes, the second without trajectories, say of those that they have gathered."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "training" / "exchanged.py")],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made: list[dict[str, Any]] = json.loads(done.stdout)
    return made


@pytest.mark.slow
def test_every_process_has_the_trajectories_of_all_in_order(said: list[dict[str, Any]]) -> None:
    assert [each["groups"] for each in said] == [[0, 2, 3]] * 4
    assert all(each["equal"] for each in said)


@pytest.mark.slow
def test_arrays_are_once_on_each_node(said: list[dict[str, Any]]) -> None:
    one, _, other, _ = inodes = [each["inodes"] for each in said]
    assert inodes == [one, one, other, other]
    assert len({*one, *other}) == 2 * 3
    assert not any(each["writable"] or each["left"] for each in said)


@pytest.mark.slow
def test_a_node_receives_what_the_others_have_once(said: list[dict[str, Any]]) -> None:
    one, second, other, last = (each["received"] for each in said)
    array_bytes = 13 * 1000  # of a trajectory
    assert (second, last) == (0, 0)
    assert 2 * array_bytes < one < 2.2 * array_bytes
    assert array_bytes < other < 1.2 * array_bytes


@pytest.mark.slow
def test_all_hear_that_one_was_stopped(said: list[dict[str, Any]]) -> None:
    assert [each["stopped"] for each in said] == [None] * 4
