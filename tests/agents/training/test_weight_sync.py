"""The probe detects an engine that does not have the trainer's weights."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from agents_fakes import EngineWithWeights, FakeEngine, tiny_llama, tiny_qwen2, transformers_engine, twin
from engine_contract import CHAT, complete, finish
from transformers import PreTrainedModel

from agents.config.training import LoraConfig
from agents.core.distributed import whole_together
from agents.core.errors import EngineError, EngineFault
from agents.engines.base import Sampling, Weights
from agents.engines.transformers_engine import TransformersEngine
from agents.learning.policy import Policy
from agents.models.lora import add_adapters
from agents.rollout.source import LocalSource
from agents.training import weight_sync
from agents.training.weight_sync import TOLERANCE, WeightSync, probe_prompt, sync_weights, weights_of

V = len(CHAT.tokenizer)
PROMPT = CHAT.encode_feedback("hello: ")


def sync(policy: Policy, engine: Any, version: int = 1, dtype: str = "float32") -> float:
    settings = {"dtype": getattr(torch, dtype), "tolerance": TOLERANCE[dtype]}
    metrics = sync_weights(policy, LocalSource(engine, CHAT), version=version, prompt=PROMPT, **settings)
    return metrics["sampling/probe_difference"]


class Deaf(EngineWithWeights):
    """Silently keeps some of its old weights."""

    deaf_to = ""

    def load_weights(self, version: int, weights: Weights) -> None:
        kept = {n: self.weights[n] if self.deaf_to in n else w for n, w in weights.tensors}
        super().load_weights(version, Weights.of(kept))


def deaf(model: Any, to: str) -> Deaf:
    engine = Deaf(twin(model), CHAT, stop_token_ids={V - 1}, max_num_seqs=4, max_model_len=96)
    engine.deaf_to = to
    return engine


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[list[torch.Tensor]]:
    """The tensors of each collective call that a sync would make if the model were sharded."""
    calls: list[list[torch.Tensor]] = []

    def counted(tensors: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        if tensors:
            calls.append(list(tensors))
        return whole_together(tensors)

    monkeypatch.setattr(weight_sync, "whole_together", counted)
    return calls


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen2], ids=["untied", "tied"])
def test_a_sync_gathers_each_tensor_once_in_the_engines_dtype(
    make: Callable[..., PreTrainedModel], dtype: str, gathered: list[list[torch.Tensor]]
) -> None:
    policy = Policy(make(V, seed=2))
    sync(policy, transformers_engine(make(V).to(getattr(torch, dtype)), CHAT), dtype=dtype)
    (together,) = gathered
    assert {tensor.dtype for tensor in together} == {getattr(torch, dtype)}
    assert len(together) == len(list(policy.model.parameters()))
    assert sum(tensor.numel() for tensor in together) == policy.model.num_parameters()


def test_adapters_are_merged_once_and_gathered_once(gathered: list[list[torch.Tensor]]) -> None:
    policy, plain = Policy(tiny_qwen2(V, seed=2)), tiny_qwen2(V)
    add_adapters(policy.model, LoraConfig(rank=2))
    sync(policy, transformers_engine(twin(plain).bfloat16(), CHAT), dtype="bfloat16")
    factors, merged = gathered
    assert {tensor.dtype for tensor in factors} == {torch.float32}
    assert sum(tensor.numel() for tensor in factors) == policy.model.num_parameters(only_trainable=True)
    assert {tensor.dtype for tensor in merged} == {torch.bfloat16}
    assert sum(tensor.numel() for tensor in merged) == plain.num_parameters()


def test_tensors_are_gathered_in_buckets(gathered: list[list[torch.Tensor]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_sync, "BUCKET_BYTES", 9000)
    model = tiny_qwen2(V)
    read = dict(weights_of(model, torch.bfloat16).tensors)
    assert 2 < len(gathered) < len(read) / 2
    assert all(len(call) == 1 or sum(tensor.nbytes for tensor in call) <= 9000 for call in gathered)
    assert all(torch.equal(tensor.bfloat16(), read[name]) for name, tensor in model.state_dict().items())


def test_no_tensor_is_gathered_for_an_engine_with_another_model(gathered: list[list[torch.Tensor]]) -> None:
    with pytest.raises(EngineError, match="got others"):
        sync(Policy(tiny_qwen2(V + 1)), transformers_engine(tiny_qwen2(V), CHAT))
    assert gathered == []


def test_weights_are_not_sent_again_while_the_engine_holds_them(gathered: list[list[torch.Tensor]]) -> None:
    engine = transformers_engine(tiny_qwen2(V, seed=1), CHAT)
    again = WeightSync(Policy(tiny_qwen2(V, seed=2)), LocalSource(engine, CHAT), CHAT, "float32", prompt_length=20)
    assert again(0) == again(0)
    assert len(gathered) == 1
    engine.has_weights = False  # as after a sleep that frees them
    again(0)
    again(1)
    assert len(gathered) == 3


def test_an_engine_with_the_trainers_weights_passes() -> None:
    engine = transformers_engine(tiny_qwen2(V, seed=1), CHAT)
    assert sync(Policy(tiny_qwen2(V, seed=2)), engine, version=5) < 1e-5
    assert engine.version == 5
    assert not engine.busy
    assert engine._rows == {}
    assert set(complete(engine).policy_versions) == {5}


def test_it_passes_at_another_temperature_and_in_bfloat16() -> None:
    engine = transformers_engine(tiny_qwen2(V).bfloat16(), CHAT)
    policy = Policy(tiny_qwen2(V, seed=2), temperature=0.6, autocast=torch.bfloat16)
    assert 0 < sync(policy, engine, dtype="bfloat16") < 0.1


def test_it_passes_while_requests_of_an_episode_are_kept() -> None:
    engine = transformers_engine(tiny_qwen2(V, seed=1), CHAT, max_num_seqs=2)
    engine.submit(3, PROMPT, Sampling(max_tokens=4))
    finish(engine, 1)
    assert engine._rows == {3: 0}
    assert sync(Policy(tiny_qwen2(V, seed=2)), engine) < 1e-5


@pytest.mark.parametrize("part", ["", "lm_head", "embed_tokens", "layers.1.mlp", "layers.0.self_attn.k_proj"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_an_engine_with_old_weights_in_any_part_is_detected(part: str, dtype: str) -> None:
    engine = deaf(tiny_llama(V, seed=1), part)
    with pytest.raises(
        EngineFault, match=r"^Expect the engine to sample from the trainer's weights \(version 1\), but"
    ):
        sync(Policy(tiny_llama(V, seed=2)), engine, dtype=dtype)


def test_an_engine_that_samples_from_another_version_is_detected() -> None:
    class Late(FakeEngine):
        def load_weights(self, version: int, weights: Weights) -> None:
            pass

    with pytest.raises(EngineFault, match=r"^Expect the engine to sample from weights 1, got tokens of \[0\]\.$"):
        sync(Policy(tiny_qwen2(V)), Late(CHAT))


def test_an_engine_that_reports_nan_is_detected() -> None:
    policy, engine = Policy(tiny_qwen2(V)), transformers_engine(tiny_qwen2(V), CHAT)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(EngineFault, match=r"got nan: the weights of version 1 are broken"):
        sync(policy, engine)


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(EngineError, match="got others"):
        sync(Policy(tiny_qwen2(V + 1)), transformers_engine(tiny_qwen2(V), CHAT))


@pytest.mark.parametrize("length", [1, 30, 500, 4096])
def test_the_probe_is_as_long_as_the_runs_prompts(length: int) -> None:
    prompt = probe_prompt(CHAT, length)
    assert len(prompt) == length
    assert len({tuple(prompt[start : start + 64]) for start in range(0, length, 64)}) > length // 128  # few repeat


class Windowless(TransformersEngine):
    """Attends to all tokens in layers that have a window."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        for layer in self._model.base_model.layers:
            layer.self_attn.sliding_window = None


def test_an_engine_that_is_wrong_for_long_prompts_alone_is_detected() -> None:
    model = tiny_qwen2(V, use_sliding_window=True, sliding_window=40, max_window_layers=0)
    policy, arguments = Policy(model), {"stop_token_ids": (), "max_num_seqs": 4, "max_model_len": 200}
    engine = Windowless(twin(model), CHAT, **arguments)
    WeightSync(policy, LocalSource(engine, CHAT), CHAT, "float32", prompt_length=32)(1)
    with pytest.raises(
        EngineFault, match=r"^Expect the engine to sample from the trainer's weights \(version 2\), but"
    ):
        WeightSync(policy, LocalSource(engine, CHAT), CHAT, "float32", prompt_length=150)(2)
