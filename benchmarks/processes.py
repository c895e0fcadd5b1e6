"""Measure what each of several processes holds: at the start of a trainer, and of a step's trajectories.

MALLOC_MMAP_THRESHOLD_=65536 torchrun --nproc-per-node 2 benchmarks/processes.py
MALLOC_MMAP_THRESHOLD_=65536 torchrun --nproc-per-node 2 benchmarks/processes.py --whole

Start: the most memory above that before, while a policy is loaded, and then tried, beside its share of the float32
parameters; with --whole each process loads all of the model before it is sharded. The model has random weights. The
variable makes the C library give memory back that PyTorch has freed; else gathered layers seem to be held for good.

Trajectories: bytes of a token as they travel, as they are held, and seconds until all processes have all of them, as
arrays, and as the tuples that they were before.
"""

from __future__ import annotations

import pickle
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir

import torch
import tyro
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.core import distributed
from agents.core.tables import table
from agents.core.types import Trajectory
from agents.learning.policy import Policy, place
from agents.models.load import load_model
from agents.training.build import load_on

_FIELDS = ("token_ids", "action_mask", "logprobs", "policy_versions")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    hidden: int = 1024
    """Width of the model."""
    layers: int = 24
    """Its layers."""
    whole: bool = False
    """Load all of the model in each process, then shard it."""
    episodes: int = 64
    """Trajectories of a process."""
    tokens: int = 4096
    """Tokens of each."""


def main(config: Config) -> dict[str, float]:
    """Measure, and print the tables in the first process."""
    distributed.start(torch.device("cpu"))
    found = start(config) | trajectories(config)
    every = distributed.gather([found])
    if distributed.rank() == 0:
        rows = [[name, *(f"{each[name]:,.2f}" for each in every)] for name in found]
        print(table(["", *(f"process {number}" for number in range(len(every)))], rows))
    distributed.stop()
    return found


class Watched(Policy):
    """Notes the most memory that was held before it is tried, in MB."""

    loaded = 0.0

    def check(self) -> None:
        """Try the models."""
        self.loaded = _held("VmHWM")
        super().check()


def start(config: Config) -> dict[str, float]:
    """Return the share, the size of a layer, and the peaks of a start, in MB."""
    folder = Path(gettempdir()) / f"processes-{config.hidden}-{config.layers}"
    with distributed.first_of_node_first():
        if distributed.rank() == 0 and not (folder / "config.json").exists():
            _write(config, folder)
    before = _held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    model = load_model(folder, "float32") if config.whole else load_on(folder, torch.device("cpu"), log=print)
    policy = Watched(model)
    place(policy, folder, torch.device("cpu"))
    loading, peak = policy.loaded - before, _held("VmHWM") - before
    count = sum(parameter.numel() for parameter in policy.parameters())
    layer = sum(parameter.numel() for parameter in policy.layers()[0].parameters())
    share = 4 * count / distributed.size() / 2**20
    return {
        "share, MB": share,
        "a layer, MB": 4 * layer / 2**20,
        "loading: peak, MB": loading,
        "loading: peak, of the share": loading / share,
        "with the trial: peak, MB": peak,
        "with the trial: peak, of the share": peak / share,
    }


def trajectories(config: Config) -> dict[str, float]:
    """Return bytes of a token, and seconds to gather a step's trajectories."""
    rng = random.Random(distributed.rank())
    mine = [_trajectory(rng, config.tokens) for _ in range(config.episodes)]
    tuples = [{name: tuple(getattr(each, name)) for name in _FIELDS} for each in mine]
    count = config.episodes * config.tokens
    found: dict[str, float] = {}
    forms: dict[str, Sequence[object]] = {"arrays": mine, "tuples": tuples}
    for name, items in forms.items():
        distributed.wait()
        before, begin = _held("VmRSS"), time.perf_counter()
        gathered = distributed.gather(items)
        found[f"{name}: seconds"] = time.perf_counter() - begin
        held = (_held("VmRSS") - before) * 2**20 / (count * distributed.size())
        found[f"{name}: bytes of a token, sent"] = len(pickle.dumps(items)) / count
        found[f"{name}: bytes of a token, held"] = held
        del gathered
    return found


def _write(config: Config, folder: Path) -> None:
    sizes = {"hidden_size": config.hidden, "intermediate_size": 4 * config.hidden, "num_hidden_layers": config.layers}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=1000, **sizes, **heads)).save_pretrained(folder)


def _trajectory(rng: random.Random, tokens: int) -> Trajectory:
    logprobs = torch.tensor([-rng.random() for _ in range(tokens)]).tolist()
    return Trajectory(
        problem_id="",
        group_id=0,
        token_ids=[rng.randrange(150_000) for _ in range(tokens)],
        action_mask=[place > 100 for place in range(tokens)],
        logprobs=logprobs,
        prompt_length=100,
        reward=0.0,
        reward_valid=True,
        terminated=True,
        truncated=False,
        turns=(),
        boundary_cuts=0,
        policy_versions=[3] * tokens,
    )


def _held(name: str) -> float:
    """Return a figure of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


if __name__ == "__main__":
    main(tyro.cli(Config))
