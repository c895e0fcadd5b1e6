"""Models that trainer or engine would compute wrongly are rejected when they are loaded, each with its reason."""

from typing import Any

import pytest
import torch
import transformers
from agents_fakes import stretched, tiny_qwen2
from transformers import PreTrainedModel

from agents.core.errors import ConfigError, ModelError
from agents.models.support import check_length, longest_row, plain_logits

V = 40
SIZES = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}


def tiny(model: str, config: str, **changes: Any) -> PreTrainedModel:
    made: PreTrainedModel = getattr(transformers, model)(getattr(transformers, config)(**(SIZES | changes)))
    return made


@pytest.mark.parametrize(
    ("model", "config", "reason"),
    [
        (
            "Llama4ForCausalLM",
            "Llama4TextConfig",
            r"^Expect layers that attend to all previous tokens or to a window, got chunks in Llama4ForCausalLM\.$",
        ),
        (
            "FalconForCausalLM",
            "FalconConfig",
            r"^Expect a model whose attention transformers can replace, got FalconForCausalLM\.$",
        ),
        (
            "MambaForCausalLM",
            "MambaConfig",
            r"^Expect a model whose attention transformers can replace, got MambaForCausalLM\.$",
        ),
        (
            "Gemma2ForCausalLM",
            "Gemma2Config",
            r"^Expect a model whose output layer gives the logits, got Gemma2ForCausalLM with `final_logit",
        ),
    ],
)
def test_the_reason_for_a_refusal_is_the_true_one(model: str, config: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        plain_logits(tiny(model, config))


def test_the_logits_are_those_of_the_model_itself() -> None:
    model = tiny_qwen2(V, use_sliding_window=True, sliding_window=8, max_window_layers=0).train()
    ids, logits = plain_logits(model)
    assert torch.allclose(logits, model(input_ids=ids[None]).logits[0], atol=1e-5)
    assert not model.training


def test_only_some_positions_limit_the_length_of_a_row() -> None:
    assert longest_row(tiny_qwen2(V)) is None
    assert longest_row(stretched(V, "longrope", made_for=50)) == (
        50,
        "`longrope` positions, which depend on the longest row beyond that",
    )
    assert longest_row(tiny("GPT2LMHeadModel", "GPT2Config")) == (64, "the model's learned positions")
    assert longest_row(tiny("OPTForCausalLM", "OPTConfig", word_embed_proj_dim=32)) == (
        64,
        "the model's learned positions",
    )


def test_longer_rows_are_rejected() -> None:
    model = tiny("GPT2LMHeadModel", "GPT2Config")
    check_length(model, 64)
    with pytest.raises(
        ConfigError, match=r"^Expect `max_model_len` of at most 64 for the model's learned positions, got 65\.$"
    ):
        check_length(model, 65)
