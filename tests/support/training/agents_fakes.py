"""Working stand-ins for the trainer's tests: tokenizers, models, an engine and an environment, made in milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import torch
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
from agents.core.errors import EngineError
from agents.core.types import Batch, Collected, Completion, EpisodeSpec, FinishReason, Trajectory, Turn
from agents.engines.base import Sampling, Scanner, Weights
from agents.engines.request import Request
from agents.engines.transformers_engine import TransformersEngine
from agents.rollout.envs import EnvPool, ThreadedPool

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


def transformers_engine(model: PreTrainedModel, chat: Chat, **arguments: Any) -> TransformersEngine:
    """An engine on a copy of the model, which ends completions at the tokenizer's end of sequence alone."""
    arguments = {"max_num_seqs": 4, "max_model_len": 96} | arguments
    return TransformersEngine(twin(model), chat, stop_token_ids=chat.stop_token_ids(None), **arguments)


Write = Callable[[int, int, int], str]
"""(request, turn, seed) -> what is written in that turn."""


def write_at_random(request_id: int, turn: int, seed: int) -> str:
    """Letters that depend on the seed alone."""
    return "".join(np.random.default_rng(seed).choice(list("ab `\n∑"), 12))


def scripted(*turns: str) -> Write:
    """The same turns in every episode; the last one never ends."""
    return lambda request_id, turn, seed: turns[min(turn, len(turns) - 1)]


class FakeEngine:
    """Says what it is told to, one token for each request and poll, and ends it with the end of sequence."""

    cache_tokens: int | None = None

    def __init__(
        self, chat: Chat, write: Write = write_at_random, *, max_num_seqs: int = 4, max_model_len: int = 96
    ) -> None:
        self.max_model_len = max_model_len
        self.version = 0
        self.has_weights = True
        self.asleep = False
        self.held: set[int] = set()  # the requests that were not released
        self.contexts: dict[int, list[list[int]]] = {}  # all that was submitted, by request
        self.samplings: list[Sampling] = []
        self._chat, self._write, self._max_num_seqs = chat, write, max_num_seqs
        self._eos = int(chat.tokenizer.eos_token_id)
        self._requests: dict[int, tuple[Request, list[int]]] = {}  # and the tokens to come
        self._turns: dict[int, int] = {}

    def submit(
        self,
        request_id: int,
        token_ids: Sequence[int],
        sampling: Sampling,
        scanner: Scanner | None = None,
        *,
        begun: Completion | None = None,
    ) -> None:
        request = Request.begin(
            request_id, token_ids, sampling, scanner, begun, chat=self._chat, max_model_len=self.max_model_len
        )
        if request_id in self._requests:
            raise EngineError(f"Expect a request that is not running, got {request_id} again.")
        turn = self._turns[request_id] = self._turns.get(request_id, -1) + (begun is None)
        text = self._write(request_id, turn, sampling.seed)
        self.held.add(request_id)
        self.contexts.setdefault(request_id, []).append(list(request.context))
        self.samplings.append(sampling)
        to_come = [*self._chat.encode_feedback(text), self._eos][request.begun :]
        self._requests[request_id] = request, to_come or [self._eos]

    @property
    def busy(self) -> bool:
        return bool(self._requests)

    def poll(self) -> list[Completion]:
        ended = []
        for request_id in list(self._requests)[: self._max_num_seqs]:
            request, to_come = self._requests[request_id]
            token_id = to_come.pop(0)
            reason = request.append(token_id, logprob_of(token_id), self.version, {self._eos})
            if reason is not None:
                del self._requests[request_id]
                ended.append(request.completion(reason))
        return ended

    def release(self, request_id: int) -> None:
        self._requests.pop(request_id, None)
        self.held.discard(request_id)

    def load_weights(self, version: int, weights: Weights) -> None:
        self.version, self.asleep = version, False

    def sleep(self) -> None:
        self.asleep = True

    def close(self) -> None:
        self._requests.clear()


def logprob_of(token_id: int) -> float:
    """What the fake engine reports for a token."""
    return -(token_id + 1) / 8


class CallScanner:
    """Finds the first backtick at the end of a line."""

    def __init__(self) -> None:
        self.text = ""

    def feed(self, piece: str) -> int | None:
        self.text += piece
        at = self.text.find("`\n")
        return None if at < 0 else at + 2


class CallEnv(gymnasium.Env[str, str]):
    """An environment for text that is not CodeMath: a line that ends in a backtick is a call.

    A call keeps the action up to the end of that line and the newlines behind it, and is answered by its number in
    brackets. Everything else is the answer, worth +1 if the last letter written is one of a to m, else -1.

    Args:
        calls: How many calls an episode may make.
        delay_s: Every step takes up to so long.
        fail_at: The step of the episode, from 1, that raises; only for the problem `fail_on`.
        fail_on: See `fail_at`; None: every problem.
    """

    problems = tuple(f"Q{n}: " for n in range(8))

    def __init__(
        self, *, calls: int = 2, delay_s: float = 0.0, fail_at: int | None = None, fail_on: int | None = None
    ) -> None:
        self.action_space = self.observation_space = gymnasium.spaces.Text(10_000)
        self.calls, self.delay_s, self.fail_at, self.fail_on = calls, delay_s, fail_at, fail_on
        self.actions: list[str] = []
        self.closed = False
        self._made = self._budget = self._problem = self._steps = 0
        self._transcript = ""

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        self._problem = int(options.get("problem_index", self.np_random.integers(len(self.problems))))
        self._budget = int(options.get("interaction_budget", self.calls))
        self._made = self._steps = 0
        self._transcript = ""
        return self.problems[self._problem], {"problem_id": str(self._problem)}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        self.actions.append(action)
        time.sleep(self.delay_s * self.np_random.random())
        if self._steps == self.fail_at and self.fail_on in (None, self._problem):
            raise OSError("the environment broke")
        at = action.find("`\n") if self._made < self._budget else -1
        if at >= 0:
            kept = at + 2 + len(action[at + 2 :]) - len(action[at + 2 :].lstrip("\n"))
            self._made += 1
            self._transcript += action[:kept]
            return f"[{self._made}]\n", 0.0, False, False, self._info(kept)
        self._transcript += action
        letters = [letter for letter in self._transcript if letter.isalpha()]
        reward = 1.0 if letters and letters[-1] <= "m" else -1.0
        return "", reward, True, False, self._info(len(action)) | {"answer": "".join(letters[-1:])}

    def close(self) -> None:
        self.closed = True

    def _info(self, kept_chars: int) -> dict[str, Any]:
        return {"problem_id": str(self._problem), "kept_chars": kept_chars, "n_code_blocks": self._made}


class ScannedCallEnv(CallEnv):
    """The same, and it tells the engine where an action ends."""

    def action_scanner(self) -> CallScanner | None:
        return CallScanner() if self._made < self._budget else None


@contextmanager
def pool(make_env: Callable[[], gymnasium.Env[str, str]] = ScannedCallEnv, num_envs: int = 4) -> Iterator[EnvPool]:
    """A pool of environments that is closed at the end."""
    envs = ThreadedPool(make_env, num_envs)
    try:
        yield envs
    finally:
        envs.close()


def episodes(count: int, *, group_size: int = 2, **options: Any) -> list[EpisodeSpec]:
    """Episodes in groups, with sampling streams of their own."""
    return [
        EpisodeSpec(
            group_id=number // group_size,
            env_seed=number // group_size,
            sampling_seed=1000 + number,
            options={"problem_index": (number // group_size) % len(CallEnv.problems)} | options,
        )
        for number in range(count)
    ]


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
