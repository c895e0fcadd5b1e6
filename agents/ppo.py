"""PPO's update: epochs x minibatches x micro-batches, without a KL term and without an entropy bonus."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from agents.batching import micro_batches
from agents.errors import AgentsError
from agents.losses import policy_loss, value_loss
from agents.types import Advantages, Batch, Loss, PolicyOutput

if TYPE_CHECKING:
    from agents.config import PPOConfig
    from agents.policy import Policy


class NonFiniteError(AgentsError, FloatingPointError):
    """The gradient is not a number: the step was not taken."""


class PPO:
    """The optimiser of a policy.

    Args:
        policy: The policy to train.
        config: Learning rate, clipping and batch sizes.
    """

    def __init__(self, policy: Policy, config: PPOConfig) -> None:
        self.policy = policy
        self.config = config
        self.optimizer = torch.optim.AdamW(
            policy.parameters(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.weight_decay,
        )

    def update(
        self,
        batch: Batch,
        old: PolicyOutput,
        targets: Advantages,
        *,
        generator: torch.Generator,
        on_minibatch: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Take ``num_epochs`` passes over the batch, one optimiser step for each minibatch.

        Args:
            batch: ``B`` sequences.
            old: The policy's output before the update.
            targets: Advantages and returns.
            generator: Draws the minibatches.
            on_minibatch: Called after each optimiser step.

        Returns:
            Means over the sampled tokens of all minibatches.

        Raises:
            NonFiniteError: A gradient is infinite or not a number; parameters are as after the last good minibatch.
        """
        totals: dict[str, float] = defaultdict(float)
        norms = []
        for index in self._minibatches(len(batch), generator):
            count, metrics = self.accumulate(batch.rows(index), old.rows(index), targets.rows(index))
            norms.append(self._step())
            totals["tokens"] += count
            for name, value in metrics.items():
                totals[name] += value
            on_minibatch()
        tokens = totals.pop("tokens")
        means = {name: value / tokens for name, value in totals.items()}
        return means | {"grad_norm": sum(norms) / len(norms), "num_updates": float(len(norms))}

    def accumulate(self, batch: Batch, old: PolicyOutput, targets: Advantages) -> tuple[int, dict[str, float]]:
        """Set the parameters' gradients to those of the mean loss over the minibatch's sampled tokens.

        Returns:
            The number of sampled tokens, and metrics summed over them.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.policy.train()
        tokens = int(batch.action_mask.sum())
        totals: dict[str, float] = defaultdict(float)
        for index in micro_batches(batch, self.config.micro_batch_size):
            rows = batch.rows(index).trimmed().to(self.policy.device)
            length = rows.token_ids.shape[1]
            loss = self._loss(rows, old.rows(index).columns(length), targets.rows(index).columns(length))
            (loss.total / max(1, tokens)).backward()
            for name, value in loss.metrics.items():
                totals[name] += value
        return tokens, totals

    def _loss(self, batch: Batch, old: PolicyOutput, targets: Advantages) -> Loss:
        config = self.config
        old, targets = old.to(self.policy.device), targets.to(self.policy.device)
        output = self.policy(batch)
        loss = policy_loss(
            output.logprobs,
            old.logprobs,
            targets.advantages,
            batch.action_mask,
            epsilon=config.epsilon,
            epsilon_high=config.epsilon_high,
            dual_clip=config.dual_clip,
        )
        metrics = {**loss.metrics, "entropy": float(output.entropy.sum())}
        if output.values is None:
            return Loss(total=loss.total, metrics=metrics)
        value = value_loss(output.values, targets.returns, batch.action_mask, coefficient=config.value_coefficient)
        return Loss(total=loss.total + value.total, metrics={**metrics, **value.metrics})

    def _minibatches(self, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        for _ in range(self.config.num_epochs):
            order = torch.randperm(size, generator=generator)
            yield from order.chunk(self.config.num_minibatches)

    def _step(self) -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm))
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError(
                f"Expect a finite gradient norm, got {norm}: lower the learning rate; the step was not taken."
            )
        self.optimizer.step()
        return norm
