"""One update, from trajectories to the targets of PPO."""

from typing import Any

import pytest
import torch
from agents_fakes import trajectory

from agents.config.training import PPOConfig
from agents.core.types import Advantages, Batch, PolicyOutput, Trajectory, Turn
from agents.learning.advantages import dr_grpo
from agents.learning.step import update


class FakePolicy:
    """A policy that agrees with the engine."""

    def evaluate(self, batch: Batch, *_: Any, **__: Any) -> PolicyOutput:
        return PolicyOutput(logprobs=batch.sampling_logprobs, entropy=torch.zeros_like(batch.sampling_logprobs))


class FakePPO:
    """Keeps the targets of its update."""

    def __init__(self, config: PPOConfig) -> None:
        self.config, self.policy, self.estimate = config, FakePolicy(), dr_grpo
        self.targets: Advantages | None = None

    def minibatches(self, size: int, _: torch.Generator) -> list[torch.Tensor]:
        return [torch.arange(size)]

    def update(self, batch: Batch, old: PolicyOutput, targets: Advantages, *_: Any, **__: Any) -> dict[str, float]:
        self.targets = targets
        return {}


def episode(reward: float, left: int) -> Trajectory:
    info = {"interaction_budget": 2, "interactions_left": left}
    return trajectory("P s", reward=reward, turns=(Turn(text="", feedback="", finish_reason="stop", info=info),))


EPISODES = [episode(1.0, 2), episode(1.0, 0), episode(-1.0, 1)]  # right without a call, right with two, wrong


def advantages(**settings: Any) -> list[float]:
    ppo = FakePPO(PPOConfig(**settings))
    update(ppo, EPISODES, [True] * 3, seed=0, step=0)  # type: ignore[arg-type]
    assert ppo.targets is not None
    return ppo.targets.advantages[:, 1].tolist()


def test_without_tool_efficiency_the_calls_make_no_difference() -> None:
    batch = torch.tensor([1.0, 1.0, -1.0]), torch.zeros(3, dtype=torch.long), torch.ones(3, 1, dtype=torch.bool)
    assert advantages() == dr_grpo(*batch).advantages[:, 0].tolist()


def test_tool_efficiency_favours_the_right_answer_with_fewer_calls() -> None:
    few, many, wrong = advantages(tool_efficiency=0.3)
    assert (few, many, wrong) == pytest.approx((2 / 3 + 0.1, 2 / 3 - 0.1, -4 / 3))
