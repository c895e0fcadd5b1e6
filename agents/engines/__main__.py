"""Serve an engine to a trainer in another process, on this machine or another.

export CIR_ENGINE_KEY=secret                                  on both sides
python -m agents.engines --model M --address 0.0.0.0:5005
python train.py ... --rollout.engine HOST:5005
"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import tyro

from agents.config.shared import Dtype
from agents.core.errors import AgentsError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of an engine server."""

    model: str
    """Folder, GGUF file, hub name, or "tiny": the model in training; the trainer replaces its weights at every step."""
    address: str
    """HOST:PORT to listen on."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """Engine to serve; auto: vllm if it is installed and a GPU is available, else transformers."""
    dtype: Dtype = "auto"
    """dtype of the weights; auto: bfloat16 if the device supports it natively, else float32."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda if available."""
    max_num_seqs: int = 64
    """Maximum number of concurrent requests."""
    max_model_len: int = 512
    """Maximum tokens of an episode, prompt included."""
    vllm_gpu_memory_utilization: float = 0.9
    """Fraction of GPU memory that vLLM reserves for weights and KV cache."""


def main(args: list[str]) -> int:
    """Serve until interrupted.

    Returns:
        Exit code: 1 after an error, 2 for bad input, 130 after Ctrl-C.
    """
    config = tyro.cli(Config, prog="python -m agents.engines", description=__doc__, args=args)
    import torch

    from agents.core.chat import Chat
    from agents.engines import open_engine
    from agents.engines.remote import listen, read_address, read_key, serve
    from agents.models.devices import pick_device, pick_dtype
    from agents.models.find import resolve_model
    from agents.models.load import load_tokenizer

    try:
        address, key = read_address(config.address), read_key()
        path, device = resolve_model(config.model), pick_device(config.device)
        dtype = pick_dtype(config.dtype, device)
        engine = open_engine(
            config.engine,
            path,
            Chat(load_tokenizer(path), "raw"),  # prompts arrive as token ids
            dtype=dtype,
            device=device,
            max_num_seqs=config.max_num_seqs,
            max_model_len=config.max_model_len,
            gpu_memory_utilization=config.vllm_gpu_memory_utilization,
        )
        with closing(engine), listen(*address) as listener:
            print(f"Serving an engine on {config.address}.", flush=True)
            serve(engine, listener, key, dtype=getattr(torch, dtype))
    except (AgentsError, OSError) as error:
        print(f"agents.engines: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
