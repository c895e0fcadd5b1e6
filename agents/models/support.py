"""Rejects models that trainer or engine would compute wrongly, each in one line with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from agents.core.errors import ModelError, expect, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedConfig, PreTrainedModel

CHECK_TOKENS = 32
"""Tokens of the row with which a model is tried."""
CHANGE_SCORES = ("softcap", "s_aux", "position_bias")
"""Arguments of an attention function with which a model modifies attention scores."""
_NOTED = "agents_noted"
_CHANGE_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
_LEARNED_POSITIONS = ("wpe", "embed_positions", "position_embeddings")
_STRETCHED = ("dynamic", "longrope")


@torch.no_grad()
def plain_logits(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a row of token ids ``[n]`` and its logits ``[n, V]`` by the model's own code.

    Its attention is eager afterwards: the caller replaces it.

    Raises:
        ModelError: The attention cannot be replaced, or tokens meet elsewhere than in it; or the logits are not those
            of the output layer.
    """
    name, config = type(model).__name__, model.config.get_text_config()
    changed = next((each for each in _CHANGE_LOGITS if getattr(config, each, None) not in (None, 1)), None)
    if changed is not None:
        raise ModelError(f"Expect a model whose output layer gives the logits, got {name} with `{changed}`.")
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        raise ModelError(f"Expect layers that attend to all previous tokens or to a window, got chunks in {name}.")
    if model.base_model is model:
        raise ModelError(f"Expect a decoder below the output layer, found none in {name}.")
    ids = torch.arange(CHECK_TOKENS, device=model.device) % config.vocab_size
    model.eval()
    try:
        calls = attention_calls(model)
    except Exception as error:
        raise ModelError(f"Expect a model that computes logits of token ids, got {name}: {one_line(error)}") from error
    if not calls:
        raise ModelError(f"Expect a model whose attention transformers can replace, got {name}.")
    odd = next((each for each in CHANGE_SCORES if each in set.union(*calls)), None)
    if odd is not None:
        raise ModelError(f"Expect attention with unmodified scores, got `{odd}` in {name}.")
    if len(calls) < config.num_hidden_layers:
        raise ModelError(
            f"Expect a model that mixes tokens only in standard attention, got {name}, "
            f"of whose {config.num_hidden_layers} layers {len(calls)} have it."
        )
    model.set_attn_implementation("eager")
    return ids, model(input_ids=ids[None], use_cache=False).logits[0].float()


@torch.no_grad()
def attention_calls(model: PreTrainedModel, **arguments: Any) -> list[set[str]]:
    """Return, for each layer that calls the attention function that is set, the names of the arguments that it gives.

    Its attention is another one afterwards: the caller replaces it.

    Args:
        model: The model, which computes two tokens.
        arguments: Passed to the decoder, for its layers.
    """
    calls: list[set[str]] = []

    def note(*args: Any, **more: Any) -> Any:
        calls.append({name for name, value in more.items() if value is not None})
        return sdpa_attention_forward(*args, **more)

    AttentionInterface.register(_NOTED, note)
    try:
        model.set_attn_implementation(_NOTED)
    except ValueError:
        return []
    model.base_model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False, **arguments)
    return calls


def check_length(model: PreTrainedModel, max_model_len: int) -> None:
    """Reject rows that are longer than the model's positions allow.

    Raises:
        ConfigError: Longer rows have no position embedding, or would change what shorter rows beside them give.
    """
    limit = longest_row(model)
    if limit is not None:
        expect(max_model_len <= limit[0], "max_model_len", f"of at most {limit[0]} for {limit[1]}", max_model_len)


def longest_row(model: PreTrainedModel) -> tuple[int, str] | None:
    """Return the number of tokens a row may have, and what limits it; None if nothing does."""
    config = model.config.get_text_config()
    for rope in _ropes(config):
        kind = rope.get("rope_type")
        if kind in _STRETCHED:
            made_for = config.max_position_embeddings
            length = rope.get("original_max_position_embeddings", made_for) if kind == "longrope" else made_for
            return int(length), f"`{kind}` positions, which depend on the longest row beyond that"
    learned = any(name.rpartition(".")[2] in _LEARNED_POSITIONS for name, _ in model.named_modules())
    return (int(config.max_position_embeddings), "the model's learned positions") if learned else None


def _ropes(config: PreTrainedConfig) -> Iterator[dict[str, Any]]:
    """Yield the parameters of rotary positions: one set, or one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    yield from [each for each in parameters.values() if isinstance(each, dict)] or [parameters]
