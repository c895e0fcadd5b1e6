"""Two processes, the second of which stops answering; the first says so and ends.

torchrun --nproc-per-node 2 tests/support/training/lost_process.py
"""

import sys
import time
from datetime import timedelta

import torch

import train
from agents.core import distributed
from agents.training import trainer


class Cut:
    """A trainer whose second process is cut off."""

    stopped_by = None

    def __init__(self, config: object) -> None:
        distributed.start(torch.device("cpu"))

    def train(self) -> bool:
        distributed.wait()  # until both are there
        if distributed.rank() == 1:
            time.sleep(3600)
        distributed.any_of(False)
        return True

    def close(self) -> None:
        distributed.stop()


if __name__ == "__main__":
    distributed._TIMEOUT = timedelta(seconds=3)
    trainer.Trainer = Cut  # type: ignore[assignment, misc]
    sys.exit(train.main(["tiny"]))
