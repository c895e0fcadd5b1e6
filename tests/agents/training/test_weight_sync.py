"""The probe detects an engine that does not have the trainer's weights."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from agents_fakes import FakeEngine, tiny_llama, tiny_qwen2, transformers_engine, twin
from engine_contract import CHAT, complete, finish

from agents.core.errors import EngineError, EngineFault
from agents.engines.base import Sampling
from agents.engines.transformers_engine import TransformersEngine
from agents.learning.policy import Policy
from agents.training.weight_sync import TOLERANCE, WeightSync, probe_prompt, sync_weights

V = len(CHAT.tokenizer)
PROMPT = CHAT.encode_feedback("hello: ")
Weights = Mapping[str, torch.Tensor]


def sync(policy: Policy, engine: Any, version: int = 1, dtype: str = "float32") -> float:
    metrics = sync_weights(policy, engine, version=version, prompt=PROMPT, tolerance=TOLERANCE[dtype])
    return metrics["sampling/probe_difference"]


class Deaf(TransformersEngine):
    """Silently keeps some of its old weights."""

    deaf_to = ""

    def load_weights(self, version: int, weights: Weights) -> None:
        own = self._model.state_dict()
        super().load_weights(version, {n: own[n] if self.deaf_to in n else w for n, w in weights.items()})


def deaf(model: Any, to: str) -> Deaf:
    engine = Deaf(twin(model), CHAT, stop_token_ids={V - 1}, max_num_seqs=4, max_model_len=96)
    engine.deaf_to = to
    return engine


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
    WeightSync(policy, engine, CHAT, "float32", prompt_length=32)(1)
    with pytest.raises(
        EngineFault, match=r"^Expect the engine to sample from the trainer's weights \(version 2\), but"
    ):
        WeightSync(policy, engine, CHAT, "float32", prompt_length=150)(2)
