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
    """Return whether matrix products take less time in bfloat16 than in float32.

    On a CPU without such instructions they take 8 times as long, and on one of Intel's with AVX512-BF16 but without AMX
    1.6 times.
    """
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    names = ["amx_bf16", "bf16"] if str(found.get("cpu_name")).startswith("Intel") else ["avx512_bf16", "bf16"]
    return device.type == "cpu" and any(found.get(name) for name in names)


def pick_dtype(name: Dtype, device: torch.device, *, log: Log = print) -> Literal["float32", "bfloat16"]:
    """Return the dtype called `name`; ``auto`` is bfloat16 if it is fast, else float32. Warns about slow bfloat16."""
    fast = has_fast_bfloat16(device)
    if name == "auto":
        return "bfloat16" if fast else "float32"
    if name == "bfloat16" and not fast:
        log(f"Warning: {device} has no fast bfloat16 arithmetic; float32 would take less time.")
    return name
