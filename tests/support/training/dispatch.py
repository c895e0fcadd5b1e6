"""Observe what torch computes, operation by operation."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Shapes(TorchDispatchMode):
    """Keeps the shape of every tensor that is computed or changed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        results = result if isinstance(result, tuple) else (result,)
        self.seen += [each.shape for each in results if isinstance(each, torch.Tensor)]
        return result


class Gathered(TorchDispatchMode):
    """Counts the bytes that processes gather from each other."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.bytes += args[0].nbytes if "_allgather_base_" in str(func) else 0
        return func(*args, **kwargs or {})
