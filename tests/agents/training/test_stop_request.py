"""Stops and kills: what is saved is whole, and a run that goes on ends as one that was never stopped, bit for bit."""

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
from agents.core.errors import Stopped
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
    """Weights, moments, state and metrics that the run in a folder has ended with, but for what clocks say."""
    last = checkpoints(folder)[-1]
    rows = read_metrics(folder / "metrics.jsonl")
    figures = [{name: value for name, value in row.items() if not name.startswith(CLOCKS)} for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that there is one process only
        dcp_to_torch_save(last / "training_state", last / "moments.pt")
    moments = torch.load(last / "moments.pt", weights_only=True)
    return (last / "model.safetensors").read_bytes(), moments, read_json(last / STATE), figures


def assert_the_same(one: Path, other: Path) -> None:
    weights, moments, state, figures = outcome(one)
    weights_too, moments_too, state_too, figures_too = outcome(other)
    assert weights == weights_too
    torch.testing.assert_close(moments, moments_too, rtol=0, atol=0)
    assert state == state_too
    assert figures == figures_too


def stop(count: int = 1) -> None:
    for _ in range(count):
        os.kill(os.getpid(), signal.SIGTERM)


class Passes:
    """Counts the passes of one kind in the second step, and acts in one of them."""

    def __init__(self, number: int, act: Callable[[], Any]) -> None:
        self.seen, self._number, self._act = 0, number, act

    def __call__(self) -> None:
        self.seen += 1
        if self.seen == self._number:
            self._act()

    def of_engine(self, made: Trainer) -> None:
        poll = made.engine.poll

        def counted() -> Any:
            if made.step == 1:
                self()
            return poll()

        made.engine.poll = counted  # type: ignore[method-assign]

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
        ("update", (3, 4), 2),  # the second minibatch: the first one's optimiser step is taken, so this one is finished
    ],
)
def test_a_stop_waits_for_no_more_than_it_must_and_a_resumed_run_ends_the_same(
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
        assert made.stopped_by == signal.SIGTERM
    assert passes.seen == seen
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}"]
    with trainer(tmp_path, resume=True, **CHANGES) as made:
        assert made.train()
    assert_the_same(tmp_path, whole)


@pytest.mark.slow
def test_a_validation_that_was_broken_off_is_repeated(tmp_path: Path, whole: Path) -> None:
    with trainer(tmp_path, **CHANGES) as made:
        play = made.validator.play

        def stopped(**arguments: Any) -> Any:
            if made.step == 2:
                stop()
            return play(**arguments)

        made.validator.play = stopped  # type: ignore[method-assign]
        assert not made.train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]
    with trainer(tmp_path, resume=True, **CHANGES) as made:
        assert made.train()
    assert_the_same(tmp_path, whole)


def test_a_second_signal_stops_at_once_and_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_ONE_REQUEST_S", 0.0)
    with trainer(tmp_path, **CHANGES) as made:
        Passes(3, lambda: stop(2)).of_policy(made, with_gradient=True)
        with pytest.raises(KeyboardInterrupt):
            made.train()
    assert checkpoints(tmp_path) == []


def test_a_signal_that_a_launcher_forwards_as_well_is_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_ONE_REQUEST_S", 1e9)
    with trainer(tmp_path, **CHANGES) as made:
        Passes(1, lambda: stop(2)).of_policy(made, with_gradient=True)
        assert not made.train()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-1"]


KILLED = """
import os, signal, sys
import train
from agents.learning import ppo
from agents.training import checkpoint

place, number, args = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
owner, name = {"update": (ppo.PPO, "accumulate"), "save": (checkpoint, "save_shards")}[place]
call, seen = getattr(owner, name), 0

def killed(*arguments, **more):
    global seen
    seen += 1
    if seen == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(*arguments, **more)

setattr(owner, name, killed)
sys.exit(train.main(args))
"""
FLAGS = [
    *(*SMALL, "--rollout.max-completion-length", "24", "--ppo.advantage", "gae", "--max-steps", "4"),
    *("--save-every", "1", "--best-metric", "None", "--save-total-limit", "1", "--output-dir"),
]


def killed(place: str, number: int, *args: str) -> int:
    command = [sys.executable, "-c", KILLED, place, str(number), *args]
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on it in their last bits
    return subprocess.run(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL, timeout=240, check=False).returncode


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_step_and_in_a_save_ends_the_same(tmp_path: Path) -> None:
    parted, uninterrupted = tmp_path / "parted", tmp_path / "uninterrupted"
    assert train.main([*FLAGS, str(uninterrupted)]) == 0
    args = [*FLAGS, str(parted)]
    assert killed("update", 4, *args) == -signal.SIGKILL  # the second minibatch of the second step
    assert [path.name for path in checkpoints(parted)] == ["checkpoint-1"]
    assert killed("save", 2, *args, "--resume") == -signal.SIGKILL  # the moments of the third step
    assert [path.name for path in checkpoints(parted)] == ["checkpoint-2"]
    assert (parted / ".checkpoint-3.partial").exists()
    assert train.main([*args, "--resume"]) == 0
    assert_the_same(parted, uninterrupted)
    assert not list(parted.glob(".*"))


def test_a_process_stops_where_another_one_was_asked_to(tmp_path: Path) -> None:
    def play(**_: Any) -> Any:
        raise Stopped  # as the others do where outcomes are gathered

    with trainer(tmp_path, **CHANGES) as made:
        made.validator.play = play  # type: ignore[method-assign]
        assert not made.train()
