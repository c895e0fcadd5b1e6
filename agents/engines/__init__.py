"""Engines sample token ids from a language model; see :mod:`agents.engines.base` for what all of them do."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.core.errors import EngineError
from agents.core.plugins import is_plugin, load_plugin

if TYPE_CHECKING:
    import torch

    from agents.core.chat import Chat
    from agents.engines.base import Engine


ENGINES: Mapping[str, str] = {
    "transformers": "agents.engines.transformers_engine:TransformersEngine.from_pretrained",
    "vllm": "agents.engines.vllm_engine:VllmEngine.from_pretrained",
}
"""What opens an engine, by its name; the arguments are those of :func:`open_engine` but for name and log."""


def open_engine(
    name: str,
    path: Path,
    chat: Chat,
    *,
    dtype: str,
    device: torch.device,
    max_num_seqs: int,
    max_model_len: int,
    gpu_memory_utilization: float = 0.9,
    log: Callable[[str], Any] = print,
) -> Engine:
    """Load a model into the engine called ``name``.

    Args:
        name: A name in `ENGINES`, the address HOST:PORT of an engine that is served elsewhere
            (`agents.engines.remote`), ``module:function`` or an entry point of the group ``agents.engines`` for an
            engine of your own, or "auto": vllm where it is installed and there is a GPU, else transformers.
        path: The model's folder; a served engine has its own.
        chat: Decodes tokens.
        dtype: Of the weights, "float32" or "bfloat16".
        device: Where the transformers engine computes.
        max_num_seqs: How many requests run at once.
        max_model_len: Tokens that a request may hold.
        gpu_memory_utilization: Share of the GPU's memory that vLLM takes for weights and cache.
        log: Takes a line that says what "auto" came to.

    Raises:
        ConfigError: An engine of your own cannot be imported.
        EngineError: There is no such engine, it is not installed, or it cannot serve the model.
        EngineFault: Nothing answers at the address.
    """
    if name == "auto":
        name = "vllm" if device.type == "cuda" and importlib.util.find_spec("vllm") else "transformers"
        log(f"Sampling with the {name} engine.")
    sizes = {"max_num_seqs": max_num_seqs, "max_model_len": max_model_len}
    place = {"dtype": dtype, "device": device, "gpu_memory_utilization": gpu_memory_utilization}
    if name.rpartition(":")[2].isdecimal():
        from agents.engines.remote import RemoteEngine

        return RemoteEngine(name, dtype=dtype, max_model_len=max_model_len)
    if name not in ENGINES and not is_plugin(name, "engines"):
        raise EngineError(
            f"Expect an engine to be auto, {', '.join(ENGINES)}, HOST:PORT or module:function, got {name!r}."
        )
    opened: Engine = load_plugin("engine", ENGINES.get(name, name), "engines")(path, chat, **sizes, **place)
    return opened
