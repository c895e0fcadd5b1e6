"""What a process holds is measured, beside its share and beside tuples."""

import pytest

from benchmarks import processes
from benchmarks.processes import Config


@pytest.mark.slow
def test_a_start_and_trajectories_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = processes.main(Config(hidden=32, layers=2, episodes=2, tokens=500))
    assert found["share, MB"] < 1
    assert 13 <= found["arrays: bytes of a token, sent"] < 15
    assert found["tuples: bytes of a token, sent"] > 15
    assert "| with the trial: peak, MB " in capsys.readouterr().out
