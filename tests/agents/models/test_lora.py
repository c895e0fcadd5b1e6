"""Only the adapters are trained, and exported weights are those of a plain model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from agents_fakes import random_batch, tiny_gpt2, tiny_mixtral, tiny_qwen2, tiny_qwen3_moe, twin
from peft import PeftModel
from transformers import PreTrainedModel

from agents.config.training import LoraConfig, PPOConfig
from agents.core.types import Advantages
from agents.learning.policy import Policy
from agents.learning.ppo import PPO
from agents.models.lora import add_adapters, save_adapters
from agents.training.weight_sync import weights_of

V = 40


FAMILIES = {"qwen2": tiny_qwen2, "qwen3_moe": tiny_qwen3_moe, "mixtral": tiny_mixtral, "gpt2": tiny_gpt2}

every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
Make = Callable[..., PreTrainedModel]


def trained(config: LoraConfig, make: Make = tiny_qwen2) -> tuple[Policy, dict[str, torch.Tensor]]:
    """A policy whose adapters took two steps, and its initial weights."""
    model = make(V)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_adapters(model, config)
    policy, batch = Policy(model), random_batch(V)
    acts = batch.action_mask.float()
    for seed in range(2):
        old = policy.evaluate(batch, 100)
        aims = Advantages(advantages=acts, returns=acts)
        agent = PPO(policy, PPOConfig(learning_rate=1e-2))
        agent.update(batch, old, aims, agent.minibatches(len(batch), torch.Generator().manual_seed(seed)))
    return policy, before


def test_a_new_adapter_changes_nothing() -> None:
    model, batch = tiny_qwen2(V), random_batch(V)
    expected = Policy(twin(model))(batch).logprobs
    add_adapters(model, LoraConfig(rank=4))
    assert torch.equal(Policy(model)(batch).logprobs, expected)


def test_only_adapters_are_trained() -> None:
    policy, before = trained(LoraConfig(rank=4))
    after = policy.model.state_dict()
    for name, tensor in before.items():
        stored = after.get(
            name, after.get(name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias"))
        )
        assert stored is not None
        assert torch.equal(stored, tensor)
    assert sum(p.numel() for group in policy.parameter_groups() for p in group) < sum(
        t.numel() for t in before.values()
    )


@every_family
def test_exported_weights_give_a_plain_model_with_the_same_output(make: Make) -> None:
    policy, before = trained(LoraConfig(rank=4, alpha=8), make)
    plain = make(V)
    weights = dict(weights_of(policy.model).tensors)
    assert set(weights) == set(before)
    plain.load_state_dict(weights)
    batch = random_batch(V)
    said = policy(batch).logprobs
    assert torch.allclose(Policy(plain)(batch).logprobs, said, atol=1e-5)
    assert not torch.allclose(Policy(make(V))(batch).logprobs, said, atol=1e-2)


@every_family
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # peft asks for it
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys")  # peft's, about the experts' ranks
def test_peft_reads_what_is_written(make: Make, tmp_path: Path) -> None:
    config = LoraConfig(rank=4, alpha=8)
    policy, _ = trained(config, make)
    save_adapters(policy.model, config, tmp_path)
    loaded = PeftModel.from_pretrained(make(V), tmp_path).merge_and_unload()
    weights = dict(weights_of(policy.model).tensors)
    for name, tensor in loaded.state_dict().items():
        assert torch.allclose(tensor, weights[name], atol=1e-6), name


@pytest.mark.parametrize(("name", "value"), [("rank", -1), ("alpha", 0)])
def test_bad_adapter_settings_are_rejected(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"lora.{name}"):
        LoraConfig(**{name: value})
