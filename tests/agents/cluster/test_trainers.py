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
from runs import SMALL, beside, small, wait_for
from safetensors.torch import load_file

import train
from agents.cluster.trainers import train_together
from agents.config.cluster import ClusterConfig
from agents.core.errors import TrainingError
from agents.training.checkpoint import checkpoints

pytestmark = pytest.mark.slow
RUN = [
    *(*SMALL, "--max-steps", "3", "--save-every", "1", "--rollout.dtype", "float32", "--no-autocast"),
    *("--env.reward", "cluster_fakes:length", "--ppo.learning-rate", "1e-3"),
]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints(folder)[-1] / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process, of which every step changes the weights."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train.main([*RUN, "--output-dir", str(folder)]) == 0
    return folder


def assert_same(folder: Path, expected: Path) -> None:
    one, other = weights(expected), weights(folder)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-6, rtol=0)


def test_a_lost_trainer_restarts_all_and_the_weights_are_those_of_one_process(
    nodes: Any, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def kill() -> None:
        wait_for(lambda: len(checkpoints(tmp_path)) > 0)
        os.kill(processes("TrainActor")[-1], signal.SIGKILL)

    flags = [*RUN, "--output-dir", str(tmp_path), "--cluster.trainers", "2", "--cluster.engines", "1"]
    assert beside(lambda: train.main(flags), kill) == 0
    assert capfd.readouterr().out.count("all start again from the last checkpoint.") == 1
    assert_same(tmp_path, undisturbed)


def test_a_killed_driver_leaves_no_process_and_its_run_resumes(nodes: Any, undisturbed: Path, tmp_path: Path) -> None:
    flags = [*RUN, "--output-dir", str(tmp_path)]
    command = [sys.executable, str(ROOT / "train.py"), *flags, "--cluster.engines", "1"]
    variables = os.environ | {"RAY_ADDRESS": nodes.address}
    with subprocess.Popen(command, env=variables, cwd=ROOT, stdout=subprocess.DEVNULL) as driver:
        wait_for(lambda: len(checkpoints(tmp_path)) > 0)
        assert processes("RolloutActor")
        driver.kill()
    wait_for(lambda: not processes("RolloutActor"))
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
