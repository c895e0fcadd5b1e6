"""One run in several processes: ``torchrun --nproc-per-node 8 train.py ...``, on one node or more.

Each process has an engine and environments of its own and samples its share of the problems. Then all of them hold all
trajectories, and share the work of the update: parameters, gradients and moments are sharded (FSDP2), micro-batches are
dealt out. What each token counts was settled for the whole batch before, so that the numbers are those of one process.

In one process everything here does nothing, and needs no process group.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    pass

T = TypeVar("T")

_PATIENCE = timedelta(hours=2)  # the slowest process may be downloading a model, or sampling the longest answer


def start(device: torch.device) -> torch.device:
    """Join the other processes if torchrun started this one; return the device of this process.

    Args:
        device: ``cuda`` becomes this process's GPU.
    """
    if "WORLD_SIZE" not in os.environ or distributed.is_initialized():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    return device


def idle_gpus(device: torch.device) -> int:
    """Return how many GPUs of this machine a run in one process leaves idle."""
    return max(0, torch.cuda.device_count() - 1) if device.type == "cuda" and size() == 1 else 0


def launcher() -> str:
    """Return what a program is started with in as many processes as there are now, even once they have parted.

    >>> launcher()
    'python'
    """
    count, on_node = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    nodes = f"--nnodes {count // on_node} " if count > on_node else ""
    return "python" if count == 1 else f"torchrun {nodes}--nproc-per-node {on_node}"


def stop() -> None:
    """Leave the other processes."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()  # what was sharded holds the group in cycles, and its threads must end before the process does


def rank() -> int:
    """Return this process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def gather(items: Sequence[T]) -> list[T]:
    """Return the items of all processes, in the order of their numbers."""
    if size() == 1:
        return list(items)
    parts: list[list[T] | None] = [None] * size()
    distributed.all_gather_object(parts, list(items))
    return [item for part in parts for item in part or ()]


def gather_unless_stopped(mine: Sequence[T] | None) -> list[T] | None:
    """Return the items of all processes, in the order of their numbers; None if one of them was stopped.

    Args:
        mine: This process's items; None: it was asked to stop.
    """
    if any_of(mine is None):
        return None
    return gather(mine or ())


def any_of(flag: bool) -> bool:
    """Return whether any process says so."""
    return bool(add_up(torch.tensor(int(flag)))) if size() > 1 else flag


def succeed_together(work: Callable[[], object], *, on_first: bool = False) -> None:
    """Do something in all processes, or only in the first; what goes wrong in one of them is raised in all."""
    error: Exception | None = None
    try:
        if not on_first or rank() == 0:
            work()
    except Exception as caught:
        error = caught
    reasons = gather([None if error is None else str(error)])
    if error is not None:
        raise error
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is not None:
        raise RuntimeError(reason)


@contextmanager
def first_of_node_first() -> Iterator[None]:
    """Let the first process of each node through before the others, which find on the disk what it has put there.

    They come through after an error, too: what is wrong with the user's input they say in the same words.
    """
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    if not is_first:
        wait()
    try:
        yield
    finally:
        if is_first:
            wait()


def share(items: Sequence[T]) -> list[T]:
    """Return this process's share: every ``size()``-th item.

    >>> share("abc")
    ['a', 'b', 'c']
    """
    return list(items[rank() :: size()])


def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of all processes' tensors."""
    if size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def add_up_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the sums of all processes' metrics, which have the same names everywhere."""
    if size() == 1:
        return dict(metrics)
    names = sorted(metrics)
    totals = add_up(torch.tensor([metrics[name] for name in names], dtype=torch.float64))
    return dict(zip(names, totals.tolist(), strict=True))


def wait() -> None:
    """Wait until all processes are here."""
    if size() > 1:
        distributed.barrier()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that may be sharded as a whole; all processes must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
