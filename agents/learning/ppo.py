"""PPO's update: epochs x minibatches x micro-batches.

The loss is the clipped policy loss, plus value loss, KL penalty and entropy bonus where configured.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from transformers import get_scheduler

from agents.core.distributed import add_up, add_up_metrics, size, whole
from agents.core.types import Advantages, Batch, Loss, PolicyOutput, upload
from agents.learning.advantages import find_estimator
from agents.learning.batching import deal, micro_batches
from agents.learning.losses import entropy_loss, find_aggregation, kl_loss, policy_loss, value_loss
from agents.learning.optimizer import make_optimizer, set_learning_rates

if TYPE_CHECKING:
    from agents.config.training import OptimizerConfig, PPOConfig
    from agents.learning.policy import Policy


Part = tuple[Batch, PolicyOutput, Advantages]
"""A minibatch: its sequences, the policy's output before the update, and the targets."""


def is_finite(metrics: Mapping[str, float], _: Part) -> bool:
    """Return whether all of a minibatch's metrics, gradient norm included, are finite."""
    return all(map(math.isfinite, metrics.values()))


def learning_rate_schedule(config: OptimizerConfig, max_steps: int) -> Callable[[int], float]:
    """Return a function from the number of an optimizer step in a run, from 0, to the factor of the learning rate.

    As in transformers, the first factor of a warm-up is 0. A factor depends on nothing but its number, so that a
    resumed run continues exactly; skipped optimizer steps count.

    >>> from agents.config.training import PPOConfig
    >>> config = PPOConfig(lr_scheduler_type="linear", warmup_steps=2, num_minibatches=1)
    >>> [learning_rate_schedule(config, 6)(step) for step in range(6)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """
    rises = config.lr_scheduler_type == "constant" and config.warmup_steps > 0
    scheduler = get_scheduler(
        "constant_with_warmup" if rises else config.lr_scheduler_type,
        torch.optim.SGD([torch.zeros(())]),
        num_warmup_steps=config.warmup_steps * config.num_updates,
        num_training_steps=max_steps * config.num_updates,
    )
    factor: Callable[[int], float] = scheduler.lr_lambdas[0]
    return factor


class PPO:
    """Updates a policy by PPO.

    Args:
        policy: The policy to train.
        config: Learning rate, clipping and batch sizes.
        max_completion_length: Maximum tokens of a completion; an aggregation may use it.
        max_steps: Updates of the whole run, for a schedule of the learning rate.
    """

    def __init__(
        self, policy: Policy, config: PPOConfig, *, max_completion_length: int = 1, max_steps: int = 1
    ) -> None:
        self.policy = policy
        self.config = config
        self._max_completion_length = max_completion_length
        self.estimate = find_estimator(config.advantage)
        self._weigh = find_aggregation(config.aggregation)
        self._schedule = learning_rate_schedule(config, max_steps)
        self._rates = config.learning_rate, config.critic_learning_rate
        self.optimizer = make_optimizer(config, policy.parameter_groups(), self._rates)

    def update(
        self,
        batch: Batch,
        old: PolicyOutput,
        targets: Advantages,
        minibatches: Sequence[torch.Tensor],
        *,
        fill_in: bool = False,
        step: int = 0,
        guard: Callable[[Mapping[str, float], Part], bool] = is_finite,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, float] | None:
        """Take one optimizer step per minibatch.

        Args:
            batch: ``B`` sequences.
            old: The policy's output before the update.
            targets: Advantages and returns; reference log-probabilities for a KL penalty.
            minibatches: From :meth:`minibatches`.
            fill_in: The first minibatch's log-probabilities are not in ``old`` yet: its own forward pass, before any
                step, has them, and writes them there.
            step: Number of the update, from 0, on which a schedule of the learning rate depends.
            guard: Called before each optimizer step with the minibatch's metrics (means over sampled tokens, and the
                gradient norm); returns whether to take the step. If not, parameters and optimizer state are unchanged.
            should_stop: Called after each backward pass; once it returns True, the update ends, and the gradients of
                the minibatch in progress are dropped.

        Returns:
            Means over the sampled tokens of all minibatches whose step was taken, the mean gradient norm, and
            ``num_updates``, the number of steps taken; only the latter if it is 0. None if the update was stopped.
        """
        totals: dict[str, float] = defaultdict(float)
        norms = []
        for number, index in enumerate(minibatches):
            # forward and backward
            part = batch.rows(index), old.rows(index), targets.rows(index)
            is_filled_in = fill_in and number == 0
            summed = self.accumulate(*part, fill_in=is_filled_in, should_stop=should_stop)
            if summed is None:
                return None
            count, metrics = summed
            if is_filled_in:
                old.logprobs[index] = part[1].logprobs
            # learning rate
            factor = self._schedule(step * self.config.num_updates + number)
            set_learning_rates(self.optimizer, [rate * factor for rate in self._rates])
            # clip
            norm = self._clip()
            # optimizer step, unless the guard rejects it
            if guard({name: value / count for name, value in metrics.items()} | {"grad_norm": norm}, part):
                self.optimizer.step()
                norms.append(norm)
                totals["tokens"] += count
                for name, value in metrics.items():
                    totals[name] += value
            self.optimizer.zero_grad(set_to_none=True)  # their memory is the engine's while it samples
        if not norms:
            return {"num_updates": 0.0}
        tokens = totals.pop("tokens")
        means = {name: value / tokens for name, value in totals.items()}
        return means | {
            "grad_norm": sum(norms) / len(norms),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "num_updates": float(len(norms)),
        }

    def accumulate(
        self,
        batch: Batch,
        old: PolicyOutput,
        targets: Advantages,
        *,
        fill_in: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> tuple[int, dict[str, float]] | None:
        """Set the parameters' gradients to those of the minibatch's loss.

        Args: As for :meth:`update`; with ``fill_in``, the minibatch's log-probabilities are written to ``old``.

        Returns:
            The number of sampled tokens, and metrics summed over them; None if the update was stopped.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.policy.train()
        tokens = int(batch.action_mask.sum())
        weights = self._weigh(batch.action_mask, self._max_completion_length)
        metrics, device = [], self.policy.device
        own = torch.zeros_like(old.logprobs, device=device)
        for index, counts in deal(micro_batches(batch, self.config.micro_batch_tokens)):
            rows = batch.rows(index).trimmed()
            length = rows.token_ids.shape[1]
            output = self.policy(rows)
            before = old.rows(index).columns(length).to(device)
            aims = targets.rows(index).columns(length).to(device)
            if fill_in:
                before = replace(before, logprobs=output.logprobs.detach())
                if counts:
                    own[upload(index, device), :length] = before.logprobs.to(own)
            masks = upload(rows.action_mask, device), upload(weights[index, :length], device)
            loss = self._loss(output, before, aims, *masks)
            (loss.total * (size() * counts)).backward()  # FSDP2 takes the mean over processes
            metrics.append({name: value * counts for name, value in loss.metrics.items()})
            if should_stop():
                return None
        if fill_in:
            old.logprobs.copy_(add_up(own))
        return tokens, add_up_metrics(metrics)

    def _loss(
        self, output: PolicyOutput, old: PolicyOutput, targets: Advantages, mask: torch.Tensor, weights: torch.Tensor
    ) -> Loss:
        config = self.config
        # policy
        losses = [
            policy_loss(
                output.logprobs,
                old.logprobs,
                targets.advantages,
                mask,
                weights,
                epsilon=config.epsilon,
                epsilon_high=config.epsilon_high,
                dual_clip=config.dual_clip,
                ratio=config.ratio,
            )
        ]
        # value
        if output.values is not None:
            losses.append(
                value_loss(output.values, targets.returns, mask, weights, coefficient=config.value_coefficient)
            )
        # KL penalty
        if targets.reference_logprobs is not None:
            losses.append(
                kl_loss(
                    output.logprobs,
                    targets.reference_logprobs,
                    mask,
                    weights,
                    estimator=config.kl_estimator,
                    coefficient=config.kl_coefficient,
                )
            )
        # entropy bonus
        if config.entropy_coefficient:
            losses.append(entropy_loss(output.entropy, weights, coefficient=config.entropy_coefficient))
        metrics = {"entropy": output.entropy.detach().sum()}
        for loss in losses:
            metrics |= loss.metrics
        return Loss(total=torch.stack([loss.total for loss in losses]).sum(), metrics=metrics)

    def minibatches(self, size: int, generator: torch.Generator) -> list[torch.Tensor]:
        """Draw the rows of each minibatch of ``num_epochs`` passes over ``size`` rows."""
        orders = [torch.randperm(size, generator=generator) for _ in range(self.config.num_epochs)]
        count = min(size, self.config.num_minibatches)
        return [part for order in orders for part in order.tensor_split(count)]  # sizes differ by at most 1

    def _clip(self) -> float:
        """Clip each parameter group's gradient; return the policy's norm, or the first that is not finite."""
        clipped = [
            whole(torch.nn.utils.clip_grad_norm_(group["params"], self.config.max_grad_norm))
            for group in self.optimizer.param_groups
        ]
        norms: list[float] = torch.stack(clipped).tolist()
        return next((norm for norm in norms if not math.isfinite(norm)), norms[0])
