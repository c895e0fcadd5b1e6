"""A model in several processes, of which none holds all of it.

A model begins without weights (`empty_model`) and is sharded; then each process reads its own rows of each tensor from
the files (`read_shards`). `write_model` gathers and writes one file at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from agents.core import distributed
from agents.core.errors import ModelError, one_line
from agents.models.folders import existing
from agents.models.load import load_generation_config
from agents.models.lora import plain_name
from agents.models.names import in_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    Shape = tuple[int, ...]

FILE_BYTES = 4 * 2**30
"""Weights in one file; the process that writes holds them all."""
_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def empty_model(path: Path) -> PreTrainedModel | None:
    """Return the float32 model of a folder with its parameters on the meta device, in eval mode.

    None if :func:`read_shards` cannot read its weights: they are not in safetensors files, or not under the names and
    in the shapes of ``save_pretrained``.

    Raises:
        ModelError: Not a causal language model.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = existing(path)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with init_empty_weights(include_buffers=False):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # transformers raises many classes
        raise ModelError(f"Expect a causal language model in {folder}: {one_line(error)}") from error
    model.tie_weights()
    model.generation_config = load_generation_config(folder) or model.generation_config
    found = tensors_in(folder)
    for name, tensor in model.state_dict().items():
        if name in _ties(model):
            if name in found:  # transformers ties it only if the two are equal
                return None
        elif any(
            found.get(part, (None, None))[1] != shape for part, shape in _parts(model, name, tensor.shape).items()
        ):
            return None
    model.eval()
    return model


@torch.no_grad()
def read_shards(model: PreTrainedModel, path: Path, device: torch.device) -> None:
    """Give the parameters that a model lacks their values; processes do not communicate.

    Args:
        model: From :func:`empty_model`, then sharded by rows; its adapters have their values.
        path: The same folder.
        device: Of the shards.
    """
    files = {name: file for name, (file, _) in tensors_in(path).items()}
    made: dict[nn.Parameter, nn.Parameter] = {}  # a tied one is in several places
    for prefix, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type != "meta":
                continue
            if parameter not in made:
                mine = _read(model, plain_name(f"{prefix}.{name}"), parameter, files, device)
                made[parameter] = nn.Parameter(distributed.placed_like(mine, parameter), parameter.requires_grad)
            setattr(module, name, made[parameter])
        for name, buffer in module.named_buffers(recurse=False):
            if (stored := f"{prefix}.{name}") in files:
                with safe_open(files[stored], "pt") as tensors:
                    buffer.copy_(tensors.get_tensor(stored))


def write_model(
    model: PreTrainedModel, folder: Path, shapes: Mapping[str, Shape], tensors: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Write a model as ``save_pretrained`` does, in files of `FILE_BYTES`.

    A collective call: all processes iterate over the tensors, and the first one writes.

    Args:
        model: The model, which may be sharded.
        folder: An existing folder.
        shapes: Those of its state dict.
        tensors: Its state dict, each tensor in full, in the order of ``shapes``.
    """
    of_files = {name: shape for name, shape in shapes.items() if name not in _ties(model)}
    batches = list(_batches(model, of_files))
    count, places = len(batches), dict[str, str]()
    stored = ((name, tensor) for name, tensor in tensors if name in of_files)
    for number, batch in enumerate(batches, 1):
        file = _FILE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
        mine = {name: tensor.cpu() for name, tensor in islice(stored, len(batch)) if distributed.rank() == 0}
        distributed.succeed_together(partial(_write, model, mine, folder / file), on_first=True)
        del mine  # before the next file's are gathered
        places |= {part: file for name in batch for part in _parts(model, name, of_files[name])}
    for _ in tensors:  # tied ones are gathered with the others
        pass

    def conclude() -> None:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        if count > 1:
            size = sum(math.prod(shape) for shape in of_files.values()) * model.dtype.itemsize
            index = {"metadata": {"total_size": size}, "weight_map": places}
            (folder / _INDEX).write_text(json.dumps(index, indent=1))

    distributed.succeed_together(conclude, on_first=True)


def tensors_in(folder: Path) -> dict[str, tuple[Path, Shape]]:
    """Return file and shape of each tensor that transformers loads from a folder of safetensors files."""
    index = folder / _INDEX
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {_FILE}
    found: dict[str, tuple[Path, Shape]] = {}
    for file in (folder / name for name in sorted(names)):
        if file.exists():
            with safe_open(file, "pt") as tensors:
                found |= {name: (file, tuple(tensors.get_slice(name).get_shape())) for name in tensors.keys()}  # noqa: SIM118
    return found


def _ties(model: PreTrainedModel) -> set[str]:
    """Return the names of what is tied to the input embeddings, which files do not hold."""
    output = model.get_output_embeddings()
    is_tied = output.weight is model.get_input_embeddings().weight
    return {f"{name}.weight" for name, module in model.named_modules() if is_tied and module is output}


def _parts(model: PreTrainedModel, name: str, shape: Shape) -> dict[str, Shape]:
    """Return names and shapes of the tensors that files hold in place of one of the state dict."""
    parts = in_files(model, {name: torch.empty(shape, device="meta")})
    return {part: tuple(each.shape) for part, each in parts.items()}


def _read(
    model: PreTrainedModel, name: str, parameter: torch.Tensor, files: Mapping[str, Path], device: torch.device
) -> torch.Tensor:
    """Return this process's rows of a parameter. A file stays mapped, and counts as memory, only while it is read."""
    rows = distributed.rows_of(parameter)
    if list(_parts(model, name, parameter.shape)) == [name]:
        with safe_open(files[name], "pt") as tensors:
            mine: torch.Tensor = tensors.get_slice(name)[rows.start : rows.stop]
            return mine.to(device, parameter.dtype, copy=True)
    # what lies where in the files, as indices into the parameter
    row = parameter.shape[1:].numel()
    first, last = rows.start * row, rows.stop * row
    flat = torch.empty(last - first, dtype=parameter.dtype)
    indices = torch.arange(parameter.numel(), dtype=torch.int64 if parameter.numel() > 2**31 else torch.int32)
    for part, index in in_files(model, {name: indices.view(parameter.shape)}).items():
        is_mine = (index >= first) & (index < last)
        if is_mine.any():
            with safe_open(files[part], "pt") as tensors:
                flat[index[is_mine] - first] = tensors.get_tensor(part)[is_mine].to(flat.dtype)
    return flat.view(-1, *parameter.shape[1:]).to(device)


def _batches(model: PreTrainedModel, shapes: Mapping[str, Shape]) -> Iterator[list[str]]:
    """Yield the names in the state dict of what is in each file; tensors that are one in a file stay together."""
    batch, size, held = list[str](), 0, set[str]()
    for name, shape in shapes.items():
        parts = set(_parts(model, name, shape))
        needed = math.prod(shape) * model.dtype.itemsize
        if batch and size + needed > FILE_BYTES and not parts & held:
            yield batch
            batch, size, held = [], 0, set()
        batch.append(name)
        size, held = size + needed, held | parts
    yield batch


def _write(model: PreTrainedModel, tensors: dict[str, torch.Tensor], file: Path) -> None:
    parts = {name: tensor.contiguous() for name, tensor in in_files(model, tensors).items()}
    save_file(parts, file, metadata={"format": "pt"})
