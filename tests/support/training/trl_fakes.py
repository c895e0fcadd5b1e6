"""A tiny model for TRL's trainers that generates whole messages at random; each message is one token."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from agents_fakes import tiny_qwen2, tokenizer
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerFast

WARNINGS_OF_TRL = (
    "ignore:You are using 'environment_factory':UserWarning",
    "ignore:`(is_)?gradient_checkpointing(_enable|_disable)?` is deprecated:FutureWarning",
)
OWN_SCALE, MESSAGE_LOGIT = 0.1, 50.0  # scale of the model's own logits, and the logit of its messages


def call(arguments: Any, name: str = "python") -> str:
    """Return a message that calls a tool, in the format of Qwen2.5."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def tool_tokenizer(messages: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Make a byte-level tokenizer with Qwen2.5's chat template and one token for each message."""
    from trl.chat_template_utils import qwen2_5_chat_template  # heavy

    made = tokenizer(words=(), template=qwen2_5_chat_template)
    made.add_tokens([AddedToken(message, normalized=False) for message in messages])
    made.add_special_tokens({"eos_token": "<|im_end|>", "pad_token": "<|pad|>"})
    return made


def tool_model(made: PreTrainedTokenizerFast, messages: Sequence[str] = ()) -> PreTrainedModel:
    """Make a random Qwen2; with `messages`, each of its turns is one of them, with equal probability."""
    small = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}  # prompts have many bytes
    model = tiny_qwen2(len(made), eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id, **small)
    if messages:
        ids = made.convert_tokens_to_ids(list(messages))
        follows = torch.zeros(len(made), len(made))  # (last token, next token)
        follows[made.encode("\n")[-1], ids] = MESSAGE_LOGIT
        follows[ids, made.eos_token_id] = MESSAGE_LOGIT
        original = model.forward

        def forward(input_ids: torch.Tensor, **arguments: Any) -> Any:
            output = original(input_ids=input_ids, **arguments)
            output.logits = OWN_SCALE * output.logits + follows[input_ids][:, -output.logits.shape[1] :]
            return output

        model.forward = forward
    return model


def scripted_model(made: PreTrainedTokenizerFast, scripts: Sequence[Sequence[str]]) -> PreTrainedModel:
    """Make a random Qwen2 that plays a script in each row of a batch; each script begins with another message."""
    model = tool_model(made)
    ids = [made.convert_tokens_to_ids(list(script)) for script in scripts]
    messages = {token for script in ids for token in script}
    script_of = {script[0]: script for script in ids}
    original = model.forward

    def forward(input_ids: torch.Tensor, **arguments: Any) -> Any:
        output = original(input_ids=input_ids, **arguments)
        for row, tokens in enumerate(input_ids.tolist()):
            if tokens[-1] in messages:
                follows = made.eos_token_id
            else:
                written = [token for token in tokens if token in messages]
                script = script_of[written[0]] if written else ids[row % len(ids)]
                follows = script[min(len(written), len(script) - 1)]
            output.logits[row, -1, follows] += MESSAGE_LOGIT
        return output

    model.forward = forward
    return model
