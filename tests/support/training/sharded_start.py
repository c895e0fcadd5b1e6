"""Models that several processes load in shards: torchrun --nproc-per-node 2 .../sharded_start.py FOLDER.

The folder has one with a model for each of `FAMILIES`; what comes of each is saved beside it, as `NAME.pt`.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from agents_fakes import random_batch, tiny_gpt2, tiny_llama, tiny_mixtral, tiny_qwen2, tiny_qwen3_moe
from transformers import PreTrainedModel

from agents.config.training import LoraConfig
from agents.core import distributed
from agents.core.distributed import whole
from agents.learning.policy import Policy, place
from agents.models import sharded
from agents.models.lora import add_adapters
from agents.training.build import load_on
from agents.training.checkpoint import keep_model

V = 41  # rows that two processes cannot share evenly
FAMILIES: dict[str, Any] = {
    "qwen2": tiny_qwen2,
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,
    "qwen3_moe": tiny_qwen3_moe,
    "mixtral": tiny_mixtral,
}


def start(path: Path, *, autocast: torch.dtype | None = None, rank: int = 0) -> Policy:
    """A policy with a separate critic, loaded as training does."""

    def load() -> PreTrainedModel:
        return load_on(path, torch.device("cpu"), log=print)

    model = load()
    if rank:
        torch.manual_seed(5)
        add_adapters(model, LoraConfig(rank=rank))
    policy = Policy(model, value_head=True, critic=load(), autocast=autocast)
    place(policy, path, torch.device("cpu"))
    return policy


def outcome(path: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """All weights and buffers, and what they compute."""
    policy = start(path, **settings)
    logprobs = policy.evaluate(random_batch(V), 1000).logprobs
    return {name: whole(tensor).clone() for name, tensor in policy.state_dict().items()} | {
        **{name: buffer.clone() for name, buffer in policy.named_buffers()},
        "logprobs": logprobs,
    }


def main(folder: Path) -> None:
    """Load and save all."""
    sharded.FILE_BYTES = 20_000  # several files
    for name in FAMILIES:
        found = outcome(folder / name)
        adapted = outcome(folder / name, rank=2)
        keep_model(start(folder / name), folder / f"{name} again")
        if distributed.rank() == 0:
            torch.save([found, adapted], folder / f"{name}.pt")
    lean = outcome(folder / "qwen2", autocast=torch.bfloat16)
    if distributed.rank() == 0:
        torch.save(lean, folder / "lean.pt")


if __name__ == "__main__":
    distributed.start(torch.device("cpu"))
    main(Path(sys.argv[1]))
    distributed.stop()
