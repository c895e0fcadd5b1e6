"""The vLLM engine hands weights over under the names of the model's files; vLLM itself is a stub here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from agents_fakes import tiny_deepseek, tiny_llama, tiny_mixtral, tiny_qwen2, tiny_qwen3_moe
from engine_contract import CHAT
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from agents.core.errors import EngineError
from agents.engines import vllm_engine
from agents.engines.base import Weights
from agents.engines.vllm_engine import VllmEngine
from agents.training.weight_sync import weights_of

FAMILIES = {
    "qwen2": tiny_qwen2,
    "llama": tiny_llama,
    "qwen3_moe": tiny_qwen3_moe,
    "mixtral": tiny_mixtral,
    "deepseek_v3": tiny_deepseek,
}
V = len(CHAT.tokenizer)

every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)


class StubLlm:
    """Keeps the weights that vLLM's loader would get."""

    def __init__(self, folder: Path) -> None:
        self.model_config = SimpleNamespace(model=str(folder))
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(enable_sleep_mode=False),
            scheduler_config=SimpleNamespace(async_scheduling=False),
        )
        self.loaded: dict[str, torch.Tensor] = {}

    def collective_rpc(self, method: Any, kwargs: dict[str, Iterator[tuple[str, torch.Tensor]]] | None = None) -> None:
        if method == "reload_weights" and kwargs is not None:
            self.loaded = {name: tensor.clone() for name, tensor in kwargs["weights_iterator"]}

    def reset_prefix_cache(self, *, reset_running_requests: bool) -> None:
        pass


@pytest.fixture
def engine_on(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], tuple[VllmEngine, StubLlm]]:
    monkeypatch.setattr(vllm_engine, "_import_vllm", SimpleNamespace)

    def make(folder: Path) -> tuple[VllmEngine, StubLlm]:
        llm = StubLlm(folder)
        return VllmEngine(llm, CHAT, stop_token_ids=(), max_model_len=96), llm

    return make


@every_family
def test_vllm_gets_what_a_saved_checkpoint_holds(
    make: Callable[..., PreTrainedModel], engine_on: Callable[..., tuple[VllmEngine, StubLlm]], tmp_path: Path
) -> None:
    make(V).save_pretrained(tmp_path / "first")
    trained = make(V, seed=1)
    trained.save_pretrained(tmp_path / "trained")
    engine, llm = engine_on(tmp_path / "first")
    engine.load_weights(3, weights_of(trained))
    expected = load_file(tmp_path / "trained" / "model.safetensors")
    assert llm.loaded.keys() == expected.keys()
    assert all(torch.equal(llm.loaded[name], tensor) for name, tensor in expected.items())
    assert engine.version == 3


def test_layers_of_the_files_that_the_model_lacks_are_ignored(
    engine_on: Callable[..., tuple[VllmEngine, StubLlm]], tmp_path: Path
) -> None:
    model = tiny_deepseek(V)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"model.layers.61.eh_proj.weight": torch.zeros(2, 2)}, file)
    engine, llm = engine_on(tmp_path)
    engine.load_weights(1, Weights.of(model.state_dict()))
    assert "model.layers.61.eh_proj.weight" not in llm.loaded


def test_experts_of_another_size_are_refused(
    engine_on: Callable[..., tuple[VllmEngine, StubLlm]], tmp_path: Path
) -> None:
    tiny_qwen3_moe(V).save_pretrained(tmp_path)
    engine, llm = engine_on(tmp_path)
    with pytest.raises(EngineError, match=r"^Expect the weights of the model in use, got others: .*experts\.0\."):
        engine.load_weights(1, Weights.of(tiny_qwen3_moe(V, moe_intermediate_size=8).state_dict()))
    assert llm.loaded == {}
