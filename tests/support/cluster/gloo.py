"""A broadcast as vLLM's, with its calls in the same order, over gloo on CPUs; and engines that take part."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from scripted import ByteChat, FakeEngine
from torch._C._distributed_c10d import BroadcastOptions, ProcessGroupGloo, TCPStore

from agents.engines.base import Weights
from agents.rollout.source import LocalSource

_TIMEOUT = timedelta(seconds=60)


def _broadcast(group: Any, tensor: torch.Tensor) -> torch.Tensor:
    group.broadcast([tensor], BroadcastOptions()).wait()
    return tensor


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Of names, dtypes, shapes and values."""
    whole = [(name, str(each.dtype), each.tolist()) for name, each in sorted(tensors)]
    return hashlib.sha256(repr(whole).encode()).hexdigest()


class GlooTransfer:
    """What `WeightTransfer` does, over gloo."""

    def __init__(self, client: Any, *, workers: int, dtype: torch.dtype, address: str) -> None:
        self._client = client
        store = TCPStore(address, 0, is_master=True, wait_for_workers=False)
        with ThreadPoolExecutor(1) as pool:
            place = {"address": address, "port": store.port, "size": 1 + workers}
            joined = pool.submit(client.init_weight_transfer_engine, place)
            self._group: Any = ProcessGroupGloo(store, 0, 1 + workers, _TIMEOUT)
            joined.result()

    def send(self, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._client.start_weight_update()
        pool = ThreadPoolExecutor(1)
        received = pool.submit(self._client.update_weights, {"shapes": shapes})
        for _, tensor in tensors:
            _broadcast(self._group, tensor.clone())
        received.result()
        pool.shutdown()
        self._client.finish_weight_update()

    def close(self) -> None:
        self._group.shutdown()


class GlooEngine(FakeEngine):
    """Notes which weights it gets and how, in files of a folder; a file there can end it in the middle of a broadcast.

    Args:
        folder: For the notes.
        dtype: Of the weights.
    """

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        chat: Any = ByteChat()
        super().__init__(chat, poll_s=0.004)
        self._folder, self._dtype = folder, dtype

    def join(self, place: dict[str, Any]) -> None:
        rank = place["rank_offset"]
        store = TCPStore(place["address"], place["port"], timeout=_TIMEOUT)
        self._group: Any = ProcessGroupGloo(store, rank, place["size"], _TIMEOUT)
        self._note("joined", str(rank))

    def receive(self, version: int, update_info: dict[str, Any]) -> None:
        received = []
        for name, shape in update_info["shapes"].items():
            received.append((name, _broadcast(self._group, torch.empty(shape, dtype=self._dtype))))
            for number in (signal.SIGKILL, signal.SIGSTOP):
                end = self._folder / number.name
                if end.exists():
                    end.unlink()
                    os.kill(os.getpid(), number)
        self.version = version
        self._note(f"broadcast-{version}", digest(received))

    def load_weights(self, version: int, weights: Weights) -> None:
        super().load_weights(version, weights)
        self._note(f"stored-{version}", digest(weights.tensors))

    def _note(self, what: str, text: str) -> None:
        count = len(list(self._folder.glob(f"{what}-{os.getpid()}-*")))
        (self._folder / f"{what}-{os.getpid()}-{count}").write_text(text)


def open_gloo(folder: Path, dtype: torch.dtype, number: int) -> LocalSource:
    chat: Any = ByteChat()
    return LocalSource(GlooEngine(folder, dtype), chat)
