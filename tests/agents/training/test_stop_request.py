"""Stopped and killed runs leave complete checkpoints, and resumed runs end like uninterrupted ones, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from runs import SMALL, trainer
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import train
from agents import Trainer
from agents.core.files import read_metrics
from agents.training import stop_request as signals
from agents.training.checkpoint import STATE, checkpoints, read_json

CHANGES: dict[str, Any] = {
    "max_steps": 3,
    "ppo": {"micro_batch_tokens": 1, "advantage": "gae"},
    "validation": {"every": 2},
}
CLOCKS = ("time/", "step_time", "tools/execution_s", "episodes/grading_s", "engine/", "tokens_per_second")


def outcome(folder: Path) -> tuple[bytes, dict[str, Any], dict[str, Any], list[dict[str, float]]]:
    """Final weights, optimizer state, trainer state and metrics of the run in a folder, without times."""
    last = checkpoints(folder)[-1]
    rows = read_metrics(folder / "metrics.jsonl")
    metrics = [{name: value for name, value in row.items() if not name.startswith(CLOCKS)} for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is one process only
        dcp_to_torch_save(last / "training_state", last / "optimizer_state.pt")
    optimizer_state = torch.load(last / "optimizer_state.pt", weights_only=True)
    return (last / "model.safetensors").read_bytes(), optimizer_state, read_json(last / STATE), metrics


def assert_the_same(one: Path, other: Path) -> None:
    weights, optimizer_state, state, metrics = outcome(one)
    weights_too, optimizer_state_too, state_too, metrics_too = outcome(other)
    assert weights == weights_too
    torch.testing.assert_close(optimizer_state, optimizer_state_too, rtol=0, atol=0)
    assert state == state_too
    assert metrics == metrics_too


def stop(count: int = 1) -> None:
    for _ in range(count):
        os.kill(os.getpid(), signal.SIGTERM)


class Passes:
    """Counts the passes of one kind in the second step, and acts during one of them."""

    def __init__(self, number: int, act: Callable[[], Any]) -> None:
        self.seen, self._number, self._act = 0, number, act

    def __call__(self) -> None:
        self.seen += 1
        if self.seen == self._number:
            self._act()

    def of_engine(self, made: Trainer) -> None:
        poll = made.source.engine.poll

        def counted() -> Any:
            if made.step == 1:
                self()
            return poll()

        made.source.engine.poll = counted  # type: ignore[method-assign]

    def of_policy(self, made: Trainer, *, with_gradient: bool) -> None:
        def counted(*_: Any) -> None:
            if made.step == 1 and torch.is_grad_enabled() == with_gradient:
                self()

        made.policy.register_forward_hook(counted)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    with trainer(folder, **CHANGES) as made:
        made.train()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "at", "step"),
    [
        ("sampling", (20, 20), 1),  # behind the probe of the weights, in the middle of the collection
        ("evaluation", (3, 3), 1),
        ("update", (1, 1), 1),  # one of the first minibatch's two micro-batches: no weight has changed
        ("update", (3, 4), 2),  # the second minibatch: the first one's optimizer step is taken, so this one is finished
    ],
)
def test_a_stop_is_prompt_and_the_resumed_run_ends_the_same(
    tmp_path: Path, whole: Path, kind: str, at: tuple[int, int], step: int
) -> None:
    number, seen = at
    passes = Passes(number, stop)
    with trainer(tmp_path, **CHANGES) as made:
        if kind == "sampling":
            passes.of_engine(made)
        else:
            passes.of_policy(made, with_gradient=kind == "update")
        assert not made.train()
        assert made.stop_request.signal == signal.SIGTERM
    assert passes.seen == seen
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}"]
    with trainer(tmp_path, resume=True, **CHANGES) as made:
        assert made.train()
    assert_the_same(tmp_path, whole)


@pytest.mark.slow
def test_an_aborted_validation_is_repeated(tmp_path: Path, whole: Path) -> None:
    with trainer(tmp_path, **CHANGES) as made:
        play = made.validator.play

        def stopped(*arguments: Any, **more: Any) -> Any:
            if made.step == 2:
                stop()
            return play(*arguments, **more)

        made.validator.play = stopped  # type: ignore[method-assign]
        assert not made.train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]
    with trainer(tmp_path, resume=True, **CHANGES) as made:
        assert made.train()
    assert_the_same(tmp_path, whole)


@pytest.mark.slow
def test_a_second_signal_stops_at_once_and_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_ONE_REQUEST_S", 0.0)
    with trainer(tmp_path, **CHANGES) as made:
        Passes(3, lambda: stop(2)).of_policy(made, with_gradient=True)
        with pytest.raises(KeyboardInterrupt):
            made.train()
    assert checkpoints(tmp_path) == []


def test_a_signal_forwarded_by_a_launcher_is_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_ONE_REQUEST_S", 1e9)
    with trainer(tmp_path, **CHANGES) as made:
        Passes(1, lambda: stop(2)).of_policy(made, with_gradient=True)
        assert not made.train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1"]


KILLED = """
import json, os, signal, sys
import train
from agents.learning import ppo
from agents.training import checkpoint, trainer

owners = {"accumulate": ppo.PPO, "save_shards": checkpoint}
for name, number, args in json.loads(sys.argv[1]):
    if child := os.fork():  # the libraries are loaded once
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), *sorted(os.listdir(sys.argv[2])), flush=True)
        continue
    call, seen = getattr(owners[name], name), 0

    def killed(*arguments, **more):
        global seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **more)

    setattr(owners[name], name, killed)
    os._exit(train.main(args))
"""
FLAGS = [
    *(*SMALL, "--ppo.advantage", "gae", "--max-steps", "4"),
    *("--save-every", "1", "--best-metric", "None", "--save-total-limit", "1", "--output-dir"),
]


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_step_and_in_a_save_ends_the_same(tmp_path: Path) -> None:
    parted, uninterrupted = tmp_path / "parted", tmp_path / "uninterrupted"
    assert train.main([*FLAGS, str(uninterrupted)]) == 0
    args = [*FLAGS, str(parted)]
    kills = [
        ("accumulate", 4, args),  # the second minibatch of the second step
        ("save_shards", 2, [*args, "--resume"]),  # the optimizer state of the third step
    ]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(kills), str(parted)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # sums depend on it in their last bits
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    first, second = (line.split() for line in done.stdout.splitlines() if line.startswith("-9 "))
    assert [name for name in first if "checkpoint" in name] == ["checkpoint-1"]
    assert [name for name in second if "checkpoint" in name] == [".checkpoint-3.partial", "checkpoint-2"]
    assert train.main([*args, "--resume"]) == 0
    assert_the_same(parted, uninterrupted)
    assert not list(parted.glob(".*"))


def test_all_processes_stop_when_one_is_asked_to(tmp_path: Path) -> None:
    def play(*_: Any, **more: Any) -> None:
        return None  # as where another process was stopped

    with trainer(tmp_path, **CHANGES) as made:
        made.validator.play = play  # type: ignore[method-assign]
        assert not made.train()
