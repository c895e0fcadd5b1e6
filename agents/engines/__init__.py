"""Inference engines: token ids in, sampled token ids out. The interface is :class:`agents.engines.base.Engine`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.core.errors import EngineError

if TYPE_CHECKING:
    import torch

    from agents.core.chat import Chat
    from agents.engines.base import Engine


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
    """Load a model into an engine.

    Args:
        name: "transformers", "vllm", the address HOST:PORT of a served engine (`agents.engines.remote`), or "auto":
            vllm if it is installed and a GPU is available, else transformers.
        path: Model folder; ignored by a served engine, which has loaded its own.
        chat: Decodes tokens.
        dtype: Data type of the weights, "float32" or "bfloat16".
        device: Device of the transformers engine; the others choose their own.
        max_num_seqs: Maximum number of concurrent requests.
        max_model_len: Maximum tokens per request, prompt included.
        gpu_memory_utilization: Fraction of GPU memory that vLLM reserves for weights and KV cache, in (0, 1].
        log: Receives one line that names the engine chosen by "auto".

    Raises:
        EngineError: Unknown engine, missing library, or a model that the engine cannot serve.
        EngineFault: No engine answers at the address.
    """
    if name == "auto":
        name = "vllm" if device.type == "cuda" and importlib.util.find_spec("vllm") else "transformers"
        log(f"Sampling with the {name} engine.")
    if name == "vllm":
        from agents.engines.vllm_engine import VllmEngine

        return VllmEngine.from_pretrained(
            path,
            chat,
            dtype=dtype,
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
            gpu_memory_utilization=gpu_memory_utilization,
        )
    if name == "transformers":
        from agents.engines.transformers_engine import TransformersEngine

        return TransformersEngine.from_pretrained(
            path, chat, dtype=dtype, device=device, max_num_seqs=max_num_seqs, max_model_len=max_model_len
        )
    if ":" not in name:
        raise EngineError(f'Expect an engine to be "auto", "transformers", "vllm" or HOST:PORT, got {name!r}.')
    from agents.engines.remote import RemoteEngine

    return RemoteEngine(name, dtype=dtype, max_model_len=max_model_len)
