"""Linear layers of an engine on a CPU, with weights in the order in which oneDNN reads them."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from agents.engines.threads import all_threads

_ROWS = 64  # for which the order is chosen


class PackedLinear(nn.Linear):
    """Computes ``x W^T + b`` from a packed weight, and keeps the weight itself only where it is another module's, too.

    For 16 to 64 rows that takes 0.6 to 0.8 of the time of `torch.nn.Linear`. The bits of a row may depend on how many
    other rows there are: in float32 for an odd row, in bfloat16 with AMX for up to 32. The operators are those of
    TorchInductor's frozen graphs.
    """

    def pack(self, weight: torch.Tensor) -> None:
        """Compute with another weight ``[out_features, in_features]`` from now on."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(self.weight.dtype), _ROWS)

    @all_threads
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``[..., out_features]`` for ``x`` of ``[..., in_features]``, without gradients."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return product


def pack(model: nn.Module) -> dict[str, PackedLinear]:
    """Give a model on a CPU these layers in place of its own, in the dtypes that oneDNN computes in.

    Returns:
        All such layers, by the names of their weights; none where PyTorch was built without oneDNN. A weight that a
        layer does not keep is on the meta device.
    """
    if not torch.backends.mkldnn.is_available():
        return {}
    dtypes = {torch.float32}
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.add(torch.bfloat16)
    holders = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    packed = {}
    for name, layer in model.named_modules():
        if type(layer) is nn.Linear and layer.weight.device.type == "cpu" and layer.weight.dtype in dtypes:
            layer.__class__ = PackedLinear
        if isinstance(layer, PackedLinear):
            packed[f"{name}.weight"] = layer
            if not layer.weight.is_meta:
                layer.pack(layer.weight)
                if holders[id(layer.weight)] == 1:
                    layer.weight = nn.Parameter(layer.weight.to("meta"), requires_grad=False)
    return packed


def packs_all(model: nn.Module) -> bool:
    """Return whether all matrices of a model are in such layers, or are embeddings."""
    known = {id(layer.weight) for layer in model.modules() if isinstance(layer, (PackedLinear, nn.Embedding))}
    return all(parameter.ndim < 2 or id(parameter) in known for parameter in model.parameters())
