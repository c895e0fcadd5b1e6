"""Weights on their way from a trainer to the engines of a cluster."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch

from agents.engines.base import Weights

if TYPE_CHECKING:
    import numpy as np

_BUCKET_BYTES = 2**28
_Stored: TypeAlias = "tuple[list[str], torch.dtype, tuple[int, ...], np.ndarray[Any, Any]]"
"""A tensor: its names, dtype and shape, and its bytes."""


class SentWeights(Protocol):
    """What an engine needs to get the weights of a version; it can be pickled, and received any number of times."""

    @property
    def version(self) -> int:
        """Version of the weights."""
        ...

    def receive(self) -> Weights:
        """Return the weights, in the process of an engine."""
        ...


class WeightChannel(Protocol):
    """Takes weights from the trainer to engines that may start later, or elsewhere."""

    def send(self, version: int, weights: Weights) -> SentWeights:
        """Make weights available to the engines, until the next are sent."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredWeights:
    """Weights in Ray's object store; implements `SentWeights`."""

    version: int
    """Version of the weights."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of every tensor, by its name."""
    buckets: tuple[Any, ...]
    """References to lists of tensors."""

    def receive(self) -> Weights:
        """Return the weights; a bucket is fetched once by each node, and mapped by all of its engines."""
        return Weights(shapes=self.shapes, tensors=self._read())

    def _read(self) -> Iterator[tuple[str, torch.Tensor]]:
        import ray

        for bucket in self.buckets:
            for names, dtype, shape, data in ray.get(bucket):
                with warnings.catch_warnings():  # engines copy from the store's memory
                    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                    tensor = torch.from_numpy(data).view(dtype).view(shape)
                for name in names:
                    yield name, tensor


class ObjectStore:
    """Puts weights into Ray's object store, in buckets; implements `WeightChannel`."""

    def send(self, version: int, weights: Weights) -> StoredWeights:
        """Store weights; those of the version before are freed with their last reader."""
        import ray

        buckets, bucket, size = [], [], 0
        for stored in _once(weights):
            bucket.append(stored)
            size += stored[-1].nbytes
            if size >= _BUCKET_BYTES:
                buckets.append(ray.put(bucket))
                bucket, size = [], 0
        buckets.append(ray.put(bucket))
        return StoredWeights(version=version, shapes=dict(weights.shapes), buckets=tuple(buckets))


def _once(weights: Weights) -> Iterator[_Stored]:
    """Yield each tensor once, with all of its names."""
    names: list[str] = []
    last: torch.Tensor | None = None
    for name, tensor in weights.tensors:
        if last is not None and tensor is not last:
            yield _stored(names, last)
            names = []
        names, last = [*names, name], tensor
    if last is not None:
        yield _stored(names, last)


def _stored(names: list[str], tensor: torch.Tensor) -> _Stored:
    # bytes, since NumPy has no bfloat16; a scalar has no dimension to view as bytes
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return names, tensor.dtype, tuple(tensor.shape), data
