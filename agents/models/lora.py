"""Low-rank adapters through peft (LoRA, arXiv 2106.09685): small matrices are trained, the weights stay frozen."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import torch

from agents.core.distributed import succeed_together, whole
from agents.core.errors import ConfigError, ModelError, one_line

if TYPE_CHECKING:
    from pathlib import Path

    from peft import PeftConfig
    from transformers import PreTrainedModel

    from agents.config.training import LoraConfig

ADAPTER = "default"
"""Peft's name for a model's first adapter."""
MISSING = 'Expect the library peft for `lora.rank`: pip install -e ".[lora]".'


def add_adapters(model: PreTrainedModel, config: LoraConfig) -> None:
    """Add an adapter to every linear layer except the output layer, and freeze all other weights.

    A new adapter leaves the model's output unchanged: one of its two matrices is 0. The other is drawn on the CPU, from
    torch's default generator, also where the model's own weights are still on the meta device.

    Raises:
        ConfigError: The library peft is not installed.
        ModelError: Peft cannot adapt the model.
    """
    try:
        import peft
    except ImportError:
        raise ConfigError(MISSING) from None
    with warnings.catch_warnings():
        # peft sets rank and alpha of fused experts, then warns that no module has their names; and it warns of what
        # it does for the transposed weights of GPT-2
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False", UserWarning)
        try:
            peft.inject_adapter_in_model(_peft_config(config), model)
        except (ValueError, RuntimeError) as error:
            name = type(model).__name__
            raise ModelError(f"Expect a model that peft can adapt, got {name}: {one_line(error)}.") from error
    for layer in adapted_layers(model).values():
        _draw(layer)


def adapted_layers(model: PreTrainedModel) -> dict[str, Any]:
    """Return the layers that have an adapter, by the name that their weight has without it."""
    return {
        plain_name(f"{name}.{getattr(layer, 'parameter_name', 'weight')}"): layer
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A")
    }


def plain_name(name: str) -> str:
    """Return the name that a tensor has without adapters, which wrap each adapted layer.

    >>> plain_name("mlp.experts.base_layer.base_layer.down_proj")
    'mlp.experts.down_proj'
    """
    return re.sub(r"(\.base_layer)+\.", ".", name)


def _draw(layer: Any) -> None:
    device = layer.lora_A[ADAPTER].weight.device
    for half in (layer.lora_A, layer.lora_B):
        half.to_empty(device=torch.device("cpu"))
    layer.reset_lora_parameters(ADAPTER, init_lora_weights=True)
    if device.type != "meta":
        for half in (layer.lora_A, layer.lora_B):
            half.to(device)


def save_adapters(model: PreTrainedModel, config: LoraConfig, folder: Path) -> None:
    """Save only the adapters, in peft's layout. A collective call: all processes take part, the first one writes."""
    import peft
    from safetensors.torch import save_file

    state = peft.get_peft_model_state_dict(model)
    tensors = {f"base_model.model.{name}": whole(tensor).cpu().contiguous() for name, tensor in state.items()}

    def write() -> None:
        _peft_config(config).save_pretrained(str(folder))
        save_file(tensors, folder / "adapter_model.safetensors")

    succeed_together(write, on_first=True)


def _peft_config(config: LoraConfig) -> PeftConfig:
    import peft

    return peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules="all-linear", task_type=peft.TaskType.CAUSAL_LM
    )
