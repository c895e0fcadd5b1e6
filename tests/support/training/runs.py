"""Short training runs: in this process, and as a user starts them."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from paths import ROOT

from agents import Callback, Trainer, presets
from agents.config.training import PPOConfig, RolloutConfig, TrainConfig, ValidationConfig
from agents.core.files import read_metrics
from agents.rollout.episode import TurnRules

SMALL = [
    *("tiny", "--rollout.num-problems", "2", "--rollout.num-generations", "2", "--rollout.max-num-seqs", "4"),
    *("--validation.num-problems", "2", "--validation.every", "0", "--warm-up-steps", "1"),
    *("--rollout.max-completion-length", "24"),
]


def small(folder: Path, **changes: Any) -> TrainConfig:
    """The tiny preset with few and short episodes, and no validation between steps."""
    rollout = {"num_problems": 2, "num_generations": 2, "max_num_seqs": 4, "max_completion_length": 24}
    return TrainConfig(
        model="tiny",
        output_dir=folder,
        autocast=False,
        env=changes.pop("env", presets["tiny"]().env),
        rollout=RolloutConfig(max_model_len=256, dtype="float32", **(rollout | changes.pop("rollout", {}))),
        ppo=PPOConfig(learning_rate=1e-3, **changes.pop("ppo", {})),
        validation=ValidationConfig(num_problems=1, **({"every": 0} | changes.pop("validation", {}))),
        **({"max_steps": 2, "save_every": 100} | changes),
    )


@contextmanager
def trainer(
    folder: Path, *, callbacks: Sequence[Callback] = (), rules: TurnRules | None = None, **changes: Any
) -> Iterator[Trainer]:
    made = Trainer(small(folder, **changes), log=lambda _: None, callbacks=callbacks, rules=rules)
    try:
        yield made
    finally:
        made.close()


def rows(folder: Path) -> list[dict[str, float]]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if "reward" in row]


def run(*args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=540, check=False, **options)


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("Expect the condition to hold within 180 s.")
        time.sleep(0.05)


def beside(work: Callable[[], Any], act: Callable[[], Any]) -> Any:
    """Work, and act in another thread meanwhile."""
    other = Thread(target=act)
    other.start()
    try:
        return work()
    finally:
        other.join()
