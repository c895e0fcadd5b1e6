import os
import subprocess
import sys

import pytest

from agents.core.programs import launcher


def test_a_variable_of_torchrun_that_vllm_writes_on_a_cpu_is_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert launcher() == "python"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LOCAL_WORLD_SIZE": "1"}, "python"),  # inherited from a process with vLLM
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, "python"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "torchrun --nproc-per-node 2"),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, "torchrun --nnodes 2 --nproc-per-node 4"),
    ],
)
def test_the_launcher_is_that_which_started_the_processes(variables: dict[str, str], expected: str) -> None:
    code = "import os; from agents.core import programs as p; os.environ['LOCAL_WORLD_SIZE'] = '1'; print(p.launcher())"
    started = os.environ | variables
    done = subprocess.run([sys.executable, "-c", code], env=started, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"
