"""Which device computes, and in which dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agents.config.shared import Dtype
from agents.core.errors import ModelError
from agents.models.folders import Log

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is cuda where there is one, else cpu.

    Raises:
        ModelError: There is no such device, or a CUDA device is asked for, and there is none.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"Expect a CUDA device for --device {name}, got none: use --device cpu.")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ModelError(f"Expect `device` to be cpu, cuda or auto, got {name!r}.") from None


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16; others take detours, CPUs 8 times as long as in float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def pick_dtype(name: Dtype, device: torch.device, *, log: Log = print) -> Literal["float32", "bfloat16"]:
    """Return the dtype called `name`, and warn of a slow one; ``auto`` is bfloat16 where it is fast, else float32."""
    fast = has_fast_bfloat16(device)
    if name == "auto":
        return "bfloat16" if fast else "float32"
    if name == "bfloat16" and not fast:
        log(f"Warning: {device} has no bfloat16 arithmetic; float32 would be several times faster.")
    return name
