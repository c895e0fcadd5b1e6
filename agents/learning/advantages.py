"""Advantage estimators, and importance weights for the mismatch between engine and trainer: pure tensor functions.

All of them return tensors of shape ``[B, T]`` that are 0 wherever ``action_mask`` is False: prompt and feedback tokens
enter neither the advantages nor the whitening statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from agents.core.plugins import load_plugin
from agents.core.types import Advantages, Batch, PolicyOutput

if TYPE_CHECKING:
    from agents.config.training import PPOConfig


ROUNDING = 1e-6
"""Rewards whose spread is at most this share of the largest count as equal: they differ by float32's rounding."""


def estimate_advantages(
    batch: Batch, old: PolicyOutput, config: PPOConfig, weights: torch.Tensor, estimate: Estimator | None
) -> Advantages:
    """Return the targets of an update.

    Args:
        batch: ``B`` sequences.
        old: The policy's output before the update, with values for ``gae``.
        config: Discount and importance sampling.
        weights: ``[B, T]``, from :func:`correction`.
        estimate: From :func:`find_estimator`.
    """
    mask = batch.action_mask
    if estimate is None:
        if old.values is None:
            raise ValueError("Expect values for `gae`, got a policy without a value head.")
        targets = gae(batch.rewards, old.values, mask, gamma=config.gamma, lam=config.lam)
    else:
        targets = estimate(batch.rewards, batch.group_ids, mask)
    if config.importance_sampling == "none":
        return targets
    return replace(targets, advantages=targets.advantages * weights)


def correction(batch: Batch, old: PolicyOutput, config: PPOConfig) -> torch.Tensor:
    """Return the importance weights that correct for the mismatch between engine and trainer, ``[B, T]``.

    Without importance sampling these are the unbounded token ratios, which only metrics use.

    Args:
        batch: ``B`` sequences.
        old: The policy's output before the update.
        config: The level of the ratio, and its bound.
    """
    ratio = unbounded_correction(batch, old, config)
    if config.importance_sampling == "none":
        return ratio
    return importance_weights(ratio, bound=config.importance_sampling_bound, cap=config.importance_sampling_cap)


def unbounded_correction(batch: Batch, old: PolicyOutput, config: PPOConfig) -> torch.Tensor:
    """Return the importance ratios before they are bounded, ``[B, T]``; see :func:`correction`."""
    level = "token" if config.importance_sampling == "none" else config.importance_sampling
    return importance_ratio(old.logprobs, batch.sampling_logprobs, batch.action_mask, level=level)


def whiten(values: torch.Tensor, mask: torch.Tensor, *, eps: float = 1e-8) -> torch.Tensor:
    """Return ``values`` with mean 0 and variance 1 over the elements where ``mask`` is True, and 0 elsewhere.

    Values that differ by rounding alone give 0 everywhere.

    Args:
        values: Any shape.
        mask: bool, the same shape.
        eps: Added to the variance.
    """
    # masked mean and variance
    count = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / count
    variance = ((values - mean).square() * mask).sum() / count
    # rounding is no signal
    is_noise = ((values - mean) * mask).abs().max() <= ROUNDING * (values * mask).abs().max()
    # whiten
    return (values - mean) * torch.rsqrt(variance + eps) * (mask & ~is_noise)


def reinforce_plus_plus_baseline(
    rewards: torch.Tensor, group_ids: torch.Tensor, action_mask: torch.Tensor
) -> Advantages:
    """Subtract the group's mean reward, broadcast over the sequence's tokens, and whiten over the whole batch.

    Nothing is divided by the group's standard deviation: easy and hard problems keep their weight. (The paper, section
    4; REINFORCE++ with a group baseline, arXiv 2501.03262.)

    Args:
        rewards: ``[B]``.
        group_ids: ``[B]`` integers; equal numbers form a group.
        action_mask: ``[B, T]`` bool.

    >>> mask = torch.ones(2, 3, dtype=torch.bool)
    >>> result = reinforce_plus_plus_baseline(torch.tensor([1.0, -1.0]), torch.tensor([7, 7]), mask)
    >>> result.advantages.tolist()
    [[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]
    """
    centred, _ = _centred(rewards, group_ids)
    return _broadcast(centred, rewards, action_mask, whitened=True)


def reinforce_plus_plus(rewards: torch.Tensor, group_ids: torch.Tensor, action_mask: torch.Tensor) -> Advantages:
    """Whiten the rewards over the whole batch's tokens, without a group baseline (arXiv 2501.03262).

    Args: As for :func:`reinforce_plus_plus_baseline`; ``group_ids`` is not used.
    """
    return _broadcast(rewards, rewards, action_mask, whitened=True)


def grpo(rewards: torch.Tensor, group_ids: torch.Tensor, action_mask: torch.Tensor) -> Advantages:
    """Subtract the group's mean and divide by its standard deviation (arXiv 2402.03300, section 4.1.2).

    Args: As for :func:`reinforce_plus_plus_baseline`.

    >>> mask = torch.ones(3, 1, dtype=torch.bool)
    >>> result = grpo(torch.tensor([3.0, -3.0, 5.0]), torch.tensor([0, 0, 1]), mask)
    >>> [round(a, 3) for a in result.advantages[:, 0].tolist()]
    [0.707, -0.707, 0.0]
    """
    centred, count = _centred(rewards, group_ids)
    squares, _ = _of_group(centred.square(), group_ids)
    deviation = (squares * count / (count - 1).clamp(min=1)).sqrt()
    return _broadcast(centred / (deviation + 1e-4), rewards, action_mask)


def dr_grpo(rewards: torch.Tensor, group_ids: torch.Tensor, action_mask: torch.Tensor) -> Advantages:
    """Subtract the group's mean only: dividing by the deviation favours problems of low spread (arXiv 2503.20783).

    Args: As for :func:`reinforce_plus_plus_baseline`.
    """
    centred, _ = _centred(rewards, group_ids)
    return _broadcast(centred, rewards, action_mask)


def rloo(rewards: torch.Tensor, group_ids: torch.Tensor, action_mask: torch.Tensor) -> Advantages:
    """Subtract the mean of the group's other episodes (arXiv 2402.14740, eq. 8); 0 for a group of one.

    Args: As for :func:`reinforce_plus_plus_baseline`.

    >>> mask = torch.ones(3, 1, dtype=torch.bool)
    >>> rloo(torch.tensor([5.0, -1.0, -1.0]), torch.tensor([0, 0, 0]), mask).advantages[:, 0].tolist()
    [6.0, -3.0, -3.0]
    """
    centred, count = _centred(rewards, group_ids)
    return _broadcast(centred * count / (count - 1).clamp(min=1), rewards, action_mask)


def _centred(rewards: torch.Tensor, group_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rewards minus the mean of their group, 0 throughout a group without a spread, and the group's size."""
    mean, count = _of_group(rewards, group_ids)
    centred = rewards - mean
    _, group = torch.unique(group_ids, return_inverse=True)

    def largest(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(values).scatter_reduce_(0, group, values.abs(), "amax")[group]

    return torch.where(largest(centred) <= ROUNDING * largest(rewards), 0.0, centred), count


def _of_group(values: torch.Tensor, group_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each of ``values [B]`` the mean and the size of its group."""
    _, group = torch.unique(group_ids, return_inverse=True)
    sums = torch.zeros(int(group.max()) + 1, device=values.device).index_add_(0, group, values)
    counts = torch.zeros_like(sums).index_add_(0, group, torch.ones_like(values))
    return (sums / counts)[group], counts[group]


def _broadcast(
    values: torch.Tensor, rewards: torch.Tensor, action_mask: torch.Tensor, *, whitened: bool = False
) -> Advantages:
    """Assign each sequence's value to all of its action tokens."""
    tokens = values[:, None] * action_mask
    return Advantages(
        advantages=whiten(values[:, None].expand(action_mask.shape), action_mask) if whitened else tokens,
        returns=rewards[:, None] * action_mask,
    )


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    action_mask: torch.Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    whitened: bool = True,
) -> Advantages:
    """Generalised advantage estimation over the sampled tokens (arXiv 1506.02438), with the reward at the last one.

    Time steps are sampled tokens: the last token before a feedback is followed by the first one after it.

    Args:
        rewards: ``[B]``, given at each sequence's last sampled token.
        values: ``[B, T]``: value of the state in which token t was drawn.
        action_mask: ``[B, T]`` bool.
        gamma: Discount in (0, 1].
        lam: Trace decay in [0, 1].
        whitened: Whiten the advantages over the batch's sampled tokens; returns are never whitened.
    """
    advantages = torch.zeros_like(values)
    next_advantage = torch.zeros_like(rewards)
    next_value = torch.zeros_like(rewards)
    reward_ahead = rewards.clone()
    for t in reversed(range(values.shape[1])):
        acts = action_mask[:, t]
        # recursion: delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1}
        delta = reward_ahead + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        advantages[:, t] = torch.where(acts, advantage, 0.0)
        # prompt, feedback and padding take no time step
        next_advantage = torch.where(acts, advantage, next_advantage)
        next_value = torch.where(acts, values[:, t], next_value)
        reward_ahead = torch.where(acts, 0.0, reward_ahead)
    # returns
    returns = (advantages + values) * action_mask
    return Advantages(
        advantages=whiten(advantages, action_mask) if whitened else advantages,
        returns=returns,
    )


Estimator = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Advantages]
"""Rewards ``[B]``, group ids ``[B]``, action mask ``[B, T]`` to advantages and returns ``[B, T]``, 0 off the mask."""
ESTIMATORS: Mapping[str, Estimator] = {
    "reinforce_plus_plus_baseline": reinforce_plus_plus_baseline,
    "reinforce_plus_plus": reinforce_plus_plus,
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
}
"""Estimators that need no values, by name; ``--ppo.advantage module:function`` takes any other :data:`Estimator`."""


def find_estimator(name: str) -> Estimator | None:
    """Return one of :data:`ESTIMATORS`, or a user's own; None for ``gae``, which needs values.

    Raises:
        ConfigError: A user's own cannot be imported.
    """
    return None if name == "gae" else ESTIMATORS.get(name) or load_plugin("ppo.advantage", name, "advantages")


EFFICIENCY_CLIP = 0.5
"""Largest share of an advantage that :func:`favour_few_calls` adds or takes away; below 1, so that no sign turns."""


def favour_few_calls(
    advantages: torch.Tensor, calls: torch.Tensor, correct: torch.Tensor, group_ids: torch.Tensor, *, weight: float
) -> torch.Tensor:
    r"""Raise the advantages of a group's right answers with few calls and lower those with many; easy problems most.

    After AdaTIR (arXiv 2601.14696): a call costs a right answer ``sin(pi / 2 * calls)``, wrong answers are never
    touched, the difficulty of a problem is its share of wrong answers, and the shaped part is clipped, so that it
    cannot turn a right answer's advantage into a penalty. Of the paper's formulas only the cost and the difficulty were
    at hand. Where the paper has a threshold of difficulty, the group's accuracy is a factor here; the cost is centred
    on the group's right answers, so that equal calls change nothing; and the clip is :data:`EFFICIENCY_CLIP` of the
    advantage. So a group without a wrong answer, whose advantages are about 0, adds next to nothing.

    Args:
        advantages: ``[B, T]``.
        calls: ``[B]``: executed blocks over the interaction budget, in [0, 1].
        correct: ``[B]`` bool.
        group_ids: ``[B]`` integers; equal numbers form a group.
        weight: Scale of the shaped part, in units of the advantages.

    >>> two_right_one_wrong = torch.tensor([[0.5], [0.5], [-1.0]])
    >>> calls, correct = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([True, True, False])
    >>> favour_few_calls(two_right_one_wrong, calls, correct, torch.zeros(3, dtype=torch.long), weight=0.3)[:, 0]
    tensor([ 0.6000,  0.4000, -1.0000])
    """
    # difficulty: the group's accuracy
    accuracy, _ = _of_group(correct.float(), group_ids)
    # cost of the calls, of right answers only
    cost = torch.sin(torch.pi / 2 * calls) * correct
    # accuracy x (mean cost of the group's right answers - cost)
    shaped = (_of_group(cost, group_ids)[0] - accuracy * cost) * correct
    shaped = torch.where(shaped.abs() <= ROUNDING, 0.0, weight * shaped)
    # clip
    bound = EFFICIENCY_CLIP * advantages.abs()
    return advantages + shaped[:, None].expand_as(advantages).clamp(-bound, bound)


def importance_ratio(
    logprobs: torch.Tensor,
    sampling_logprobs: torch.Tensor,
    action_mask: torch.Tensor,
    *,
    level: Literal["token", "sequence", "geometric"],
) -> torch.Tensor:
    """Return the ratio of trainer to engine probability of what was sampled; 1 where they agree, 0 outside the mask.

    The engine's precision and order of operations differ from the trainer's, and its weights may be older. ``token``:
    each token's ratio. ``sequence``: the product over the sequence's sampled tokens, unbiased and of high variance.
    ``geometric``: the sequence's geometric mean (GSPO, arXiv 2507.18071, eq. 7).

    Args:
        logprobs: ``[B, T]``, the trainer's before the update.
        sampling_logprobs: ``[B, T]``, the engine's.
        action_mask: ``[B, T]`` bool.
        level: Level of the ratio.

    >>> trainer, mask = torch.tensor([[9.0, 4.0, 1.0]]).log(), torch.tensor([[False, True, True]])
    >>> importance_ratio(trainer, torch.zeros(1, 3), mask, level="token").tolist()
    [[0.0, 4.0, 1.0]]
    >>> importance_ratio(trainer, torch.zeros(1, 3), mask, level="geometric").tolist()
    [[0.0, 2.0, 2.0]]
    """
    log_ratio = torch.where(action_mask, logprobs - sampling_logprobs, 0.0)
    if level != "token":
        total = log_ratio.sum(1, keepdim=True)
        count = action_mask.sum(1, keepdim=True).clamp(min=1) if level == "geometric" else 1
        log_ratio = (total / count).expand_as(log_ratio)
    return torch.where(action_mask, log_ratio.exp(), 0.0)  # inf * 0 would be nan


def importance_weights(ratio: torch.Tensor, *, bound: Literal["truncate", "mask"], cap: float) -> torch.Tensor:
    """Bound importance ratios, so that few tokens cannot dominate; the result multiplies the advantages.

    Since the policy loss is proportional to the advantage, this weights the tokens' losses.

    Args:
        ratio: ``[B, T]``, from :func:`importance_ratio`.
        bound: ``truncate`` limits the ratio to ``cap`` (TIS); ``mask`` drops tokens whose ratio is outside
            ``[1 / cap, cap]``: those on which trainer and engine disagree most.
        cap: At least 1.

    >>> importance_weights(torch.tensor([0.25, 1.0, 3.0]), bound="truncate", cap=2.0).tolist()
    [0.25, 1.0, 2.0]
    >>> importance_weights(torch.tensor([0.25, 1.0, 3.0]), bound="mask", cap=2.0).tolist()
    [0.0, 1.0, 0.0]
    """
    if bound == "truncate":
        return ratio.clamp(max=cap)
    return torch.where((ratio <= cap) & (ratio >= 1 / cap), ratio, 0.0)
