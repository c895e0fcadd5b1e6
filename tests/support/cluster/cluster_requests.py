"""A request to an engine, in this process or on a cluster, and what is compared of its trajectories."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cluster_fakes import open_scripted
from runs import small

from agents.cluster.actor import Recipe, open_model
from agents.config.cluster import ClusterConfig
from agents.config.training import TrainConfig
from agents.core.types import EpisodeSpec, Trajectory, seed_of
from agents.engines.base import Sampling
from agents.rollout.episode import TurnRules
from agents.rollout.source import Player

SAMPLING = Sampling(max_tokens=40)
ASKED = [
    EpisodeSpec(
        group_id=group,
        env_seed=group,
        sampling_seed=seed_of(group, sample),
        options={"problem_index": group % 8, "interaction_budget": 2},
        sample=sample,
    )
    for group in range(12)
    for sample in range(2)
]


def configured(**cluster: Any) -> TrainConfig:
    return small(Path("unused"), cluster=ClusterConfig(**cluster))


def recipe(**cluster: Any) -> Recipe:
    """Engines that follow a script."""
    return Recipe.of(configured(**cluster), open_scripted)


def model_recipe(folder: Path, **cluster: Any) -> Recipe:
    """Engines that sample from a model."""
    config = replace(configured(**cluster), model=str(folder))
    return Recipe.of(config, partial(open_model, config, "float32", TurnRules()))


def content(trajectories: Sequence[Trajectory]) -> list[Any]:
    return [(t.group_id, t.sample, t.token_ids, t.logprobs, t.policy_versions, t.reward) for t in trajectories]


def play(player: Player, **arguments: Any) -> list[Any]:
    collected = player.collect(ASKED, SAMPLING, **arguments)
    assert collected is not None
    return content(collected.trajectories)


def at_first(act: Callable[[], object]) -> Callable[[object], None]:
    """Act once, when the first trajectory arrives."""
    waiting = [act]
    return lambda _: waiting.pop()() if waiting else None
