"""How much of a GPU an engine may take beside what else works there."""

from __future__ import annotations

import torch

from agents.core.errors import EngineError

MOST = 0.9
"""The largest share."""
_ROUNDING = 2 * 2**30  # bytes for what nobody counts: CUDA graphs, buffers of NCCL, fragments


def memory_share(free: int, total: int, *, reserved: int) -> float:
    """Return the share of a GPU's memory that an engine may take for weights and cache.

    Args:
        free: Bytes that are free now.
        total: Bytes that the GPU has.
        reserved: Bytes that others will take while the engine is awake.

    Raises:
        EngineError: Nothing is left.

    >>> gib = 2**30
    >>> memory_share(70 * gib, 80 * gib, reserved=8 * gib), memory_share(80 * gib, 80 * gib, reserved=0)
    (0.75, 0.9)
    """
    share = (free - reserved - _ROUNDING) / total
    if share <= 0:
        raise EngineError(
            f"Expect a GPU with room for an engine, got {free / 2**30:.1f} GiB free, of which training will take "
            f"{reserved / 2**30:.1f}: shard the model among more GPUs, or serve the engine from another one."
        )
    return min(MOST, share)


def free_share(device: torch.device, *, reserved: int) -> float:
    """Return :func:`memory_share` of a device now; without a GPU, where no engine asks, the largest."""
    if device.type != "cuda":
        return MOST
    torch.cuda.empty_cache()  # what a model's loading left over
    return memory_share(*torch.cuda.mem_get_info(device), reserved=reserved)
