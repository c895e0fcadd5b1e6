"""The names that a model's tensors have in its files.

Transformers holds the experts of a layer in one tensor, `experts.gate_up_proj`. Files hold each expert by itself, as
other libraries expect: `experts.0.gate_proj.weight`.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion


def in_files(model: PreTrainedModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors that files hold in place of some of a model's state dict."""
    translated: dict[str, torch.Tensor] = revert_weight_conversion(model, tensors)
    return translated


class FileNames:
    """Translates the state dict of a model, tensor by tensor, into what `save_pretrained` writes.

    Args:
        folder: The model's folder; only its configuration is read.
    """

    def __init__(self, folder: Path) -> None:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            self._model: PreTrainedModel = AutoModelForCausalLM.from_config(config)

    def is_unused(self, name: str) -> bool:
        """Return whether the files may hold a tensor that the model lacks, such as a layer for drafting tokens."""
        return any(re.search(each, name) for each in self._model._keys_to_ignore_on_load_unexpected or ())

    def translate(self, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors that the files hold in place of one tensor of the state dict."""
        return in_files(self._model, {name: tensor})

    def shapes(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of these tensors."""
        placeholder = torch.empty(shape, device="meta")
        return {part: tuple(tensor.shape) for part, tensor in self.translate(name, placeholder).items()}
