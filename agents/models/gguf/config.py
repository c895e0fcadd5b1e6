"""The configuration of a model in GGUF, from the file's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agents.core.errors import ModelError
from agents.models.gguf.header import GgufHeader

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_EMBEDDING, _OUTPUT = "token_embd.weight", "output.weight"
_ARCHITECTURES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "llama": ("llama", {}),
        "qwen2": ("qwen2", {}),
        "qwen2moe": ("qwen2_moe", {"norm_topk_prob": False}),
        "qwen3": ("qwen3", {}),
        "qwen3moe": ("qwen3_moe", {"norm_topk_prob": True}),
    }
)
"""llama.cpp's architectures: the type of model in transformers, and what llama.cpp's code does without a setting."""
_NEEDED = MappingProxyType(
    {
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    }
)
_OPTIONAL = MappingProxyType({"attention.key_length": "head_dim"})
_EXPERTS = MappingProxyType(
    {
        "expert_count": "num_experts",
        "expert_used_count": "num_experts_per_tok",
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    }
)
_CHECKED = ("vocab_size", "rope.dimension_count", "attention.value_length")
_POSITIONS = (
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
)

_LLAMA3_POSITIONS = MappingProxyType(
    {
        "rope_type": "llama3",
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
)
"""Of all models of Meta; the file has only the factors that follow from them, with which a loaded model is compared."""


def config_of(header: GgufHeader) -> PreTrainedConfig:
    """Return the configuration that a file's metadata describes, after comparing it with the file's tensors.

    Raises:
        ModelError: An architecture or a setting that is not supported, or metadata that contradict the tensors.
    """
    from transformers import AutoConfig

    architecture = header.metadata.get("general.architecture", "")
    if architecture not in _ARCHITECTURES:
        raise ModelError(f"Expect GGUF of the architectures {', '.join(_ARCHITECTURES)}, got {architecture!r}.")
    model_type, fixed = _ARCHITECTURES[architecture]
    prefix = f"{architecture}."
    stated = {name.removeprefix(prefix): value for name, value in header.metadata.items() if name.startswith(prefix)}
    is_mixture = "moe" in architecture
    fields = {**_NEEDED, **_OPTIONAL, **(_EXPERTS if is_mixture else {})}
    for name in sorted(stated.keys() - fields.keys() - {*_CHECKED, *_POSITIONS}):
        if stated[name] != 0:
            raise ModelError(f"Expect metadata that transformers can represent, got `{prefix}{name}` {stated[name]!r}.")
    for name in fields:
        if name not in stated and name not in _OPTIONAL and name != "expert_shared_feed_forward_length":
            raise ModelError(f"Expect the metadata `{prefix}{name}`, found none.")
        if isinstance(stated.get(name), list):
            raise ModelError(f"Expect `{prefix}{name}` to be the same in all layers, got {stated[name]}.")
    _check(header, stated, prefix)
    config: PreTrainedConfig = AutoConfig.for_model(
        model_type,
        **{field: stated[name] for name, field in fields.items() if name in stated},
        **fixed,
        rope_parameters=_positions(header, stated),
        vocab_size=header.shapes[_EMBEDDING][0],
        tie_word_embeddings=_OUTPUT not in header.shapes,
        **{f"{name}_token_id": token_id(header, name) for name in ("bos", "eos", "pad")},
    )
    return config


def token_id(header: GgufHeader, name: str) -> int | None:
    """Return the id of a special token: ``bos``, ``eos``, ``eot``, ``eom``, ``pad`` or ``unk``; None: there is none.

    Raises:
        ModelError: The vocabulary has no such token.
    """
    spelled = {"pad": "padding", "unk": "unknown"}.get(name, name)
    found: int | None = header.metadata.get(f"tokenizer.ggml.{spelled}_token_id")
    count = len(header.metadata.get("tokenizer.ggml.tokens", ()))
    if found is not None and not 0 <= found < count:
        raise ModelError(f"Expect `tokenizer.ggml.{spelled}_token_id` below {count}, got {found}.")
    return found


def _check(header: GgufHeader, stated: Mapping[str, Any], prefix: str) -> None:
    """Compare metadata with tensors; the shapes of the other tensors are compared when they are loaded."""
    if _EMBEDDING not in header.shapes:
        raise ModelError(f"Expect the tensor {_EMBEDDING}, found none.")
    rows, width = header.shapes[_EMBEDDING]
    blocks = {int(name.split(".")[1]) for name in header.shapes if name.startswith("blk.")}
    head = stated.get("attention.key_length") or stated["embedding_length"] // stated["attention.head_count"]
    for name, found, of in (
        ("embedding_length", width, _EMBEDDING),
        ("block_count", len(blocks), "the tensors"),
        ("vocab_size", rows, _EMBEDDING),
        ("rope.dimension_count", head, "an attention head"),
        ("attention.value_length", head, "an attention head"),
    ):
        if stated.get(name, found) != found:
            raise ModelError(f"Expect `{prefix}{name}` {found} as of {of}, got {stated[name]}.")
    tokens = len(header.metadata.get("tokenizer.ggml.tokens", ()))
    if tokens != rows:
        raise ModelError(f"Expect `tokenizer.ggml.tokens` to have a token for each of {rows} rows, got {tokens}.")


def _positions(header: GgufHeader, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of rotary positions."""
    kind = stated.get("rope.scaling.type", "none")
    made: dict[str, Any] = {"rope_type": "default", "rope_theta": stated.get("rope.freq_base", 10_000.0)}
    if header.rope_factors is not None and kind == "none":
        return made | {**_LLAMA3_POSITIONS, "factor": max(header.rope_factors)}
    match kind:
        case "none":
            return made
        case "linear":
            return made | {"rope_type": kind, "factor": stated["rope.scaling.factor"]}
        case "yarn" if "rope.scaling.original_context_length" in stated:
            original = stated["rope.scaling.original_context_length"]
            more = {"factor": stated["rope.scaling.factor"], "original_max_position_embeddings": original}
            return made | {"rope_type": kind, **more}
    raise ModelError(f"Expect `rope.scaling.type` to be none, linear or yarn, got {kind!r}.")
