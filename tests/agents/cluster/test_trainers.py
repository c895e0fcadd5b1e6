"""Training processes on two nodes: the run of one process, also after one of them is lost, or all with the driver."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cluster_fakes import Dies, Stops
from paths import ROOT
from ray_processes import processes
from runs import SMALL, small, wait_for
from safetensors.torch import load_file

import train
from agents.cluster.trainers import train_together
from agents.config.cluster import ClusterConfig
from agents.core.errors import TrainingError
from agents.training.checkpoint import checkpoints

pytestmark = pytest.mark.slow
RUN = [
    *(*SMALL, "--warm-up-steps", "0", "--max-steps", "3", "--save-every", "1"),
    *("--rollout.dtype", "float32", "--no-autocast"),
    *("--env.reward", "cluster_fakes:length", "--ppo.learning-rate", "1e-3"),
]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(folder)[-1] / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process, of which the steps change the weights."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train.main([*RUN, "--output-dir", str(folder)]) == 0
    first, *_, last = (load_file(each / "model.safetensors") for each in checkpoints(folder))
    assert any(not first[name].equal(tensor) for name, tensor in last.items())
    return folder


def assert_same(folder: Path, expected: Path) -> None:
    one, other = weights(expected), weights(folder)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-6, rtol=0)


def test_a_run_that_loses_a_trainer_and_then_its_driver_ends_with_the_weights_of_one_process(
    nodes: Any, undisturbed: Path, tmp_path: Path
) -> None:
    flags = [*RUN, "--output-dir", str(tmp_path)]
    command = [sys.executable, str(ROOT / "train.py"), *flags, "--cluster.trainers", "2", "--cluster.engines", "1"]
    variables = os.environ | {"RAY_ADDRESS": nodes.address}
    with subprocess.Popen(command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, text=True) as driver:
        wait_for(lambda: len(checkpoints(tmp_path)) == 1)
        assert (len(processes("TrainActor")), len(processes("RolloutActor"))) == (2, 1)
        os.kill(processes("TrainActor")[-1], signal.SIGKILL)
        wait_for(lambda: len(checkpoints(tmp_path)) == 2)
        driver.kill()
        assert driver.communicate()[0].count("all start again from the last checkpoint.") == 1
    wait_for(lambda: not processes("TrainActor") and not processes("RolloutActor"))
    assert train.main([*flags, "--resume", "auto", "--cluster.env-actors", "1"]) == 0
    assert_same(tmp_path, undisturbed)


def test_trainers_that_do_not_last_end_the_run_with_one_line(nodes: Any, tmp_path: Path) -> None:
    config = small(tmp_path, cluster=ClusterConfig(trainers=1, max_restarts=0))
    with pytest.raises(
        TrainingError, match=r"^Expect training processes that last, got one more lost after 0 restarts"
    ):
        train_together(Dies, config, should_stop=lambda: False, log=print)


def test_a_request_to_stop_reaches_all_trainers(nodes: Any, tmp_path: Path) -> None:
    config = small(tmp_path, cluster=ClusterConfig(trainers=2))
    assert not train_together(Stops, config, should_stop=lambda: True, log=print)
