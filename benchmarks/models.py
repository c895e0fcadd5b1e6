"""Measure which families of models engine and trainer compute as transformers does.

$ python benchmarks/models.py
$ python benchmarks/models.py --families qwen3 mixtral
$ python benchmarks/models.py --page docs/reference/models.md

Each model is tiny and random, and has what sets its family apart: positions, windows, experts. The reference is the
model's own code, row by row, without a cache. A cell says that no log-probability is further from it than 1e-4 nats in
float32, or names the reason why the model is rejected. The last column compares engine and trainer in bfloat16.
`--page` replaces the table of a page.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.config.training import LoraConfig
from agents.core.chat import Chat
from agents.core.errors import AgentsError
from agents.core.tables import table
from agents.core.types import Batch, Completion
from agents.engines.base import Engine, Sampling
from agents.engines.transformers_engine import TransformersEngine
from agents.learning.policy import Policy
from agents.models.lora import add_adapters
from agents.models.support import check_length
from agents.models.tiny import byte_tokenizer
from agents.training.weight_sync import weights_of

TOLERANCE = 1e-4
MARKS = ("<!-- the table of benchmarks/models.py -->\n", "<!-- the end of the table -->\n")
_WINDOW = 32
LENGTH = 150  # tokens of the longest row, over several windows
_PROMPTS = (3, 80, 80)
ROWS = 4
_SIZES = {
    "vocab_size": 259,
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_HEAD = 32  # the smallest head that vLLM computes on a CPU
_HEADS = {"head_dim": _HEAD}
_ALL = {"num_key_value_heads": 4}
_LATENT = _ALL | {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_WINDOWED = {"sliding_window": _WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
BYTES, SPM = "byte-level BPE", "SentencePiece"


def _longrope(made_for: int) -> dict[str, Any]:
    factors = {"short_factor": [1.0] * (_HEAD // 2), "long_factor": [4.0] * (_HEAD // 2)}
    rope = {"rope_type": "longrope", "rope_theta": 100.0} | factors
    original = {"original_max_position_embeddings": made_for}
    return {"rope_parameters": rope | original, "max_position_embeddings": 1024} | original


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, "factor": 4.0} | more}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models, and how to build a tiny one."""

    title: str
    """Of the row."""
    model: str
    """Class in transformers, without `ForCausalLM`."""
    tokenizer: str = BYTES
    """Kind of tokenizer that its models have."""
    positions: str = "rotary"
    """How the model knows positions."""
    window: str = ""
    """Which layers have a sliding window."""
    experts: bool = False
    """Whether it is a mixture of experts."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What its configuration has beside the sizes."""

    def build(self, seed: int = 0) -> transformers.PreTrainedModel:
        """Return a tiny random model, in eval mode."""
        is_whole = self.model.endswith(("Model", "Generation"))
        model = getattr(transformers, self.model if is_whole else f"{self.model}ForCausalLM")
        torch.manual_seed(seed)
        made: transformers.PreTrainedModel = model(model.config_class(**(_SIZES | self.changes)))
        return made.eval()


FAMILIES: Mapping[str, Family] = {
    "qwen2": Family(title="Qwen2, Qwen2.5, Qwen2.5-Math", model="Qwen2"),
    "qwen3": Family(title="Qwen3", model="Qwen3", changes=_HEADS),
    "llama2": Family(title="Llama 2, TinyLlama", model="Llama", tokenizer=SPM, changes=_HEADS | _ALL),
    "llama3": Family(
        title="Llama 3, SmolLM2",
        model="Llama",
        positions="rotary, llama3",
        changes=_HEADS
        | _rope("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    ),
    "yarn": Family(
        title="Qwen2.5 with YaRN",
        model="Qwen2",
        positions="rotary, yarn",
        changes=_rope("yarn", original_max_position_embeddings=64),
    ),
    "dynamic": Family(
        title="Llama, dynamic NTK",
        model="Llama",
        tokenizer=SPM,
        positions="dynamic, up to the original length",
        changes=_rope("dynamic"),
    ),
    "dynamic-beyond": Family(
        title="Llama, dynamic NTK",
        model="Llama",
        tokenizer=SPM,
        positions="dynamic, beyond the original length",
        changes=_rope("dynamic") | {"max_position_embeddings": 64},
    ),
    "smollm3": Family(title="SmolLM3", model="SmolLM3", positions="rotary in some layers"),
    "mistral1": Family(
        title="Mistral v0.1",
        model="Mistral",
        tokenizer=SPM,
        window="all layers",
        changes=_HEADS | {"sliding_window": 32},
    ),
    "mistral3": Family(
        title="Mistral v0.2, v0.3", model="Mistral", tokenizer=SPM, changes=_HEADS | {"sliding_window": None}
    ),
    "gemma1": Family(title="Gemma", model="Gemma", tokenizer=SPM, changes=_HEADS),
    "gemma2": Family(
        title="Gemma 2", model="Gemma2", tokenizer=SPM, window="every second layer", changes=_HEADS | _WINDOWED
    ),
    "gemma3": Family(title="Gemma 3", model="Gemma3", tokenizer=SPM, window="most layers", changes=_HEADS | _WINDOWED),
    "gemma3-images": Family(
        title="Gemma 3 that sees images",
        model="Gemma3ForConditionalGeneration",
        tokenizer=SPM,
        window="most layers",
        changes={
            "text_config": _SIZES | _HEADS | _WINDOWED,
            "vision_config": {"hidden_size": 32, "num_attention_heads": 4, "image_size": 28, "num_hidden_layers": 1},
        },
    ),
    "phi2": Family(title="Phi-1, Phi-1.5, Phi-2", model="Phi", positions="rotary, partly"),
    "phi3": Family(
        title="Phi-3",
        model="Phi3",
        tokenizer=SPM,
        window="all layers",
        changes={"sliding_window": _WINDOW, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    ),
    "phi3-long": Family(
        title="Phi-3 128k",
        model="Phi3",
        tokenizer=SPM,
        positions="longrope, up to the original length",
        changes=_longrope(256),
    ),
    "phi3-beyond": Family(
        title="Phi-3 128k",
        model="Phi3",
        tokenizer=SPM,
        positions="longrope, beyond the original length",
        changes=_longrope(64),
    ),
    "olmo2": Family(title="OLMo 2", model="Olmo2"),
    "glm4": Family(title="GLM-4", model="Glm4", positions="rotary, partly", changes=_HEADS),
    "starcoder2": Family(
        title="StarCoder2", model="Starcoder2", window="all layers", changes={"sliding_window": _WINDOW}
    ),
    "ernie": Family(title="ERNIE 4.5", model="Ernie4_5", tokenizer=SPM),
    "gpt2": Family(title="GPT-2", model="GPT2LMHeadModel", positions="learned", changes={"n_positions": 256}),
    "neox": Family(title="GPT-NeoX, Pythia", model="GPTNeoX", positions="rotary, partly"),
    "opt": Family(title="OPT", model="OPT", positions="learned", changes={"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "qwen2-moe": Family(
        title="Qwen2-MoE",
        model="Qwen2Moe",
        experts=True,
        changes=_EXPERTS | {"shared_expert_intermediate_size": 16},
    ),
    "qwen3-moe": Family(title="Qwen3-MoE", model="Qwen3Moe", experts=True, changes=_EXPERTS | _HEADS),
    "mixtral": Family(
        title="Mixtral", model="Mixtral", tokenizer=SPM, experts=True, changes=_HEADS | {"num_local_experts": 4}
    ),
    "deepseek2": Family(title="DeepSeek-V2 (latent attention)", model="DeepseekV2", experts=True, changes=_LATENT),
    "deepseek3": Family(
        title="DeepSeek-V3, R1 (latent attention)",
        model="DeepseekV3",
        experts=True,
        changes=_LATENT | {"topk_method": "noaux_tc"},  # for vLLM, as in the files
    ),
    "stablelm": Family(title="StableLM", model="StableLm", positions="rotary, partly"),
    "nemotron": Family(title="Nemotron", model="Nemotron", tokenizer=SPM, positions="rotary, partly"),
    "falcon": Family(title="Falcon", model="Falcon"),
    "bloom": Family(title="BLOOM", model="Bloom", positions="ALiBi"),
    "granite": Family(title="Granite", model="Granite", changes={"logits_scaling": 8.0}),
    "cohere": Family(title="Command R", model="Cohere"),
    "gpt-oss": Family(
        title="gpt-oss",
        model="GptOss",
        positions="rotary, yarn",
        window="every second layer",
        experts=True,
        changes=_HEADS
        | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": _WINDOW}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    ),
    "llama4": Family(
        title="Llama 4",
        model="Llama4",
        positions="rotary in some layers",
        window="chunks",
        experts=True,
        changes=_HEADS | {"intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 32},
    ),
    "mamba": Family(title="Mamba", model="Mamba", positions="none"),
    "qwen3-next": Family(
        title="Qwen3-Next",
        model="Qwen3Next",
        positions="rotary, partly",
        experts=True,
        changes=_EXPERTS
        | _HEADS
        | {
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found for a family: the largest difference in nats in float32, or why the model is rejected."""

    family: Family
    """The family."""
    engine: float | str
    """The transformers engine."""
    trainer: float | str
    """The policy, each row by itself."""
    lora: float | str
    """The policy with adapters, to a plain model with these merged."""
    packed: float | str
    """The policy, rows with a common prefix in one sequence."""
    bfloat16: float | None
    """Mean difference in nats of engine and trainer in bfloat16."""


def sample(engine: Engine) -> list[tuple[list[int], Completion]]:
    """Return prompts and what an engine samples for them, three rows of different lengths at once."""
    prompts = [[(7 * place) % 259 for place in range(length)] for length in _PROMPTS]
    for number, prompt in enumerate(prompts):
        engine.submit(number, prompt, Sampling(seed=number, max_tokens=LENGTH - 80 - 10 * number))
    completions: dict[int, Completion] = {}
    while engine.busy:
        completions |= {each.request_id: each for each in engine.poll()}
    return [(prompt, completions[number]) for number, prompt in enumerate(prompts)]


def _open(model: transformers.PreTrainedModel) -> Engine:
    chat = Chat(byte_tokenizer())
    return TransformersEngine(deepcopy(model), chat, stop_token_ids=(), max_num_seqs=ROWS, max_model_len=LENGTH)


def as_batch(sampled: Sequence[tuple[list[int], Completion]]) -> Batch:
    """Return the rows as a batch."""
    rows = [[*prompt, *completion.token_ids] for prompt, completion in sampled]
    ids, there = torch.zeros(2, len(rows), LENGTH, dtype=torch.long)
    logprobs = torch.zeros(len(rows), LENGTH)
    for number, (row, (_, completion)) in enumerate(zip(rows, sampled, strict=True)):
        ids[number, : len(row)] = torch.tensor(row)
        there[number, : len(row)] = 1
        logprobs[number, len(row) - len(completion.logprobs) : len(row)] = torch.tensor(completion.logprobs)
    return Batch(
        token_ids=ids,
        attention_mask=there.bool(),
        action_mask=logprobs != 0,
        sampling_logprobs=logprobs,
        rewards=logprobs[:, 0],
        group_ids=ids[:, 0],
    )


@torch.no_grad()
def plain(model: transformers.PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the log-probabilities of the sampled tokens by the model's own code, row by row."""
    model.set_attn_implementation("eager")
    found = torch.zeros_like(batch.sampling_logprobs)
    rows = [ids[there] for ids, there in zip(batch.token_ids, batch.attention_mask, strict=True)]
    for row, ids in enumerate(rows):
        logprobs = model(input_ids=ids[None], use_cache=False).logits[0].float().log_softmax(-1)
        found[row, 1 : len(ids)] = logprobs[:-1].gather(1, ids[1:, None])[:, 0]
    return found * batch.action_mask


def furthest(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference."""
    return (found - expected).abs().max().item()


def attempt(compute: Callable[[], float]) -> float | str:
    """Return what is computed, or why it is refused."""
    try:
        return compute()
    except AgentsError as error:
        return str(error)


def measure(family: Family) -> Row:
    """Return the row of a family."""
    model = family.build()
    own = [(list(range(1, 41)), _completion(range(50, 140))), (list(range(1, 41)), _completion(range(90, 200)))]
    batch = as_batch(own)

    def policy() -> Policy:
        check_length(model, LENGTH)
        return Policy(deepcopy(model))

    def engine() -> float:
        sampled = as_batch(sample(_open(model)))
        return furthest(sampled.sampling_logprobs, plain(deepcopy(model), sampled))

    def lora() -> float:
        check_length(model, LENGTH)
        adapted = deepcopy(model)
        add_adapters(adapted, LoraConfig(rank=4))
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=0.1)
        merged = deepcopy(model)
        merged.load_state_dict(dict(weights_of(adapted).tensors))
        return furthest(Policy(adapted).evaluate(batch, 10_000).logprobs, plain(merged, batch))

    def rough() -> float:
        sampled = as_batch(sample(_open(deepcopy(model).bfloat16())))
        found = Policy(deepcopy(model), autocast=torch.bfloat16).evaluate(sampled, 10_000).logprobs
        return (found - sampled.sampling_logprobs).abs().sum().item() / int(sampled.action_mask.sum())

    in_bfloat16 = attempt(rough)
    return Row(
        family=family,
        engine=attempt(engine),
        trainer=attempt(lambda: furthest(policy().evaluate(batch, 1).logprobs, plain(deepcopy(model), batch))),
        lora=attempt(lora),
        packed=attempt(lambda: furthest(policy().evaluate(batch, 10_000).logprobs, plain(deepcopy(model), batch))),
        bfloat16=None if isinstance(in_bfloat16, str) else in_bfloat16,
    )


def _completion(token_ids: Sequence[int]) -> Completion:
    count = len(token_ids)
    return Completion(
        request_id=0,
        token_ids=tuple(token_ids),
        logprobs=(-1.0,) * count,
        text="",
        text_ends=(0,) * count,
        finish_reason="length",
        policy_versions=(0,) * count,
    )


class Reasons(list[str]):
    """The reasons below a table, each with its number."""

    def refer(self, reason: str) -> str:
        """Return the cell that refers to a reason."""
        if reason not in self:
            self.append(reason)
        return f"no ({self.index(reason) + 1})"

    def below(self, printed: str) -> str:
        """Return a table with the reasons below it."""
        return "\n".join([printed, "", *(f"{number}. {reason}" for number, reason in enumerate(self, 1))]) + "\n"


def replace_in_page(page: Path, marks: tuple[str, str], printed: str) -> None:
    """Replace what a page has between two marks."""
    before, _, rest = page.read_text().partition(marks[0])
    page.write_text(f"{before}{marks[0]}\n{printed}\n{marks[1]}{rest.partition(marks[1])[2]}")


def page_table(rows: Sequence[Row]) -> str:
    """Return the table and, below it, the reasons."""
    reasons = Reasons()

    def cell(value: float | str) -> str:
        if isinstance(value, str):
            return reasons.refer(value)
        return "right" if value <= TOLERANCE else f"**wrong by {value:.1g}**"

    cells = [
        [
            row.family.title,
            row.family.tokenizer,
            row.family.positions,
            row.family.window or "-",
            "yes" if row.family.experts else "-",
            *(cell(value) for value in (row.engine, row.trainer, row.lora, row.packed)),
            "-" if row.bfloat16 is None else f"{row.bfloat16:.3f}",
        ]
        for row in rows
    ]
    header = [
        "family",
        "tokenizer",
        "positions",
        "window",
        "experts",
        "engine",
        "trainer",
        "LoRA",
        "packed",
        "bfloat16",
    ]
    return reasons.below(table(header, cells))


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    families: tuple[str, ...] = tuple(FAMILIES)
    """Which families."""
    page: Path | None = None
    """Page whose table is replaced."""


def main(config: Config) -> list[Row]:
    """Measure the families, print the table, and return its rows."""
    rows = [measure(FAMILIES[name]) for name in config.families]
    printed = page_table(rows)
    print(printed)
    if config.page is not None:
        replace_in_page(config.page, MARKS, printed)
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Config))
