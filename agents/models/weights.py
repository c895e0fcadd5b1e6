"""A model's weights under the names that transformers gives them, however they are held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from agents.core.distributed import whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADAPTER = "default"  # peft's name for a model's first


class Weights(Mapping[str, torch.Tensor]):
    """The state dict of a model without adapters: each tensor is put together when it is asked for.

    Shards are gathered from all processes, which must ask for the same tensors in the same order; low-rank adapters
    are added to what they adapt.

    Args:
        model: It may be sharded and have adapters; its weights are read, not copied, as long as they have neither.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._adapted: dict[str, Any] = {n: m for n, m in model.named_modules() if hasattr(m, "lora_A")}
        state = model.state_dict()
        self._tensors = {name.replace(".base_layer.", "."): t for name, t in state.items() if ".lora_" not in name}

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return one tensor."""
        tensor = whole(self._tensors[name])
        layer = self._adapted.get(name.removesuffix(".weight"))
        if layer is None:
            return tensor
        down, up = (whole(part[_ADAPTER].weight.detach()) for part in (layer.lora_A, layer.lora_B))
        scaling: float = layer.scaling[_ADAPTER]
        return tensor + scaling * (up @ down)

    def __iter__(self) -> Iterator[str]:
        """Go through the names, in the order of the model's own state dict."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Return how many tensors there are."""
        return len(self._tensors)
