"""Gathers trajectories in four processes, two on each of two nodes, and prints as JSON what each has then.

The second process has none to gather. All are forked from this one, since importing torch takes longer than the rest.
"""

import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.core import distributed
from agents.core.exchange import gather_unless_stopped
from agents.core.types import Trajectory, Turn

LENGTH = 1000
received = 0
broadcast = torch.distributed.broadcast


def long(group_id: int) -> Trajectory:
    """A trajectory of `LENGTH` tokens."""
    return Trajectory(
        problem_id="p",
        group_id=group_id,
        token_ids=range(LENGTH),
        action_mask=[place % 2 == 0 for place in range(LENGTH)],
        logprobs=[-place / 8 for place in range(LENGTH)],
        prompt_length=1,
        reward=1.0,
        reward_valid=True,
        terminated=True,
        truncated=False,
        turns=(Turn(text="text", feedback="", finish_reason="stop", info={}),),
        boundary_cuts=0,
        policy_versions=[group_id] * LENGTH,
    )


def counted(tensor: torch.Tensor, *, src: int, **more: Any) -> Any:
    global received  # noqa: PLW0603 - the process's
    received += 0 if src == distributed.rank() else tensor.nbytes
    return broadcast(tensor, src=src, **more)


def gathered() -> dict[str, Any]:
    """Gather, and say what came, through which network, and into which pages."""
    mine = [long(distributed.rank())] if distributed.rank() != 1 else []
    made = gather_unless_stopped(mine) or []
    distributed.wait()  # until the others have removed their files
    arrays: list[np.ndarray[Any, Any]] = [each.token_ids.array for each in made]  # type: ignore[attr-defined]
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "/exchange-" in line]
    return {
        "groups": [each.group_id for each in made],
        "equal": all(each == long(each.group_id) for each in made),
        "writable": any(array.flags.writeable for array in arrays),
        "inodes": sorted({line[4] for line in maps}),
        "left": sum(Path(line[5]).exists() for line in maps),
        "received": received,
        "stopped": gather_unless_stopped(None if distributed.rank() == 2 else mine),
    }


def work(rank: int, port: int, said: Any) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank % 2, "WORLD_SIZE": 4, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    distributed.start(torch.device("cpu"))
    torch.distributed.broadcast = counted
    said.put((rank, gathered()))
    distributed.stop()


def main() -> None:
    """Fork the processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    processes = [context.Process(target=work, args=(rank, port, said)) for rank in range(4)]
    for process in processes:
        process.start()
    by_rank = dict(said.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    print(json.dumps([by_rank[rank] for rank in range(4)]))


if __name__ == "__main__":
    main()
