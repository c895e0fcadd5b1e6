"""Updates of a tiny policy, by as many processes as torchrun starts; the first one writes what came of them.

torchrun --nproc-per-node 2 tests/distributed_update.py FOLDER
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from agents_fakes import random_batch, tiny_qwen2

from agents import distributed
from agents.advantages import estimate_advantages
from agents.config import LoraConfig, PPOConfig
from agents.distributed import whole
from agents.lora import add_adapters
from agents.policy import Policy
from agents.ppo import PPO
from agents.weights import Weights

V = 40


CASES: dict[str, dict[str, Any]] = {
    "all weights": {},
    "a critic of its own": {"advantage": "gae", "critic": "separate"},
    "adapters": {"lora": 4},
    "fewer rows than processes": {"rows": 1, "advantage": "reinforce_plus_plus_baseline"},
}


def update(settings: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return weights and log-probabilities after two updates, and the figures of the second."""
    lora, rows = settings.get("lora", 0), settings.get("rows", 7)
    changes = {k: v for k, v in settings.items() if k not in ("lora", "rows")}
    model = tiny_qwen2(V).double()
    if lora:
        torch.manual_seed(0)
        add_adapters(model, LoraConfig(rank=lora))
    config = PPOConfig(**({"learning_rate": 1e-2, "micro_batch_tokens": 60} | changes))
    critic = tiny_qwen2(V, seed=1).double() if config.critic == "separate" else None
    policy = Policy(model, value_head=config.advantage == "gae", critic=critic).double()
    distributed.shard(policy)
    agent = PPO(policy, config)
    batch = random_batch(V, rows=rows)
    figures: dict[str, float] = {}
    for _ in range(2):
        old = policy.evaluate(batch, config.micro_batch_tokens)
        noise = 0.2 * torch.randn(old.logprobs.shape, generator=torch.Generator().manual_seed(2)) * batch.action_mask
        old = replace(old, logprobs=old.logprobs + noise)
        aims = estimate_advantages(batch, old, config)
        figures = agent.update(batch, old, aims, generator=torch.Generator().manual_seed(3))
    tensors = {name: tensor.clone() for name, tensor in Weights(policy.model).items()}
    tensors |= {name: whole(p.detach()) for name, p in policy.named_parameters() if not name.startswith("model.")}
    return tensors | {"logprobs": old.logprobs}, figures


def main(folder: Path) -> None:
    """Run all cases."""
    outcomes = {name: update(settings) for name, settings in CASES.items()}
    if distributed.rank() == 0:
        torch.save(outcomes, folder / "outcomes.pt")


if __name__ == "__main__":
    distributed.start(torch.device("cpu"))
    main(Path(sys.argv[1]))
    distributed.stop()
