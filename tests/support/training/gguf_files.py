"""Writes tiny models as GGUF files, as llama.cpp's converter does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

TOKENS = (*map(chr, range(0x21, 0x7F)), *map(chr, range(0xA1, 0xAD)), *map(chr, range(0xAE, 0x100)))
TOKENS = (*TOKENS, *(chr(0x100 + i) for i in range(256 - len(TOKENS))), "<|begin|>", "<|end|>", "<|turn|>")
"""Those of 256 bytes, as byte-level BPE spells them, and three special ones."""
SIZES = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    "tie_word_embeddings": True,
    "bos_token_id": len(TOKENS) - 3,
    "eos_token_id": len(TOKENS) - 2,
    "pad_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ARCHITECTURES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {"tie_word_embeddings": False}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen2moe": ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3moe": ("qwen3_moe", {**EXPERTS, "head_dim": 16, "norm_topk_prob": True}),
}
"""llama.cpp's architectures: the type of model in transformers, and what it has besides the sizes."""


@dataclass
class Content:
    """What a GGUF file will contain."""

    architecture: str
    metadata: dict[str, Any]
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, path: Path, kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32) -> Path:
        """Write the file; matrices are stored as `kind`."""
        writer = gguf.GGUFWriter(path, self.architecture)
        for name, value in self.metadata.items():
            _add(writer, name, value)
        for name, array in self.tensors.items():
            stored = kind if array.ndim > 1 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quantize(array, stored), raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def tiny_content(architecture: str = "llama", **changes: Any) -> tuple[PreTrainedModel, Content]:
    """Return a random model, and what its GGUF file contains.

    Args:
        architecture: One of :data:`ARCHITECTURES`.
        changes: Fields of the configuration.
    """
    model_type, more = ARCHITECTURES[architecture]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SIZES, **more, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2)
    content = Content(architecture, {**_metadata(architecture, config), **vocabulary(TOKENS, (), special=3)})
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            content.tensors.update(_stored(name, tensor, config, architecture))
    return model, content


def vocabulary(tokens: Sequence[str], merges: Sequence[str], *, special: int, pre: str = "gpt-2") -> dict[str, Any]:
    """Return the metadata of a byte-level vocabulary that ends with special tokens: begin, end and end of turn."""
    count = len(tokens)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": [1] * (count - special) + [3] * special,
        "tokenizer.ggml.merges": list(merges) or ["a b"][:0],
        "tokenizer.ggml.bos_token_id": count - 3,
        "tokenizer.ggml.eos_token_id": count - 2,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }


def _metadata(architecture: str, config: Any) -> dict[str, Any]:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    stated = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
        "vocab_size": config.vocab_size,
        "rope.dimension_count": head,
    }
    if architecture.startswith("qwen3"):
        stated |= {"attention.key_length": head, "attention.value_length": head}
    if architecture.endswith("moe"):
        stated |= {
            "expert_count": config.num_experts,
            "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }
    if architecture == "qwen2moe":
        stated["expert_shared_feed_forward_length"] = config.shared_expert_intermediate_size
    return {f"{architecture}.{name}": value for name, value in stated.items()}


def _stored(name: str, tensor: torch.Tensor, config: Any, architecture: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of the file that hold one of the model."""
    array = tensor.float().numpy()
    names = gguf.get_tensor_name_map(
        next(arch for arch, each in gguf.MODEL_ARCH_NAMES.items() if each == architecture), config.num_hidden_layers
    )
    if name.endswith("gate_up_proj"):
        layer = name.split(".")[2]
        gate, up = np.split(array, 2, axis=1)
        yield from ((f"blk.{layer}.ffn_gate_exps.weight", gate), (f"blk.{layer}.ffn_up_exps.weight", up))
        return
    if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:])
        array = halves.swapaxes(1, 2).reshape(array.shape)
    suffix = "" if name.endswith(("weight", "bias")) else ".weight"
    found = names.get_name(name + suffix, try_suffixes=(".weight", ".bias"))
    assert found is not None, name
    yield found, array.squeeze(0) if name.endswith("shared_expert_gate.weight") else array


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(name, value)
        case int():
            writer.add_uint32(name, value)
        case float():
            writer.add_float32(name, value)
        case str():
            writer.add_string(name, value)
        case _ if value:
            writer.add_array(name, value)
