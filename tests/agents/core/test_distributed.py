"""Several processes compute the results of one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from agents_fakes import tiny_llama, tiny_qwen2
from distributed_update import CASES, V, extra_problems, gradient, update
from paths import ROOT
from runs import SMALL

import train
from agents.core import distributed
from agents.core.files import read_metrics

SUPPORT = ROOT / "tests" / "support" / "training"


ARGS = [
    *(*SMALL, "--device", "cpu", "--save-every", "1", "--ppo.num-minibatches", "1", "--max-steps"),
]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of one process."""
    folder = tmp_path_factory.mktemp("one")
    assert train.main([*ARGS, "2", "--output-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def torchrun(one: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What two processes wrote and printed: updates, two steps in the folder two, and a third step after `one`."""
    folder = tmp_path_factory.mktemp("torchrun")
    shutil.copytree(one, folder / "one")
    runs = [
        [*ARGS, "2", "--output-dir", str(folder / "two")],
        [*ARGS, "3", "--output-dir", str(folder / "one"), "--resume"],
    ]
    path = os.pathsep.join([str(ROOT), str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(str(SUPPORT / "distributed_update.py"), str(folder), json.dumps(runs)),
        ],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def outcomes(torchrun: tuple[Path, str]) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]]:
    loaded: dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]] = torch.load(torchrun[0] / "outcomes.pt")
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_same_steps_as_one(
    case: str, outcomes: dict[str, tuple[dict[str, torch.Tensor], dict[str, float]]]
) -> None:
    tensors, metrics = update(CASES[case])
    shared, shared_metrics = outcomes[case]
    assert shared_metrics == pytest.approx(metrics, rel=1e-6, abs=1e-9)
    assert shared.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.allclose(shared[name], tensor, rtol=0, atol=1e-6), name


@pytest.mark.slow
def test_in_bfloat16_processes_gather_half_the_bytes_and_round_as_one(torchrun: tuple[Path, str]) -> None:
    shared = torch.load(torchrun[0] / "gradients.pt")
    exact, lean = shared["None"], shared["torch.bfloat16"]
    assert 0.5 <= lean[2] / exact[2] < 0.51  # the value head is gathered in float32
    assert torch.allclose(exact[0], gradient(None)[0], atol=1e-6)
    alone, metrics, _ = gradient(torch.bfloat16)
    assert lean[1] == pytest.approx(metrics, rel=1e-2)
    rounding = (alone - exact[0]).norm()
    assert (lean[0] - alone).norm() < 1.5 * rounding
    assert (lean[0] - exact[0]).norm() < 1.5 * rounding


@pytest.mark.slow
def test_each_process_checks_all_engines(torchrun: tuple[Path, str]) -> None:
    said = json.loads((torchrun[0] / "said.json").read_text())
    assert [passed for passed, *_ in said] == ["passed", "passed"]
    assert all(fault.startswith("Expect the engine to sample from the trainer's weights") for _, fault, _ in said)


@pytest.mark.slow
def test_a_sharded_models_weights_are_gathered_once_and_in_bfloat16(torchrun: tuple[Path, str]) -> None:
    gathered = json.loads((torchrun[0] / "gathered.json").read_text())
    untied, tied = (make(V).num_parameters() for make in (tiny_llama, tiny_qwen2))
    assert gathered["plain"]["calls"] == [2 * untied]
    assert gathered["tied"]["calls"] == [2 * tied]
    assert gathered["tied"]["tensors"] == len(tiny_qwen2(V).state_dict())
    assert gathered["adapters"]["calls"] == [4 * gathered["adapters"]["trained"], 2 * untied]


@pytest.mark.slow
def test_shards_of_different_sizes_are_put_together(torchrun: tuple[Path, str]) -> None:
    pieces = json.loads((torchrun[0] / "gathered.json").read_text())["pieces"]
    assert pieces == [torch.arange(15.0).view(5, 3).tolist(), [[0.0, 1.0]], [0.0, 1.0, 2.0]]


@pytest.mark.slow
def test_a_failed_write_of_adapters_is_an_error_in_all_processes(torchrun: tuple[Path, str]) -> None:
    said = json.loads((torchrun[0] / "said.json").read_text())
    assert all("adapter" in error for *_, error in said)


@pytest.mark.slow
def test_a_slow_process_shows_in_the_metrics_of_all(torchrun: tuple[Path, str]) -> None:
    first, second = json.loads((torchrun[0] / "straggled.json").read_text())
    assert {k: v for k, v in first.items() if k != "whole"} == {k: v for k, v in second.items() if k != "whole"}
    slowest, mean = first["time/sampling_s"], first["time/sampling_mean_s"]
    assert 0.8 * first["whole"] < slowest <= second["whole"]
    assert slowest / 2 < mean < 0.9 * slowest
    assert first["tokens_per_second"] == pytest.approx(first["tokens"] / slowest)
    assert first["engine/utilisation"] < 0.9


@pytest.mark.slow
def test_extra_problems_give_the_same_batch_in_one_process_and_in_two(torchrun: tuple[Path, str]) -> None:
    alone = extra_problems()
    assert any(chosen[0] % 2 == chosen[-1] % 2 for chosen, _ in alone)  # both are problems of one process
    assert json.loads((torchrun[0] / "chosen.json").read_text()) == [list(step) for step in alone]


def metrics(folder: Path) -> list[dict[str, float]]:
    """Metrics that depend neither on a clock nor on the assignment of episodes to processes."""
    names = ("reward", "policy_loss", "entropy", "grad_norm", "completions/mean_length", "validation/accuracy")
    return [{name: row[name] for name in names if name in row} for row in read_metrics(folder / "metrics.jsonl")]


@pytest.mark.slow
def test_two_processes_train_like_one_and_resume_each_others_checkpoints(one: Path, torchrun: tuple[Path, str]) -> None:
    folder, printed = torchrun
    two = folder / "two"
    assert [printed.count(f"{said} after step 2") for said in ("Held-out accuracy", "Checkpoint")] == [1, 1]
    assert "```bash\ntorchrun --nproc-per-node 2 train.py tiny " in (two / "checkpoint-2" / "README.md").read_text()
    assert [sorted(row) for row in metrics(two)] == [sorted(row) for row in metrics(one)]
    for row, expected in zip(metrics(two), metrics(one), strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert train.main([*ARGS, "3", "--output-dir", str(two), "--resume"]) == 0
    assert metrics(two)[-1] == pytest.approx(metrics(folder / "one")[-1], rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_a_process_that_does_not_answer_ends_the_run_in_one_line() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            str(SUPPORT / "lost_process.py"),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT)]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
    assert len(said) == 1
    assert said[0].startswith("train.py: Expect an answer from the other processes within 0.05 minutes, got none: ")
    assert said[0].endswith("The last checkpoint is unchanged.")


def test_idle_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    devices = [torch.device(kind) for kind in ("cuda", "cpu")]
    assert [distributed.idle_gpus(device) for device in devices] == [7, 0]
    monkeypatch.setattr(distributed, "size", lambda: 8)
    assert distributed.idle_gpus(devices[0]) == 0


def test_problems_that_cannot_be_split_evenly_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distributed, "size", lambda: 2)
    assert train.main([*SMALL, "--rollout.num-problems", "3", "--output-dir", str(tmp_path)]) == 2
    assert "Expect `rollout.num_problems` a multiple of the 2 processes, got 3." in capsys.readouterr().err
