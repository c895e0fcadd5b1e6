"""Working stand-ins for the trainer's tests: tokenizers and models, and those of `scripted`, made in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from scripted import (  # noqa: F401 - tests have all fakes from here
    CallEnv,
    CallScanner,
    FakeEngine,
    ScannedCallEnv,
    Write,
    episodes,
    logprob_of,
    pool,
    scripted,
    write_at_random,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from agents.core.chat import Chat
from agents.core.types import Batch, Collected, Completion, FinishReason, Trajectory, Turn
from agents.engines.transformers_engine import TransformersEngine

torch.set_num_threads(1)  # on tensors of this size threads cost more than they give

EOS = "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# Tokens that hold the end of a block and more: what follows the fence, a second newline, a word.
WORDS = ("```\nSo", "```python\n", "`\n\n", " `\n\n", "print(1)\n", "yes", "[4]")
# What the tests' texts are made of; few tokens let a random model come upon the words above. Two of the characters
# take several bytes, and so several tokens.
LETTERS = "`\n []<>():.1234abcdefghilnopqrstuvwxySQ∑é"


def tokenizer(
    words: Sequence[str] = WORDS, alphabet: str | None = None, *, template: str | None = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer.

    Args:
        words: Texts that get a token of their own, as do all their beginnings.
        alphabet: Characters that can be encoded; None: all bytes.
        template: Chat template.
    """
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def in_bytes(text: str) -> str:
        return "".join(piece for piece, _ in level.pre_tokenize_str(text))

    letters = sorted(pre_tokenizers.ByteLevel.alphabet()) if alphabet is None else sorted(set(in_bytes(alphabet)))
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    merges: dict[tuple[str, str], None] = {}
    for word in map(in_bytes, words):
        for end in range(1, len(word)):
            merges.setdefault((word[:end], word[end]))
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    backend.pre_tokenizer = level
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(EOS, special=True)])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS)
    made.chat_template = template
    return made


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte."""
    return tokenizer(words=())


def small_chat() -> Chat:
    """A chat over few tokens, some of which hold a boundary and more; prompts are taken as they are."""
    return Chat(tokenizer(alphabet=LETTERS), "raw")


_SIZES: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,  # far from uniform, so that a wrong logit shows
}


def tiny_qwen2(vocab_size: int, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random Qwen2 with tied embeddings, biases and grouped attention."""
    return _made(Qwen2ForCausalLM, Qwen2Config, seed, vocab_size=vocab_size, tie_word_embeddings=True, **changes)


def tiny_llama(vocab_size: int, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random Llama with an output layer of its own and heads wider than the hidden size has room for."""
    return _made(LlamaForCausalLM, LlamaConfig, seed, vocab_size=vocab_size, head_dim=12, **changes)


def tiny_opt(vocab_size: int, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random OPT, whose dropout is a module's as well as a function's."""
    sizes = {"ffn_dim": 48, "max_position_embeddings": 128, "word_embed_proj_dim": 32}
    return _made(OPTForCausalLM, OPTConfig, seed, vocab_size=vocab_size, **(sizes | changes))


def tiny_gpt2(vocab_size: int, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random GPT-2 without dropout: learned positions and transposed weights."""
    plain = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "n_positions": 512}
    return _made(GPT2LMHeadModel, GPT2Config, seed, vocab_size=vocab_size, **(plain | changes))


def tiny_qwen3_moe(vocab_size: int, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random Qwen3-MoE with four experts, two of them for each token."""
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    return _made(Qwen3MoeForCausalLM, Qwen3MoeConfig, seed, vocab_size=vocab_size, **(sizes | changes))


def tiny_mixtral(vocab_size: int, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random Mixtral with four experts, two of them for each token."""
    sizes = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
    return _made(MixtralForCausalLM, MixtralConfig, seed, vocab_size=vocab_size, **(sizes | changes))


def tiny_deepseek(vocab_size: int, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random DeepSeek-V3: latent attention, a dense layer, and eight experts, two of them for each token."""
    sizes = {
        "num_key_value_heads": 4,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 12,
    }
    return _made(DeepseekV3ForCausalLM, DeepseekV3Config, seed, vocab_size=vocab_size, **(sizes | changes))


MODELS: Mapping[str, Callable[..., PreTrainedModel]] = {"qwen2": tiny_qwen2, "llama": tiny_llama}


def _made(model: Any, config: Any, seed: int, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    made: PreTrainedModel = model(config(**(dict(_SIZES) | {"eos_token_id": None, "bos_token_id": None} | changes)))
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return made


def stretched(vocab_size: int, kind: str, *, made_for: int) -> PreTrainedModel:
    """A random Llama whose positions depend on the longest row once that is longer than ``made_for``."""
    rope = {"rope_type": kind, "rope_theta": 100.0, "factor": 4.0}
    if kind == "longrope":
        factors = {"short_factor": [1.0] * 6, "long_factor": [4.0] * 6}
        rope |= {"original_max_position_embeddings": made_for} | factors
    longest = 4 * made_for if kind == "longrope" else made_for
    return tiny_llama(vocab_size, max_position_embeddings=longest, rope_parameters=rope)


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """Another model with the same weights, whose attention can be set by itself."""
    made: PreTrainedModel = type(model)(deepcopy(model.config))
    made.load_state_dict(model.state_dict())
    return made


class EngineWithWeights(TransformersEngine):
    """Remembers its initial weights."""

    def __init__(self, model: PreTrainedModel, chat: Chat, **arguments: Any) -> None:
        self.weights: dict[str, torch.Tensor] = deepcopy(model.state_dict())
        super().__init__(model, chat, **arguments)


def transformers_engine(model: PreTrainedModel, chat: Chat, **arguments: Any) -> TransformersEngine:
    """An engine on a copy of the model, which ends completions at the tokenizer's end of sequence alone."""
    arguments = {"max_num_seqs": 4, "max_model_len": 96} | arguments
    return EngineWithWeights(twin(model), chat, stop_token_ids=chat.stop_token_ids(None), **arguments)


def trajectory(marks: str = "P s s s", **changes: Any) -> Trajectory:
    """A trajectory drawn as a row of marks: P prompt, s sampled, f feedback; token ids count from 1."""
    kinds = marks.split()
    values: dict[str, Any] = {
        "problem_id": "p",
        "group_id": 0,
        "token_ids": tuple(range(1, len(kinds) + 1)),
        "action_mask": tuple(kind == "s" for kind in kinds),
        "logprobs": tuple(-float(n) if kind == "s" else 0.0 for n, kind in enumerate(kinds, 1)),
        "prompt_length": kinds.count("P"),
        "reward": 1.0,
        "reward_valid": True,
        "terminated": True,
        "truncated": False,
        "turns": (Turn(text="text", feedback="", finish_reason="stop", info={}),),
        "boundary_cuts": 0,
        "policy_versions": tuple(0 if kind == "s" else -1 for kind in kinds),
    }
    return Trajectory(**(values | changes))


def random_batch(
    vocab_size: int = 40, *, rows: int = 5, prompt: int = 20, length: int = 34, seed: int = 0, padding: bool = True
) -> Batch:
    """Rows that share a prompt, with feedback among the sampled tokens and, on the right, padding."""
    random = np.random.default_rng(seed)
    token_ids = torch.from_numpy(random.integers(1, vocab_size, (rows, length)))
    token_ids[:, :prompt] = token_ids[:1, :prompt].clone()
    attention = torch.ones(rows, length, dtype=torch.bool)
    if padding:
        ends = torch.from_numpy(random.integers(prompt + 3, length + 1, rows))
        ends[0] = length
        attention = torch.arange(length)[None] < ends[:, None]
    action = attention & torch.from_numpy(random.random((rows, length)) < 0.7)
    action[:, prompt] = True
    action[:, :prompt] = False
    return Batch(
        token_ids=token_ids.masked_fill(~attention, 0),
        attention_mask=attention,
        action_mask=action,
        sampling_logprobs=-torch.from_numpy(random.random((rows, length))).float() * action,
        rewards=torch.from_numpy(random.choice([-1.0, 1.0], rows)).float(),
        group_ids=torch.arange(rows) // 2,
    )


def completion(chat: Chat, token_ids: Sequence[int], reason: FinishReason = "boundary") -> Completion:
    """What an engine reports for these tokens; `stop` adds the end of sequence."""
    decoder = chat.decoder()
    text, ends = "", [0]
    for token_id in token_ids:
        text += decoder.step(token_id)
        ends.append(ends[-1] if decoder.is_inside_character else len(text))
    text += decoder.finish()
    ends = [*ends[1:-1], len(text)] if token_ids else []
    stop = [int(chat.tokenizer.eos_token_id)] if reason == "stop" else []
    ids = (*token_ids, *stop)
    return Completion(
        request_id=0,
        token_ids=ids,
        logprobs=tuple(logprob_of(i) for i in ids),
        text=text,
        text_ends=(*ends, *[len(text) for _ in stop]),
        finish_reason=reason,
        policy_versions=(0,) * len(ids),
    )


def played(collected: Collected | None) -> list[Trajectory]:
    """The trajectories of a collection that was not stopped."""
    assert collected is not None
    return list(collected.trajectories)
