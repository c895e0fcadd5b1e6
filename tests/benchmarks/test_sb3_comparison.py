import json
import runpy
from pathlib import Path

import pytest
from paths import ROOT

PROGRAM = ROOT / "benchmarks" / "sb3_comparison.py"


@pytest.mark.slow
def test_the_comparison_with_stable_baselines_runs(tmp_path: Path) -> None:
    program = runpy.run_path(str(PROGRAM))
    program["main"](program["Config"](episodes=256, seeds=1, output=tmp_path / "figures.json"))
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert [f["contender"] for f in results] == ["ours, REINFORCE++ baseline", "ours, GAE", "Stable-Baselines3"]
    assert all(-1 <= f["mean"] < 0 for f in results)
