"""Training processes on two nodes: the run of one process, also after one of them is lost, or all with the driver."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from paths import ROOT
from ray_processes import processes
from runs import SMALL, run, small, trainer, wait_for
from safetensors.torch import load_file

from agents.cluster.trainers import train_together
from agents.config.cluster import ClusterConfig
from agents.core.errors import TrainingError
from agents.training.checkpoint import checkpoints
from agents.training.trainer import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(folder)[-1] / "model.safetensors")


def beside(work: Callable[[], Any], act: Callable[[], Any]) -> Any:
    """Work, and act in another thread meanwhile."""
    other = Thread(target=act)
    other.start()
    try:
        return work()
    finally:
        other.join()


def test_a_lost_trainer_restarts_all_and_the_weights_are_those_of_one_process(nodes: Any, tmp_path: Path) -> None:
    settings = {"max_steps": 3, "save_every": 1}
    with trainer(tmp_path / "one", **settings) as made:
        made.train()
    lines: list[str] = []
    folder = tmp_path / "two"
    config = small(folder, cluster=ClusterConfig(trainers=2, engines=1), **settings)

    def kill() -> None:
        wait_for(lambda: len(checkpoints(folder)) > 0)
        os.kill(processes("TrainActor")[-1], signal.SIGKILL)

    assert beside(lambda: train_together(Trainer, config, should_stop=lambda: False, log=lines.append), kill)
    assert len(lines) == 1
    assert lines[0].endswith("all start again from the last checkpoint.")
    one, two = weights(tmp_path / "one"), weights(folder)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0)


class Dies:
    """A trainer whose process ends."""

    def __init__(self, config: Any) -> None:
        pass

    def train(self) -> bool:
        os._exit(1)

    def stop(self) -> None: ...

    def close(self) -> None: ...


class Stops(Dies):
    """A trainer that ends as soon as it is asked to."""

    asked = False

    def train(self) -> bool:
        wait_for(lambda: self.asked)
        return False

    def stop(self) -> None:
        self.asked = True


@pytest.mark.thorough
def test_trainers_that_never_last_end_the_run_with_one_line(nodes: Any, tmp_path: Path) -> None:
    config = small(tmp_path, cluster=ClusterConfig(trainers=1, max_restarts=1))
    with pytest.raises(
        TrainingError, match=r"^Expect training processes that last, got one more lost after 1 restarts"
    ):
        train_together(Dies, config, should_stop=lambda: False, log=print)


@pytest.mark.thorough
def test_a_request_to_stop_reaches_all_trainers(nodes: Any, tmp_path: Path) -> None:
    config = small(tmp_path, cluster=ClusterConfig(trainers=2))
    assert not train_together(Stops, config, should_stop=lambda: True, log=print)


@pytest.mark.thorough
def test_a_killed_driver_leaves_no_process_and_its_run_resumes(nodes: Any, tmp_path: Path) -> None:
    flags = [*SMALL, "--output-dir", str(tmp_path), "--save-every", "1", "--resume", "auto", "--cluster.engines", "1"]
    variables = os.environ | {"RAY_ADDRESS": nodes.address}
    command = [sys.executable, str(ROOT / "train.py"), *flags, "--max-steps", "1000"]
    with subprocess.Popen(command, env=variables, cwd=ROOT, stdout=subprocess.DEVNULL) as driver:
        wait_for(lambda: len(checkpoints(tmp_path)) > 0)
        assert processes("RolloutActor")
        driver.kill()
    wait_for(lambda: not processes("RolloutActor"))
    steps = int(checkpoints(tmp_path)[-1].name.partition("-")[2])
    again = run(*flags, "--max-steps", str(steps + 1), env=variables)
    assert again.returncode == 0, again.stderr
    assert f"Resuming after step {steps}." in again.stdout
