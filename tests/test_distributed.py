"""Several processes: the numbers of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_update import CASES, update

FOLDER = Path(__file__).parent


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a program in several processes, which find our packages and the tests' fakes."""
    path = os.pathsep.join([str(FOLDER.parent), str(FOLDER), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*command, *arguments],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]]:
    folder = tmp_path_factory.mktemp("outcomes")
    done = torchrun(str(FOLDER / "distributed_update.py"), str(folder))
    assert done.returncode == 0, done.stderr
    loaded: dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]] = torch.load(folder / "outcomes.pt")
    return loaded


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one(
    case: str, outcomes: dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]]
) -> None:
    tensors, figures = update(CASES[case])
    shared, shared_figures = outcomes[case]
    assert shared_figures == pytest.approx(figures, rel=1e-6, abs=1e-9)
    assert shared.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.allclose(shared[name], tensor, rtol=0, atol=1e-6), name
