"""Weights on their way to the workers among which vLLM splits a model.

Beside a trainer on a GPU of its own, the workers are processes on the next GPUs: each tensor is broadcast whole
(`WeightTransfer`, by NCCL), and each worker keeps its slice. In an actor of a cluster, all GPUs are the workers', and
NCCL admits a GPU once. There they read the tensors that have come to the actor from files of the node (`WorkerFiles`),
or take part in a broadcast by a trainer elsewhere (`agents.cluster.broadcast`). Only this file knows vLLM's interfaces
for it, which change between versions.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from agents.core.errors import EngineError
from agents.engines.base import Weights
from agents.models.names import FileNames

RECEIVES: Mapping[str, Any] = {"weight_transfer_config": {"backend": "nccl"}}
"""What vLLM is started with, so that its workers can receive weights from a trainer's GPU."""
BESIDE_TRAINER: Mapping[str, Any] = {**RECEIVES, "distributed_executor_backend": "mp"}
"""The same where the workers are on the GPUs after the trainer's."""

_BUCKET_BYTES = 2**28


@contextmanager
def gpus_after_trainers(count: int) -> Iterator[None]:
    """Show the processes that are started in the block only the GPUs after the trainer's, which is the first.

    Args:
        count: How many they need.

    Raises:
        EngineError: There are fewer.
    """
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = before.split(",") if before else [str(number) for number in range(torch.cuda.device_count())]
    if len(names) < 1 + count:
        raise EngineError(
            f"Expect {1 + count} GPUs for a `tensor_parallel_size` of {count}, one for the trainer and {count} for the "
            f"engine, got {len(names)}."
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[1 : 1 + count])
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


class FileLayout:
    """Gives weights the names that they have in a model's files, as vLLM's loader expects them.

    Args:
        folder: The model's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                self.shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118

    def __call__(self, weights: Weights) -> Weights:
        """Return the weights under these names.

        Raises:
            EngineError: They are those of another model: vLLM would fail halfway and never load again.
        """
        if not self.shapes:
            raise EngineError("Expect weights as *.safetensors beside the model's config.json, found none.")
        got: dict[str, tuple[int, ...]] = {}
        for name, shape in weights.shapes.items():
            got |= self._names.shapes(name, shape)
        expected = {name: shape for name, shape in self.shapes.items() if not self._names.is_unused(name)}
        wrong = next((name for name, shape in expected.items() if got.get(name) != shape), None)
        if wrong is not None:
            raise EngineError(
                f"Expect the weights of the model in use, got others: {wrong} of shape {expected[wrong]}, "
                f"got {got.get(wrong, 'none')}."
            )
        shapes = {name: shape for name, shape in got.items() if name in expected}
        return Weights(shapes=shapes, tensors=self._translated(weights, shapes))

    @cached_property
    def _names(self) -> FileNames:
        return FileNames(self._folder)

    def _translated(self, weights: Weights, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in weights.tensors:
            yield from ((part, each) for part, each in self._names.translate(name, tensor).items() if part in names)


class Client:
    """Tells an engine's workers what the trainer does; implements vLLM's ``VLLMWeightSyncClient``.

    Args:
        llm: The engine.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let the workers leave the group that they are in, if any, and join the trainer's."""
        self._llm.collective_rpc("shutdown_weight_transfer_engine")
        self._llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": init_info})

    def start_weight_update(self) -> None:
        """Let the workers expect weights."""
        self._llm.collective_rpc("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Let the workers receive weights, while they are sent."""
        self._llm.collective_rpc("update_weights", kwargs={"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Let the workers use what they have received; versions are counted elsewhere."""
        self._llm.collective_rpc("finish_weight_update")


class _Source:
    """What vLLM reads the weights of an update from; implements its ``WeightSource``."""

    def __init__(self, meta: Callable[[str, torch.dtype, tuple[int, ...]], Any], dtype: torch.dtype) -> None:
        self._meta, self._dtype = meta, dtype
        self.shapes: Mapping[str, tuple[int, ...]] = {}
        self.tensors: Iterable[tuple[str, torch.Tensor]] = ()

    def metadata(self) -> list[Any]:
        return [self._meta(name, self._dtype, shape) for name, shape in self.shapes.items()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.tensors)


class WeightTransfer:
    """Sends weights from this process's GPU to the workers of an engine, or of several.

    Args:
        client: Tells engines that were started with `RECEIVES` what this process does.
        workers: How many they have together.
        dtype: Of their weights.
        address: Of this machine, as the workers reach it.

    Raises:
        EngineError: This version of vLLM has another interface.
    """

    def __init__(self, client: Any, *, workers: int, dtype: torch.dtype, address: str = "127.0.0.1") -> None:
        try:
            from vllm.distributed.weight_transfer import ParamMeta, WeightTransferTrainerFactory
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        except ImportError as error:
            raise EngineError(
                f"Expect vLLM 0.32 to send weights to {workers} of its workers by NCCL: {error}."
            ) from error
        self._source = _Source(ParamMeta, dtype)
        place = {"master_address": address, "master_port": _free_port(address), "world_size": 1 + workers}
        self._trainer = WeightTransferTrainerFactory.trainer_init(
            NCCLTrainerInitInfo(rank=0, **place), client=client, source=self._source
        )

    def send(self, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Send weights under the names that they have in the model's files.

        Args:
            shapes: Of all tensors, in the order in which they come.
            tensors: Each is read once, when it is sent.
        """
        self._source.shapes, self._source.tensors = shapes, tensors
        self._trainer.send_weights()

    def close(self) -> None:
        """Leave the workers' group."""
        self._trainer.shutdown()


class WorkerFiles:
    """Hands weights in this process's memory to all workers of an engine, on GPUs or CPUs.

    They travel in buckets, each a file that the workers map into memory; the file is gone once all have loaded it.

    Args:
        llm: A vLLM engine.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def send(self, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Send weights under the names that they have in the model's files; see :meth:`WeightTransfer.send`."""
        self._llm.collective_rpc(_begin)
        for bucket in _buckets(tensors):
            with tempfile.NamedTemporaryFile(prefix="weights-") as file:
                torch.save(bucket, file.name)
                self._llm.collective_rpc(_load, args=(file.name,))
        self._llm.collective_rpc(_finish)

    def close(self) -> None:
        """Do nothing: no connection stays open."""


def _buckets(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield copies of the tensors, of `_BUCKET_BYTES` or a little more together."""
    bucket: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        bucket[name] = tensor.detach().clone().cpu()  # a view would be stored with all that it is a view of
        if sum(each.nbytes for each in bucket.values()) >= _BUCKET_BYTES:
            yield bucket
            bucket = {}
    if bucket:
        yield bucket


# What a worker does; vLLM's own transfers take the same three steps.


def _begin(worker: Any) -> None:
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

    with set_current_vllm_config(worker.vllm_config):
        initialize_layerwise_reload(worker.get_model())


def _load(worker: Any, path: str) -> None:
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(worker.vllm_config):
        worker.get_model().load_weights(torch.load(path, mmap=True).items())


def _finish(worker: Any) -> None:
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    with set_current_vllm_config(worker.vllm_config):
        finalize_layerwise_reload(worker.get_model(), worker.vllm_config.model_config)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
