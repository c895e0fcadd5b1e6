"""What a run asks of its GPUs, nodes and network, by arithmetic from the sizes of the model and the layout.

Nothing is measured: activations are a rough count, and the allocator's fragments, CUDA graphs and the buffers of NCCL
(together 2 to 4 GB) are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.config.training import TrainConfig
from agents.core.tables import table
from agents.learning.optimizer import STATE_BYTES
from agents.models.hub import hub_cached

GB = 1e9
_PROCESSES = (1, 4, 8, 16, 64)  # that a dry run shows
_TOKEN_BYTES = 13  # of a trajectory: id, mask, log-probability, version


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSizes:
    """The sizes of a decoder with gated feed-forward layers."""

    layers: int
    """Number of layers."""
    hidden: int
    """Width of the hidden states."""
    intermediate: int
    """Width inside the feed-forward part; of a mixture of experts, of all experts together."""
    heads: int
    """Attention heads."""
    kv_heads: int
    """Heads of keys and values."""
    head_dim: int
    """Width of a head."""
    vocabulary: int
    """Tokens."""
    is_tied: bool = False
    """The output layer is the input embeddings."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelSizes:
        """Return the sizes in a model's ``config.json``.

        Raises:
            KeyError: The configuration does not name them.
        """
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        experts = config.get("num_experts") or config.get("num_local_experts") or 1
        width = config.get("moe_intermediate_size") if experts > 1 else None
        return cls(
            layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=experts * (width or config["intermediate_size"]),
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            vocabulary=config["vocab_size"],
            is_tied=config.get("tie_word_embeddings", False),
        )

    @property
    def layer(self) -> int:
        """Parameters of a layer, without biases and norms."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def ends(self) -> int:
        """Parameters of embeddings and output layer."""
        return self.vocabulary * self.hidden * (1 if self.is_tied else 2)

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.layer + self.ends

    @property
    def cache_token(self) -> int:
        """Bytes of the engine's cache for a token, in bfloat16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


KNOWN: Mapping[str, ModelSizes] = {
    "Qwen/Qwen2.5-Math-7B": ModelSizes(
        layers=28, hidden=3584, intermediate=18944, heads=28, kv_heads=4, head_dim=128, vocabulary=152064
    ),
    "Qwen/Qwen2.5-32B": ModelSizes(
        layers=64, hidden=5120, intermediate=27648, heads=40, kv_heads=8, head_dim=128, vocabulary=152064
    ),
    "meta-llama/Llama-3.1-70B": ModelSizes(
        layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, head_dim=128, vocabulary=128256
    ),
}
"""Models of 7, 32 and 70 billion parameters, by their names on the hub."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a run is laid out: AdamW in float32, matrix products in bfloat16, recomputed activations."""

    processes: int
    """Of the trainer, with a GPU each."""
    replicas: int = 1
    """Copies of the sharded parameters."""
    tensor_parallel: int = 1
    """GPUs that share an engine's weights; with several they are not the trainer's."""
    engines: int = 0
    """On a cluster: engines with GPUs of their own. 0: each process has one."""
    engine_bytes: int = 2
    """Of a weight that samples: 2 in bfloat16, 4 in float32."""
    optimizer_bytes: int = 8
    """Of the optimizer's state, for each parameter: 8, or 2 with adamw-8bit."""
    micro_batch_tokens: int = 16384
    """Tokens of a forward and backward pass."""
    step_tokens: int = 16 * 16 * 4096
    """Tokens of a training step."""

    @property
    def shards(self) -> int:
        """Among how many processes a parameter is sharded."""
        return self.processes // self.replicas

    @property
    def has_engine_beside(self) -> bool:
        """Whether a trainer's GPU holds an engine's weights as well."""
        return self.tensor_parallel == 1 and not self.engines


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """Bytes: on a GPU, on a node, and over the network."""

    weights: float
    """A process's shards of the parameters, float32."""
    optimizer: float
    """And of the optimizer's state."""
    gradients: float
    """And of the gradients, float32; in the update only."""
    gathered: float
    """What the update gathers: embeddings and output layer with their gradients, and two layers, in bfloat16."""
    activations: float
    """Hidden states between the layers, one recomputed layer, and a part of the logits."""
    engine: float
    """A GPU's share of an engine's weights."""
    sampling: float
    """On a trainer's GPU during sampling, without the cache: shards, and an engine's weights if they are there."""
    cache_token: float
    """Of the engine's cache, for a token, on each of its GPUs."""
    start: float
    """Most that a process holds while it loads the policy: its shards, and the largest tensor or layer."""
    node: float
    """A node's memory: the trajectories of a step, and one file of a checkpoint."""
    checkpoint: float
    """Disk: weights and optimizer state, float32."""
    update_traffic: float
    """Received by a GPU in the update of a step: parameters, forward and backward, and gradients."""
    sync_traffic: float
    """Received by a trainer's GPU in a weight sync, which gathers all weights in the engine's dtype."""
    store: float
    """On a cluster: the object store of the first trainer's node in a weight sync, with two versions of the weights."""
    node_traffic: float
    """On a cluster: received, and stored, by a node of engines in a weight sync, whatever their number."""

    @property
    def update(self) -> float:
        """On a GPU in the update."""
        return self.weights + self.optimizer + self.gradients + self.gathered + self.activations


def footprint(model: ModelSizes, layout: Layout) -> Footprint:
    """Return what a run of a model in a layout asks for.

    >>> seven = footprint(KNOWN["Qwen/Qwen2.5-Math-7B"], Layout(processes=4))
    >>> [round(value / GB, 1) for value in (seven.weights, seven.optimizer, seven.gradients, seven.engine)]
    [7.6, 15.2, 7.6, 15.2]
    >>> seventy = KNOWN["meta-llama/Llama-3.1-70B"]
    >>> [round(footprint(seventy, Layout(processes=n)).update / GB) for n in (8, 16, 64)]
    [213, 142, 89]
    """
    count, shards, tokens = model.parameters, layout.shards, layout.micro_batch_tokens
    is_sharded = shards > 1
    # gathered parameters in bfloat16, and gradients of the ends in bfloat16 and, to be reduced, in float32
    gathered = (2 + 2 + 4) * model.ends + 2 * 2 * model.layer if is_sharded else 0
    hidden_states = 4 * tokens * model.hidden * model.layers
    recomputed = tokens * (32 * model.hidden + 8 * model.intermediate)
    passes = -(-layout.step_tokens // (tokens * layout.processes))
    # each pass gathers the parameters in bfloat16, forward and backward, and reduces the gradients in float32
    received = passes * (2 * 2 + 4) * count * (shards - 1) / shards
    between = 4 * count / shards * 2 * (layout.replicas - 1) / layout.replicas * passes
    sampling_weights = layout.engine_bytes * count
    engine = sampling_weights / layout.tensor_parallel
    held = (4 + layout.optimizer_bytes) * count / shards
    return Footprint(
        weights=4 * count / shards,
        optimizer=layout.optimizer_bytes * count / shards,
        gradients=4 * count / shards,
        gathered=gathered,
        activations=hidden_states + recomputed + 2 * 2**28,
        engine=engine,
        sampling=held + (engine if layout.has_engine_beside else 0),
        cache_token=model.cache_token / layout.tensor_parallel,
        start=4 * (count / shards + (max(model.layer, model.ends) if is_sharded else 0)),
        node=_TOKEN_BYTES * layout.step_tokens + 4 * 2**30,
        checkpoint=(4 + layout.optimizer_bytes) * count,
        update_traffic=received + between,
        sync_traffic=sampling_weights * (shards - 1) / shards,
        store=2 * sampling_weights if layout.engines else 0,
        node_traffic=sampling_weights if layout.engines else 0,
    )


def sizes_of(name: str) -> ModelSizes | None:
    """Return the sizes of a model whose configuration is on this machine, or that is in `KNOWN`; else None."""
    if name in KNOWN:
        return KNOWN[name]
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = hub_cached(name) or folder
    try:
        return ModelSizes.of(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, KeyError):
        return None


def estimate(config: TrainConfig) -> str:
    """Return a table of what a run asks for, by the number of its GPUs; a line if the model's sizes are not known."""
    sizes = sizes_of(config.model)
    if sizes is None:
        return f"Memory: unknown, since the configuration of {config.model} is not on this machine."
    rollout, cluster = config.rollout, config.cluster
    on_cpus = cluster.engines > 0 and not cluster.engine_gpus
    layout = Layout(
        processes=1,
        tensor_parallel=max(rollout.tensor_parallel_size, cluster.engine_gpus),
        engines=cluster.engines,
        engine_bytes=4 if rollout.dtype == "float32" or (rollout.dtype == "auto" and on_cpus) else 2,
        optimizer_bytes=STATE_BYTES[config.ppo.optimizer],
        micro_batch_tokens=config.ppo.micro_batch_tokens,
        step_tokens=rollout.num_problems * rollout.num_generations * rollout.max_model_len,
    )
    replicas = config.num_replicas
    counts = (cluster.trainers,) if cluster.trainers else _PROCESSES
    layouts = [replace(layout, processes=n, replicas=replicas) for n in counts if n % replicas == 0]
    billions = f"{sizes.parameters / GB:,.1f} billion parameters"
    engines = ""
    if cluster.engines:
        place = "a process on CPUs" if on_cpus else f"{cluster.engine_gpus} GPUs"
        engines = f" beside {cluster.engines} engines, each with {place},"
    return (
        f"Computed, in GB, for {billions} that are all trained, with --gradient-checkpointing,{engines} by the number "
        f"of the trainer's GPUs:\n{in_words(sizes, layouts)}"
    )


def in_words(model: ModelSizes, layouts: Iterable[Layout]) -> str:
    """Return a table in GB, with a column for each layout."""
    columns = [(layout, footprint(model, layout)) for layout in layouts]
    has_cluster = any(layout.engines for layout, _ in columns)
    rows: list[tuple[str, Callable[[Footprint], float]]] = [
        ("a GPU: shards of parameters and optimizer state", lambda each: each.weights + each.optimizer),
        ("a GPU: shards of gradients", lambda each: each.gradients),
        ("a GPU: gathered parameters and their gradients", lambda each: each.gathered),
        ("a GPU: activations", lambda each: each.activations),
        ("a GPU in the update", lambda each: each.update),
        ("a GPU of an engine: weights", lambda each: each.engine),
        ("a trainer's GPU during sampling, without the cache", lambda each: each.sampling),
        ("a GPU of an engine: cache of a million tokens", lambda each: 1e6 * each.cache_token),
        ("a process at the start, at most", lambda each: each.start),
        ("a node's memory: trajectories, a file of a checkpoint", lambda each: each.node),
        ("a checkpoint, on disk", lambda each: each.checkpoint),
        ("received by a GPU in an update", lambda each: each.update_traffic),
        ("received by a GPU in a weight sync", lambda each: each.sync_traffic),
    ]
    if has_cluster:
        rows += [
            ("received by a node of engines in a weight sync", lambda each: each.node_traffic),
            ("the first node's object store, in a weight sync", lambda each: each.store),
        ]
    heads = ["GB", *(f"{layout.processes} GPUs" if layout.processes > 1 else "1 GPU" for layout, _ in columns)]
    return table(heads, [[name, *(f"{get(each) / GB:,.1f}" for _, each in columns)] for name, get in rows])
