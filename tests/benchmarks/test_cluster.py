"""What a cluster costs is measured, in small."""

import subprocess
import sys
from collections.abc import Sequence

import pytest
from paths import ROOT

SMALL = "--repeats 1 --group 2 --rows 2 --episode-s 0.1 --rounds 1 --problems 4 --tokens 8 --megabytes 2 --engines 2"


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        (["efficiency", "sync", "--workers", "0", "1"], ["in this process", "1", "stored once", "a copy for each"]),
        (["speed", "faults", "slow"], ["2", "a node lost", "an engine killed between", "the queue"]),
    ],
)
def test_each_part_is_measured(parts: Sequence[str], rows: Sequence[str]) -> None:
    command = [sys.executable, "benchmarks/cluster.py", *SMALL.split(), "--parts", *parts]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for row in rows:
        assert f"\n| {row}" in printed
