"""Supervised fine-tuning: the likelihood of what transcripts say where the policy speaks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from agents.core.distributed import add_up_metrics, size, whole
from agents.core.types import upload
from agents.learning.batching import deal, micro_batches
from agents.learning.losses import token_mean
from agents.learning.optimizer import make_optimizer, set_learning_rates
from agents.learning.ppo import learning_rate_schedule

if TYPE_CHECKING:
    from agents.config.training import OptimizerConfig
    from agents.core.types import Batch
    from agents.learning.policy import Policy


class Supervised:
    """Updates a policy towards transcripts.

    The loss is the mean negative log-probability of the action tokens, in nats.

    Args:
        policy: The policy to train.
        config: Learning rate, clipping and the size of micro-batches.
        max_steps: Optimizer steps of the whole run, for a schedule of the learning rate.
    """

    def __init__(self, policy: Policy, config: OptimizerConfig, *, max_steps: int) -> None:
        self.policy = policy
        self.config = config
        self._schedule = learning_rate_schedule(config, max_steps)
        parameters = [parameter for group in policy.parameter_groups() for parameter in group]
        self.optimizer = make_optimizer(config, [parameters], [config.learning_rate])

    def update(self, batch: Batch, *, step: int) -> dict[str, float]:
        """Take one optimizer step, unless loss or gradient are not finite.

        Args:
            batch: ``B`` sequences, each with an action token.
            step: Number of the step, from 0, on which a schedule of the learning rate depends.

        Returns:
            The loss before the step, the gradient's norm before it was clipped, the learning rate, the number of action
            tokens, and ``num_updates``: 0 if the step was skipped, else 1.
        """
        # forward and backward
        self.optimizer.zero_grad(set_to_none=True)
        self.policy.train()
        weights, losses = token_mean(batch.action_mask), []
        for index, counts in deal(micro_batches(batch, self.config.micro_batch_tokens)):
            rows = batch.rows(index).trimmed()
            weight = upload(weights[index, : rows.token_ids.shape[1]], self.policy.device)
            part = -(weight * self.policy(rows).logprobs).sum()
            (part * (size() * counts)).backward()  # FSDP2 takes the mean over processes
            losses.append({"loss": part.detach() * counts})
        loss = add_up_metrics(losses)["loss"]
        # learning rate
        rate = self.config.learning_rate * self._schedule(step)
        set_learning_rates(self.optimizer, [rate])
        # clip
        parameters = self.optimizer.param_groups[0]["params"]
        norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)))
        # optimizer step
        is_finite = math.isfinite(loss) and math.isfinite(norm)
        if is_finite:
            self.optimizer.step()
        return {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate,
            "tokens": float(batch.action_mask.sum()),
            "num_updates": float(is_finite),
        }

    def evaluate(self, batch: Batch) -> float:
        """Return the loss on a batch, without changing a weight."""
        output = self.policy.evaluate(batch, self.config.micro_batch_tokens)
        return -float(output.logprobs[batch.action_mask].mean())
