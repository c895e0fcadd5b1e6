"""Training in several processes: ``torchrun --nproc-per-node 8 train.py ...``, on one or more nodes.

Each process has its own engine and environments and samples its share of the problems. Trajectories are gathered for
all processes (`agents.core.exchange`), which share the update: parameters, gradients and optimizer state are sharded
(FSDP2), and micro-batches are distributed. Token weights are computed for the whole batch beforehand, so the result is
that of a single process.

A collective call waits a few minutes for the other processes, so that a run whose network is cut ends. Where processes
may work for different times (sampling, loading, saving, callbacks), they wait for each other for hours.

In a single process all functions are no-ops and need no process group.
"""

from __future__ import annotations

import gc
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.functional import pad

from agents.core.errors import AgentsError, TrainingError, one_line

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=5)  # of a collective call in which all processes are in step
_PATIENCE = timedelta(hours=2)  # the slowest process may be downloading a model or sampling a long answer
_patient: distributed.ProcessGroup | None = None
_nodes: tuple[list[int], distributed.ProcessGroup | None] = ([0], None)
_board: TCPStore | None = None


def start(device: torch.device) -> torch.device:
    """Initialize the process group if torchrun or a cluster started this process; return its device.

    Args:
        device: ``cuda`` is mapped to the GPU of this process.
    """
    if "WORLD_SIZE" not in os.environ or distributed.is_initialized():
        return device
    if device.type == "cuda":
        number = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()  # on a cluster it sees its own GPU alone
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    global _patient, _nodes, _board  # noqa: PLW0603 - as the default group, they are the process's
    _patient = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    firsts = [each for each, place in enumerate(gather([os.environ.get("LOCAL_RANK", "0")])) if place == "0"]
    _nodes = firsts, distributed.new_group(firsts, backend="gloo")
    host = os.environ["MASTER_ADDR"]
    server = TCPStore(host, 0, is_master=True) if rank() == 0 else None
    (port,) = gather([] if server is None else [server.port])
    _board = server or TCPStore(host, port)
    tell("")
    wait()
    return device


def patient_group() -> distributed.ProcessGroup | None:
    """Return the group whose collective calls wait for hours; None in a single process."""
    return _patient if distributed.is_initialized() else None


def first_of_nodes() -> tuple[list[int], distributed.ProcessGroup | None]:
    """Return the ranks of the first process of each node, and their group."""
    return _nodes


@contextmanager
def lost_processes_in_one_line() -> Iterator[None]:
    """Turn the error of a collective call, for lack of an answer, into one line.

    Raises:
        TrainingError: Another process has ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        failed = isinstance(error, distributed.DistError) or re.search("gloo|Connection closed by peer", str(error))
        if isinstance(error, AgentsError) or not failed:
            raise
        minutes = _TIMEOUT.total_seconds() / 60
        raise TrainingError(
            f"Expect an answer from the other processes within {minutes:g} minutes, got none: one of them has ended, "
            f"or the network between them is down ({one_line(error)}). The last checkpoint is unchanged."
        ) from error


def idle_gpus(device: torch.device) -> int:
    """Return the number of GPUs on this machine that a single-process run leaves idle."""
    return max(0, torch.cuda.device_count() - 1) if device.type == "cuda" and size() == 1 else 0


def stop() -> None:
    """Destroy the process group."""
    global _board  # noqa: PLW0603
    _board = None
    if distributed.is_initialized():
        distributed.destroy_process_group()
        gc.collect()  # sharded tensors reference the group in cycles; its threads must end before the process does


def rank() -> int:
    """Return the rank of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def gather(items: Sequence[T], *, patiently: bool = False) -> list[T]:
    """Return the items of all processes, in order of rank; ``patiently`` after work that may take some much longer."""
    if size() == 1:
        return list(items)
    parts: list[list[T] | None] = [None] * size()
    distributed.all_gather_object(parts, list(items), group=_patient if patiently else None)
    return [item for part in parts for item in part or ()]


def any_of(flag: bool) -> bool:
    """Return whether the flag is true in any process."""
    return bool(add_up(torch.tensor(int(flag)))) if size() > 1 else flag


def succeed_together(work: Callable[[], object], *, on_first: bool = False) -> None:
    """Run ``work`` in all processes, or only in the first; an exception in one of them is raised in all."""
    error: Exception | None = None
    try:
        if not on_first or rank() == 0:
            work()
    except Exception as caught:
        error = caught
    reasons = gather([None if error is None else str(error)], patiently=True)
    if error is not None:
        raise error
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is not None:
        raise RuntimeError(reason)


@contextmanager
def first_of_node_first() -> Iterator[None]:
    """Run a block in the first process of each node before the others, which then find its files on disk.

    The others also run after an error in the first: they report bad input in the same words.
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
    """Return this process's share: every ``size()``-th item, starting at its rank.

    >>> share("abc")
    ['a', 'b', 'c']
    """
    return list(items[rank() :: size()])


def tell(text: str) -> None:
    """Let other processes know something, in place of what was told before; they read it when they like."""
    if _board is not None:
        _board.set(str(rank()), text)


def told_by(other: int) -> str:
    """Return what another process has told last, without waiting for it."""
    return "" if _board is None else _board.get(str(other)).decode()


def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, in place, and return it."""
    if size() > 1:
        distributed.all_reduce(tensor)
    return tensor


def add_up_metrics(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
    """Sum scalars over parts and processes, and read the sums from the device at once.

    Args:
        parts: At least one, all with the same names.
    """
    names = sorted(parts[0])
    scalars = torch.stack([part[name] for part in parts for name in names]).double()
    totals = add_up(scalars.view(len(parts), -1).sum(0))
    return dict(zip(names, totals.tolist(), strict=True))


def wait() -> None:
    """Wait until all processes have reached this call, for hours if need be."""
    if size() > 1:
        distributed.barrier(group=_patient)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a possibly sharded tensor in full; a collective call for sharded ones."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_together(tensors: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield possibly sharded tensors in full, in order; a single collective call for all that are sharded.

    Args:
        tensors: Those that are sharded have one dtype, and are sharded as FSDP2 does: by rows, in equal parts, of which
            the last ones may be smaller.
    """
    sharded = [tensor for tensor in tensors if isinstance(tensor, DTensor)]
    if not sharded:
        yield from tensors
        return
    mesh = sharded[0].device_mesh
    lengths = [-(-len(tensor) // mesh.size(-1)) * math.prod(tensor.shape[1:]) for tensor in sharded]
    parts = [tensor.to_local().flatten() for tensor in sharded]
    mine = torch.cat([pad(part, (0, length - len(part))) for part, length in zip(parts, lengths, strict=True)])
    received = mine.new_empty(mesh.size(-1) * len(mine))
    distributed.all_gather_into_tensor(received, mine, group=mesh.get_group(-1))
    columns = iter(received.view(mesh.size(-1), -1).split(lengths, dim=1))
    for tensor in tensors:
        if isinstance(tensor, DTensor):
            yield next(columns).reshape(-1, *tensor.shape[1:])[: len(tensor)]
        else:
            yield tensor


def rows_of(tensor: torch.Tensor) -> slice:
    """Return which rows of a possibly sharded tensor this process holds; FSDP2 gives the last processes fewer."""
    if not isinstance(tensor, DTensor):
        return slice(0, len(tensor))
    count, place = tensor.device_mesh.size(-1), tensor.device_mesh.get_local_rank(-1)
    length = -(-len(tensor) // count)
    return slice(min(place * length, len(tensor)), min((place + 1) * length, len(tensor)))


def placed_like(rows: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the tensor of which this process has its rows, sharded as another one is; processes do not communicate."""
    if not isinstance(other, DTensor):
        return rows
    return DTensor.from_local(
        rows, other.device_mesh, other.placements, run_check=False, shape=other.shape, stride=other.stride()
    )


def sharded_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a tensor that every process has in full, sharded as another one is; they do not communicate."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)
