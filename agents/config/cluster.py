"""Which engines and trainers of a run are processes of their own, on a Ray cluster (``docs/how-to/cluster.md``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agents.core.errors import expect


@dataclass(frozen=True, kw_only=True)
class ClusterArguments:
    """Engines on a Ray cluster (extra ray); without a cluster, on this machine."""

    engines: int = 0
    """Processes that sample, each with environments of its own. 0: this process samples."""
    engine_gpus: int = 0
    """GPUs of each engine, among which vLLM splits the model. 0: it samples on CPUs."""
    engine_cpus: int = 1
    """CPUs of each engine, for its environments and graders."""
    env_actors: int = 0
    """Processes on any node in which an engine has the environments of a problem set, with sandboxes and graders of
    their own. 0: it has them in its own process."""
    env_cpus: int = 1
    """CPUs of each of these processes."""
    max_restarts: int = 3
    """How many engines may be lost in a row before one has played; and how often trainers are restarted."""
    patience_s: float = 120.0
    """Seconds without an answer after which an engine is replaced, or without room for any after which the run ends."""

    def __post_init__(self) -> None:
        for name in ("engines", "engine_gpus", "env_actors", "max_restarts"):
            expect(getattr(self, name) >= 0, f"cluster.{name}", "of at least 0", getattr(self, name))
        for name in ("engine_cpus", "env_cpus"):
            expect(getattr(self, name) >= 1, f"cluster.{name}", "of at least 1", getattr(self, name))
        expect(self.patience_s > 0, "cluster.patience_s", "above 0", self.patience_s)
        expect(self.engines > 0 or not self.engine_gpus, "cluster.engine_gpus", "0 without engines", self.engine_gpus)

    @property
    def is_used(self) -> bool:
        """Whether any process of the run is on a cluster."""
        return self.engines + self.env_actors > 0


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(ClusterArguments):
    """Engines and trainers on a Ray cluster (extra ray); without a cluster, on this machine."""

    trainers: int = 0
    """Processes that train, with a GPU each where there are GPUs, restarted from the last checkpoint if one is lost.
    0: this process trains."""
    weight_transfer: Literal["store", "nccl"] = "store"
    """How engines get weights. store: from Ray's object store. nccl: those that are idle by a broadcast from the first
    trainer's GPU (vLLM), the others from the store; not yet run on GPUs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(
            self.weight_transfer == "store" or (self.trainers > 0 and self.engine_gpus > 0),
            "cluster.weight_transfer",
            "store unless cluster.trainers and cluster.engine_gpus give trainers and engines GPUs of their own",
            self.weight_transfer,
        )
        expect(self.trainers >= 0, "cluster.trainers", "of at least 0", self.trainers)

    @property
    def is_used(self) -> bool:
        """Whether any process of the run is on a cluster."""
        return super().is_used or self.trainers > 0
