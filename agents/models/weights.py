"""A model's full weights under transformers' names, also if they are sharded or have adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from agents.core.distributed import whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADAPTER = "default"  # peft's name of the first adapter


class Weights(Mapping[str, torch.Tensor]):
    """A lazy state dict with adapters merged: each tensor is assembled when it is accessed.

    Shards are gathered from all processes, which must access the same tensors in the same order. Low-rank adapters are
    added to the weights they adapt.

    Args:
        model: May be sharded and have adapters. Tensors without either are not copied.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._adapted: dict[str, Any] = {n: m for n, m in model.named_modules() if hasattr(m, "lora_A")}
        state = model.state_dict()
        self._tensors = {name.replace(".base_layer.", "."): t for name, t in state.items() if ".lora_" not in name}

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return the full tensor of a name."""
        tensor = whole(self._tensors[name])
        layer = self._adapted.get(name.removesuffix(".weight"))
        if layer is None:
            return tensor
        down, up = (whole(part[_ADAPTER].weight.detach()) for part in (layer.lora_A, layer.lora_B))
        scaling: float = layer.scaling[_ADAPTER]
        return tensor + scaling * (up @ down)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order of the model's state dict."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self._tensors)
