"""The optimizer: AdamW, with its state in float32 or in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch.optim import Optimizer

from agents.core.errors import ConfigError

if TYPE_CHECKING:
    from agents.config.training import OptimizerConfig

STATE_BYTES: Mapping[str, int] = {"adamw": 8, "adamw-8bit": 2}
"""Bytes of an optimizer's state for each parameter."""
MISSING = 'Expect the library torchao for the optimizer adamw-8bit: pip install -e ".[torchao]".'


def check_optimizer(config: OptimizerConfig) -> None:
    """Check that the optimizer can be made.

    Raises:
        ConfigError: Its library is missing.
    """
    if config.optimizer == "adamw-8bit" and find_spec("torchao") is None:
        raise ConfigError(MISSING)


def make_optimizer(
    config: OptimizerConfig, groups: Sequence[Sequence[torch.nn.Parameter]], rates: Sequence[float]
) -> Optimizer:
    """Return the optimizer of a policy's parameters.

    Args:
        config: Which optimizer, and its numbers.
        groups: The policy's parameters, and those of a separate critic, if there is one.
        rates: Learning rate of each group; there may be more rates than groups.

    Raises:
        ConfigError: Its library is missing.
    """
    parts = [{"params": group, "lr": lr} for group, lr in zip(groups, rates, strict=False)]
    betas = config.adam_beta1, config.adam_beta2
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parts, betas=betas, weight_decay=config.weight_decay, fused=True)
    check_optimizer(config)
    from torchao.optim import AdamW8bit

    eight_bit: Optimizer = AdamW8bit(parts, betas=betas, weight_decay=config.weight_decay)
    return eight_bit


def set_learning_rates(optimizer: Optimizer, rates: Sequence[float]) -> None:
    """Set the learning rate of each parameter group, as a number or, where the optimizer has tensors, in place."""
    for group, rate in zip(optimizer.param_groups, rates, strict=False):
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def state_of(optimizer: Optimizer, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the optimizer's state of a parameter; before its first step, zeros that the optimizer does not hold."""
    if optimizer.state.get(parameter):
        return dict(optimizer.state[parameter])
    if isinstance(optimizer, torch.optim.AdamW):
        zeros = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        return zeros | {"step": torch.zeros((), device=parameter.device)}
    signs = {"exp_avg": True, "exp_avg_sq": False}
    buffers = {key: optimizer._new_buffer(parameter, signed) for key, signed in signs.items()}  # type: ignore[attr-defined]
    return buffers | {"step": torch.zeros(())}
