"""Training processes on a Ray cluster: started together, and restarted together from the last checkpoint.

Each sets the variables that ``torchrun`` sets, so that the code of a process is the same under both launchers.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agents.cluster.connect import connect
from agents.config.training import TrainConfig
from agents.core.errors import TrainingError, one_line

_TICK_S = 0.5
_EXPLAIN_S = 30.0  # until the cluster knows that a process has ended, after others have lost it


class Trains(Protocol):
    """A trainer."""

    def train(self) -> bool:
        """Run to the end; return False if the run was asked to stop."""
        ...

    def stop(self) -> None:
        """Ask the run to stop."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a process runs."""

    node: str
    """The node's id."""
    address: str
    """The node's address."""
    port: int
    """A port that is free there."""


class TrainActor:
    """A process that trains; :meth:`stop` is called while :meth:`train` runs.

    Args:
        folder: Of the process that has started this one, for relative paths.
        command: The command line of that process.
    """

    def __init__(self, folder: str, command: Sequence[str]) -> None:
        self._trainer: Trains | None = None
        self._is_stopped = False
        sys.argv = list(command)
        with suppress(OSError):
            os.chdir(folder)

    def place(self) -> _Place:
        """Return where this process runs."""
        import ray

        address = ray.util.get_node_ip_address()
        with socket.create_server((address, 0)) as server:
            return _Place(node=ray.get_runtime_context().get_node_id(), address=address, port=server.getsockname()[1])

    def train(self, variables: Mapping[str, str], make: Callable[[TrainConfig], Trains], config: TrainConfig) -> bool:
        """Train as the process that the variables describe; return False if the run was asked to stop."""
        from agents.core.distributed import lost_processes_in_one_line

        os.environ.update(variables)
        with lost_processes_in_one_line(), closing(trainer := make(config)):
            self._trainer = trainer
            if self._is_stopped:
                trainer.stop()
            return trainer.train()

    def stop(self) -> None:
        """Ask the run to stop."""
        self._is_stopped = True
        if self._trainer is not None:
            self._trainer.stop()


class _Lost(Exception):
    """A process has ended before its work was done."""


def train_together(
    make: Callable[[TrainConfig], Trains],
    config: TrainConfig,
    *,
    should_stop: Callable[[], bool],
    log: Callable[[str], Any],
) -> bool:
    """Train in ``config.cluster.trainers`` processes; return False if the run was asked to stop.

    Args:
        make: Makes the trainer of a process.
        config: The run. If a process is lost, all are restarted from the last checkpoint, or anew without one.
        should_stop: Asked all the time; once it returns True, the run ends as after Ctrl-C.
        log: Takes lines for the user.

    Raises:
        TrainingError: Processes were lost more often than they may be restarted.
        Exception: What a process has raised.
    """
    connect()
    restarts, most = 0, config.cluster.max_restarts
    while True:
        try:
            return _train_once(make, config, should_stop)
        except _Lost as lost:
            if restarts == most:
                raise TrainingError(
                    f"Expect training processes that last, got one more lost after {most} restarts: {lost}."
                ) from None
            log(f"A training process is lost ({lost}): all start again from the last checkpoint.")
        restarts, config = restarts + 1, replace(config, resume="auto")


def _train_once(make: Callable[[TrainConfig], Trains], config: TrainConfig, should_stop: Callable[[], bool]) -> bool:
    import ray

    count, device = config.cluster.trainers, config.device
    has_gpus = device.startswith("cuda") or (device == "auto" and ray.cluster_resources().get("GPU", 0) >= count)
    actor = ray.remote(TrainActor).options(num_cpus=1, num_gpus=int(has_gpus), max_concurrency=2)
    actors: list[Any] = [actor.remote(os.getcwd(), sys.argv) for _ in range(count)]
    try:
        return _watch(actors, make, config, should_stop)
    finally:
        for each in actors:
            ray.kill(each)


def _watch(
    actors: Sequence[Any],
    make: Callable[[TrainConfig], Trains],
    config: TrainConfig,
    should_stop: Callable[[], bool],
) -> bool:
    """Let the processes train, and wait for all of them."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError

    patience_s = config.cluster.patience_s
    try:
        places: list[_Place] = ray.get([actor.place.remote() for actor in actors], timeout=patience_s)
    except GetTimeoutError:
        raise TrainingError(
            f"Expect room on the cluster for {len(actors)} training processes, got none for {patience_s:g} s."
        ) from None
    except RayError as error:
        raise _Lost(one_line(error)) from error
    by_node = sorted(zip(places, actors, strict=True), key=lambda each: each[0].node)
    waiting = [
        actor.train.remote(variables, make, config)
        for (_, actor), variables in zip(by_node, _variables([place for place, _ in by_node]), strict=True)
    ]
    ended: list[bool] = []
    unexplained: Exception | None = None
    deadline = float("inf")
    is_asked = False
    while waiting:
        done, waiting = ray.wait(waiting, timeout=_TICK_S)
        for call in done:
            try:
                ended.append(ray.get(call))
            except RayTaskError as error:
                if not isinstance(error.cause, TrainingError):
                    raise error.cause from None
                unexplained, deadline = error.cause, min(deadline, time.monotonic() + _EXPLAIN_S)
            except RayError as error:
                raise _Lost(one_line(error)) from error
        if unexplained is not None and (not waiting or time.monotonic() > deadline):
            raise unexplained
        if should_stop() and not is_asked:
            is_asked = True
            for actor in actors:
                actor.stop.remote()
    return all(ended)


def _variables(places: Sequence[_Place]) -> list[dict[str, str]]:
    """Return the variables of each process, ordered by rank; processes of one node follow each other.

    >>> a, b = (_Place(node=name, address=f"host-{name}", port=4000) for name in "ab")
    >>> [(each["RANK"], each["LOCAL_RANK"], each["MASTER_ADDR"]) for each in _variables([a, a, b])]
    [('0', '0', 'host-a'), ('1', '1', 'host-a'), ('2', '0', 'host-a')]
    """
    nodes = [place.node for place in places]
    return [
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(places)),
            "LOCAL_RANK": str(nodes[:rank].count(node)),
            "MASTER_ADDR": places[0].address,
            "MASTER_PORT": str(places[0].port),
        }
        for rank, node in enumerate(nodes)
    ]
