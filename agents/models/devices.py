"""Choice of device and dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agents.config.shared import Dtype
from agents.core.errors import ModelError
from agents.models.folders import Log

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` is cuda if available, else cpu.

    Raises:
        ModelError: Unknown device, or a CUDA device where there is none.
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
    """Return whether a device has native bfloat16 arithmetic; emulation on a CPU is 8 times slower than float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def pick_dtype(name: Dtype, device: torch.device, *, log: Log = print) -> Literal["float32", "bfloat16"]:
    """Return the dtype called `name`; ``auto`` is bfloat16 if it is fast, else float32. Warns about slow bfloat16."""
    fast = has_fast_bfloat16(device)
    if name == "auto":
        return "bfloat16" if fast else "float32"
    if name == "bfloat16" and not fast:
        log(f"Warning: {device} has no bfloat16 arithmetic; float32 would be several times faster.")
    return name
