"""Weights on their way from the first trainer's GPU to those of idle engines: vLLM's transfer, over NCCL.

A broadcast is one call of the trainer and of all workers of the engines in a group, and none returns without the
others. So it is only a faster way for engines that are idle when weights are sent. Those that are busy, start later or
fail here get the weights from the channel. What is broadcast is read from there as well: no other trainer takes part,
and weights may be sent again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol

from agents.core.errors import EngineError, EngineFault, one_line
from agents.engines.vllm_transfer import FileLayout, WeightTransfer

if TYPE_CHECKING:
    import torch

    from agents.cluster.weights import SentWeights
    from agents.config.cluster import ClusterArguments

_GRACE_S = 5.0  # for the others, after one has failed: some may be done, the rest wait for it in vain
_TICK_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of the engines of a broadcast; the others are as they were, and idle."""

    received: Collection[int] = ()
    """Those that have the weights."""
    lost: Mapping[int, str]
    """Those that have failed or do not answer, and why: no call ends one that waits for NCCL."""
    error: Exception | None = None
    """What went wrong."""


class Broadcast:
    """Sends weights to engines, in a group that is made anew when other engines are idle, or when one has failed.

    Args:
        path: The model's folder, for the names in its files.
        cluster: GPUs and patience. A broadcast that fails more than `max_restarts` times in a row is the last one.
        dtype: Of the engines' weights.
        device: This process's GPU.
        log: Takes lines for the user.
    """

    def __init__(
        self, path: Path, cluster: ClusterArguments, *, dtype: str, device: torch.device, log: Callable[[str], Any]
    ) -> None:
        self._files, self._cluster, self._dtype, self._device, self._log = FileLayout(path), cluster, dtype, device, log
        self._group: _Group | None = None
        self._failures = 0  # in a row

    def send(self, weights: SentWeights, actors: Mapping[int, Any]) -> Outcome:
        """Send weights to idle engines, and wait for them, at most for the cluster's patience.

        Raises:
            EngineError: This version of vLLM has another interface, or the weights are those of another model.
        """
        if self._group is not None and self._group.actors.keys() != actors.keys():
            self.close()
        if not actors or self._failures > self._cluster.max_restarts:
            return Outcome(lost={})
        if self._group is None:
            self._group = _Group(actors, self._open, gpus=self._cluster.engine_gpus)
        whole = self._files(weights.receive())
        tensors = ((name, tensor.to(self._device)) for name, tensor in whole.tensors)
        outcome = self._group.send(weights.version, whole.shapes, tensors, self._cluster.patience_s)
        if outcome.error is None:
            self._failures = 0
            return outcome
        self.close()
        if isinstance(outcome.error, EngineError):
            raise outcome.error
        self._failures += 1
        last = " It was the last one." if self._failures > self._cluster.max_restarts else ""
        reason = one_line(outcome.error)
        self._log(f"A broadcast of weights has failed ({reason}); engines get them from the store.{last}")
        return outcome

    def close(self) -> None:
        """Leave the group."""
        if self._group is not None:
            self._group.close()
            self._group = None

    def _open(self, client: _Client, workers: int) -> WeightTransfer:
        import ray
        import torch

        address = ray.util.get_node_ip_address()
        return WeightTransfer(client, workers=workers, dtype=getattr(torch, self._dtype), address=address)


class _Transfer(Protocol):
    def send(self, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, torch.Tensor]]) -> None: ...

    def close(self) -> None: ...


class _Group:
    """This process and some engines, until a broadcast fails.

    A thread makes vLLM's calls, which may never return: NCCL knows no deadline. What is left of it then ends with the
    process, or earlier, when :meth:`close` aborts NCCL's communicator.
    """

    def __init__(
        self, actors: Mapping[int, Any], open_transfer: Callable[[_Client, int], _Transfer], *, gpus: int
    ) -> None:
        self.actors = actors
        self._open, self._workers = open_transfer, gpus * len(actors)
        self._client = _Client(actors, gpus=gpus)
        self._transfer: _Transfer | None = None

    def send(
        self,
        version: int,
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Iterable[tuple[str, torch.Tensor]],
        patience_s: float,
    ) -> Outcome:
        """Send weights; after an error the group must be closed."""
        client, errors = self._client, list[Exception]()
        client.begin(version)

        def send() -> None:
            try:
                client.find_all()
                if self._transfer is None:
                    self._transfer = self._open(client, self._workers)
                self._transfer.send(shapes, self._while_open(tensors))
            except Exception as error:
                errors.append(error)

        thread = Thread(target=send, name="broadcast", daemon=True)
        thread.start()
        deadline = time.monotonic() + patience_s
        while thread.is_alive() and not client.lost and time.monotonic() < deadline:
            thread.join(_TICK_S)
        if client.lost:
            thread.join(_GRACE_S)
        if not (errors or client.lost or thread.is_alive()):
            return Outcome(received=client.received, lost={})
        received, lost = client.leave()
        error = errors[0] if errors else EngineFault(_reasons(lost) or f"no end for {patience_s:.0f} s")
        return Outcome(received=received, lost=lost, error=error)

    def close(self) -> None:
        """Leave the group; a call that is in it ends as soon as NCCL lets it."""
        self._client.leave()
        if self._transfer is not None:
            self._transfer.close()

    def _while_open(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for each in tensors:
            self._client.check()
            yield each


class _Client:
    """Hands the calls of vLLM's trainer to all engines at once; implements vLLM's ``VLLMWeightSyncClient``.

    Args:
        actors: The engines'.
        gpus: Of each; its workers have as many ranks of the group, after the trainer's 0.
    """

    def __init__(self, actors: Mapping[int, Any], *, gpus: int) -> None:
        self._actors, self._gpus = actors, gpus
        self._lock = Lock()
        self._is_left = False
        self._waiting: set[int] = set()  # for an answer

    def begin(self, version: int) -> None:
        """Begin a broadcast."""
        self._version = version
        self.received: set[int] = set()
        self.lost: dict[int, str] = {}

    def leave(self) -> tuple[set[int], dict[int, str]]:
        """Call no engine any more; return which have received weights, and which are lost, and why."""
        with self._lock:
            self._is_left = True
            return set(self.received), dict.fromkeys(self._waiting, "no answer to a broadcast") | self.lost

    def check(self) -> None:
        """Raise an error if the group has been left."""
        if self._is_left:
            raise EngineFault("Expect a group that is in use, got one that was left.")

    def find_all(self) -> None:
        """See that all engines are there, before any of them waits for the others."""
        self._call("start", dict.fromkeys(self._actors, ()))

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let the engines join the group."""
        firsts = {number: 1 + place * self._gpus for place, number in enumerate(self._actors)}
        self._call("join", {number: (init_info | {"rank_offset": first},) for number, first in firsts.items()})

    def start_weight_update(self) -> None:
        """Do nothing: an engine begins when it is to receive."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Let the engines receive weights, and use them."""
        self._call("receive", dict.fromkeys(self._actors, (self._version, update_info)))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Do nothing: an engine that has answered uses what it has received."""

    def _call(self, method: str, arguments: Mapping[int, Sequence[Any]]) -> None:
        """Call a method of all actors, and wait for all; raise an error if one fails."""
        import ray
        from ray.exceptions import RayError

        with self._lock:
            self.check()
            calls = {getattr(self._actors[number], method).remote(*each): number for number, each in arguments.items()}
            self._waiting = set(arguments)
        while calls:
            done, _ = ray.wait([*calls], timeout=_TICK_S)
            with self._lock:
                self.check()
                for call in done:
                    number = calls.pop(call)
                    self._waiting.remove(number)
                    try:
                        ray.get(call)
                        self.received |= {number} if method == "receive" else set()
                    except RayError as error:
                        self.lost[number] = one_line(getattr(error, "cause", error))
        if self.lost:
            raise EngineFault(_reasons(self.lost))


def _reasons(lost: Mapping[int, str]) -> str:
    return "; ".join(sorted(set(lost.values())))
