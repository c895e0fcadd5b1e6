import os
import subprocess
import sys

import pytest

from agents.core.programs import launcher


def test_a_variable_of_torchrun_that_vllm_writes_on_a_cpu_is_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert launcher() == "python"


@pytest.mark.parametrize(
    ("count", "on_node", "expected"),
    [(1, 1, "python"), (2, 2, "torchrun --nproc-per-node 2"), (8, 4, "torchrun --nnodes 2 --nproc-per-node 4")],
)
def test_the_launcher_is_that_which_started_the_processes(count: int, on_node: int, expected: str) -> None:
    code = "import os; from agents.core import programs as p; os.environ['LOCAL_WORLD_SIZE'] = '1'; print(p.launcher())"
    started = os.environ | {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(on_node)}
    done = subprocess.run([sys.executable, "-c", code], env=started, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"
