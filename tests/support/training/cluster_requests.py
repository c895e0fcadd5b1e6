"""A request to a tiny model's engine, in this process or on a cluster, and what is compared of its trajectories."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from runs import small

from agents.cluster.actor import Recipe
from agents.config.cluster import ClusterConfig
from agents.config.training import TrainConfig
from agents.core.types import EpisodeSpec, Trajectory, seed_of
from agents.engines.base import Sampling, Weights
from agents.rollout.episode import TurnRules
from agents.rollout.source import Player

SAMPLING = Sampling(max_tokens=24)
ASKED = [
    EpisodeSpec(
        group_id=group,
        env_seed=group,
        sampling_seed=seed_of(group, sample),
        options={"problem_index": group, "interaction_budget": 2},
        sample=sample,
    )
    for group in range(12)
    for sample in range(2)
]


def configured(tiny: Path, **cluster: Any) -> TrainConfig:
    config = small(Path("unused"), cluster=ClusterConfig(**cluster))
    return replace(config, model=str(tiny))


def recipe(tiny: Path, **cluster: Any) -> Recipe:
    return Recipe.of(configured(tiny, **cluster), dtype="float32", rules=TurnRules())


def content(trajectories: Sequence[Trajectory]) -> list[Any]:
    return [(t.group_id, t.sample, t.token_ids, t.logprobs, t.policy_versions, t.reward) for t in trajectories]


def play(player: Player, **arguments: Any) -> list[Any]:
    collected = player.collect(ASKED, SAMPLING, **arguments)
    assert collected is not None
    return content(collected.trajectories)


@dataclass
class AtHand:
    """Weights that need not travel."""

    version: int
    tensors: dict[str, torch.Tensor]

    def receive(self) -> Weights:
        return Weights.of(self.tensors)
