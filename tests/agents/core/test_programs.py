import os
import signal
import subprocess
import sys

import pytest

from agents.core import programs
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


def test_a_command_that_a_signal_ends_has_the_exit_code_of_a_shell() -> None:
    assert programs.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 128 + signal.SIGKILL
    assert programs.run([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_a_program_that_is_asked_to_end_lets_the_command_that_it_runs_end_first() -> None:
    ask = "while True: os.kill(parent, signal.SIGTERM); time.sleep(0.1)"
    handle = "import os, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    command = f"{handle}; parent = os.getppid()\n{ask}"
    ignore = "signal.signal(signal.SIGTERM, lambda *_: None)"
    run = f"print(programs.run([sys.executable, '-c', {command!r}]))"
    code = f"import signal, sys; from agents.core import programs; {ignore}; {run}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "7\n"
