"""The engine for CPUs and small GPUs: continuous batching over a transformers model, one row of cache per episode.

Every forward pass that samples has the same shape, ``[max_num_seqs, 1]``, whoever is running: a row's numbers do not
depend on how many others are. What a row's context has and its cache lacks ("pending") is computed by a pass of its own
if it is long, and otherwise fed through the sampling passes token by token, beside the rows that sample. Between two
turns a request keeps its row; if another one waits for it, what the row holds is laid aside, while there is room.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from agents.engines.base import BROKEN, EngineError, EngineFault, Sampling, Scanner
from agents.engines.request import Request
from agents.models import load_model, with_cache
from agents.types import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from agents.chat import Chat

_OTHER_WEIGHTS = "Expect the weights of the model in use, got others ({}): start the engine with that model."
_PREFILL_TOKENS = 24  # more pending tokens than this are worth a pass of their own
_LENGTH_STEP = 128  # attention reads the cache in multiples of this, so that its shape rarely changes


def _grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend with one query per row without copying keys and values for each head of a group."""
    batch, heads, length, _ = query.shape
    if length > 1:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return result
    grouped = query.view(batch, key.shape[1], heads // key.shape[1], -1)
    out = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=kwargs.get("scaling")
    )
    return out.reshape(batch, 1, heads, -1), None


AttentionInterface.register("cir_grouped", _grouped_attention)


class _RowCache(Cache):
    """Keys and values of ``rows`` sequences, each written at its own positions."""

    def __init__(self, model: PreTrainedModel, rows: int, capacity: int) -> None:
        config = model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (rows, config.num_key_value_heads, capacity, head_dim)
        self.layers = []
        self._make = partial(torch.zeros, shape, dtype=model.dtype, device=model.device)
        self._num_layers = config.num_hidden_layers
        self._store: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._rows = slice(0, rows)
        self._slots = torch.zeros(rows, 1, dtype=torch.long)
        self._length = 0

    def lift(self, row: int, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return a copy of the first ``length`` positions of a row, layer by layer."""
        return [(keys[row, :, :length].clone(), values[row, :, :length].clone()) for keys, values in self._store]

    def put(self, row: int, layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Write what :meth:`lift` returned to the beginning of a row."""
        for stored, lifted in zip(self._store, layers, strict=True):
            for target, source in zip(stored, lifted, strict=True):
                target[row, :, : source.shape[1]] = source

    def free(self) -> None:
        """Give the memory back; the next pass takes it again."""
        self._store = []

    def aim(self, rows: slice, slots: torch.Tensor, length: int) -> None:
        """Let the next pass write its tokens at ``slots [rows, n]`` and read the first ``length`` positions."""
        if not self._store:
            self._store = [(self._make(), self._make()) for _ in range(self._num_layers)]
        self._rows, self._slots, self._length = rows, slots, length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store ``[rows, H, n, D]`` and return all that the pass may attend to."""
        rows = torch.arange(self._rows.start, self._rows.stop, device=self._slots.device)[:, None]
        keys, values = self._store[layer_idx]
        keys[rows, :, self._slots] = key_states.transpose(1, 2)
        values[rows, :, self._slots] = value_states.transpose(1, 2)
        return keys[self._rows, :, : self._length], values[self._rows, :, : self._length]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the positions that the pass reads."""
        return self._length

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of row ``source`` to row ``target``."""
        for layer in self._store:
            for stored in layer:
                stored[target, :, :length] = stored[source, :, :length]


class TransformersEngine:
    """Continuous batching for a causal language model with a plain key-value cache.

    Args:
        model: The engine's own copy, in the dtype to sample in; it is put into evaluation mode.
        chat: Decodes tokens for the scanners.
        stop_token_ids: Any of these ends a completion.
        max_num_seqs: Rows: how many requests run at once.
        max_model_len: Tokens a request may hold; the cache has ``max_num_seqs * max_model_len`` positions, and at most
            as many are laid aside.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        chat: Chat,
        *,
        stop_token_ids: Collection[int],
        max_num_seqs: int = 64,
        max_model_len: int = 1024,
    ) -> None:
        self.max_model_len = max_model_len
        self.version = 0
        self._is_whole = True
        self._model = model.eval().requires_grad_(False)
        self._model.set_attn_implementation("cir_grouped")
        self._chat = chat
        self._stop = frozenset(stop_token_ids)
        capacity = (max_model_len // _LENGTH_STEP + 1) * _LENGTH_STEP
        self._scratch = capacity - 1  # inactive rows write here
        self._cache = _RowCache(model, max_num_seqs, capacity)
        self._cached: list[list[int]] = [[] for _ in range(max_num_seqs)]
        self._rows: dict[int, int] = {}
        self._free = list(range(max_num_seqs))  # a heap: which row is taken depends on no clock
        self._aside: dict[int, tuple[list[int], list[tuple[torch.Tensor, torch.Tensor]]]] = {}  # oldest first
        self._idle: dict[int, None] = {}  # requests that hold a row between two turns, the idlest first
        self._running: dict[int, Request] = {}
        self._queue: dict[int, Request] = {}
        self._random: dict[int, np.random.Generator] = {}

    @classmethod
    def from_pretrained(
        cls, path: Path, chat: Chat, *, dtype: str, device: torch.device, max_num_seqs: int, max_model_len: int
    ) -> TransformersEngine:
        """Load a model of the engine's own, and stop where its makers say that it stops."""
        model = load_model(path, dtype)
        torch.nn.Module.to(model, device)
        return cls(
            model,
            chat,
            stop_token_ids=chat.stop_token_ids(model.generation_config),
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
        )

    def submit(
        self,
        request_id: int,
        token_ids: Sequence[int],
        sampling: Sampling,
        scanner: Scanner | None = None,
        *,
        begun: Completion | None = None,
    ) -> None:
        """Ask for a completion; see :class:`agents.engines.base.Engine`."""
        if not self._is_whole:
            raise EngineError(BROKEN)
        request = Request.begin(
            request_id, token_ids, sampling, scanner, begun, chat=self._chat, max_model_len=self.max_model_len
        )
        if request_id in self._running or request_id in self._queue:
            raise EngineError(f"Expect a request that is not running, got {request_id} again.")
        self._random[request_id] = np.random.default_rng(sampling.seed)
        if request_id in self._rows:
            self._idle.pop(request_id)
            self._start(request)
        else:
            self._queue[request_id] = request

    def release(self, request_id: int) -> None:
        """Free a request's row."""
        for kept in (self._running, self._queue, self._idle, self._random, self._aside):
            kept.pop(request_id, None)
        if request_id in self._rows:
            heappush(self._free, self._rows.pop(request_id))

    def load_weights(self, version: int, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy a state dict into the engine's model and forget every cached key and value."""
        own = self._model.state_dict()
        odd = sorted(set(weights) ^ set(own))
        if odd:
            raise EngineError(_OTHER_WEIGHTS.format(f"{odd[0]} is in one of the two models"))
        self._is_whole = False
        for name, tensor in own.items():
            new = weights[name]
            if new.shape != tensor.shape:
                raise EngineError(_OTHER_WEIGHTS.format(f"{name} of shape {list(new.shape)}, not {list(tensor.shape)}"))
            tensor.copy_(new)
        self._is_whole, self.version = True, version
        self._forget()
        for request in self._running.values():
            self._start(request)

    def sleep(self) -> None:
        """Free the cache; the next pass makes a new one."""
        self._cache.free()
        self._forget()

    def close(self) -> None:
        """Free the cache."""
        self._cache.free()
        self._running.clear()
        self._queue.clear()

    @property
    def busy(self) -> bool:
        """Whether a request runs or waits for a row."""
        return bool(self._running or self._queue)

    @torch.inference_mode()
    def poll(self) -> list[Completion]:
        """Start waiting requests in free rows, then sample one token for every running one.

        Where no row is free, the request whose last turn ended first gives up its own.
        """
        if not self._is_whole and self.busy:
            raise EngineFault(BROKEN)
        while self._queue and (self._free or self._idle):
            request = self._queue.pop(next(iter(self._queue)))
            self._rows[request.request_id] = heappop(self._free) if self._free else self._evict()
            self._start(request)
        if not self._running:
            return []
        logits = self._forward()
        ready = [r for r in self._running.values() if len(self._cached[self._row(r)]) == len(r.context)]
        if not ready:
            return []
        rows = torch.tensor([self._row(r) for r in ready], device=logits.device)
        uniform = [self._random[r.request_id].random() for r in ready]
        token_ids, logprobs = _draw(logits[rows], [r.sampling for r in ready], uniform)
        done = []
        for request, token_id, logprob in zip(ready, token_ids, logprobs, strict=True):
            reason = request.append(token_id, logprob, self.version, self._stop)
            if reason is not None:
                del self._running[request.request_id]
                self._idle[request.request_id] = None
                done.append(request.completion(reason))
        return done

    def _forget(self) -> None:
        self._cached = [[] for _ in self._cached]
        self._aside.clear()

    def _row(self, request: Request) -> int:
        return self._rows[request.request_id]

    def _evict(self) -> int:
        """Take the row of the request that has been idle for longest, and lay aside what is in it."""
        idlest = next(iter(self._idle))
        del self._idle[idlest]
        row = self._rows.pop(idlest)
        if self._cached[row]:
            self._aside[idlest] = self._cached[row], self._cache.lift(row, len(self._cached[row]))
        while sum(len(cached) for cached, _ in self._aside.values()) > len(self._cached) * self.max_model_len:
            del self._aside[next(iter(self._aside))]
        return row

    @torch.inference_mode()
    def _start(self, request: Request) -> None:
        """Fill the row's cache with the context but for its last tokens, which the sampling passes feed."""
        row, context = self._row(request), request.context
        if request.request_id in self._aside:
            self._cached[row], layers = self._aside.pop(request.request_id)
            self._cache.put(row, layers)
        self._running[request.request_id] = request
        wanted = context[:-1]
        shared = [_common_prefix(cached, wanted) for cached in self._cached]
        kept = max(shared)
        if kept > shared[row]:
            self._cache.copy(shared.index(kept), row, kept)
        self._cached[row] = context[:kept]
        if len(context) - 1 - kept > _PREFILL_TOKENS:
            self._prefill(row, context, kept)

    def _prefill(self, row: int, context: list[int], start: int) -> None:
        """Compute the keys and values of all but the last token of ``context``."""
        end = len(context) - 1
        device = self._model.device
        positions = torch.arange(start, end, device=device)[None]
        self._cache.aim(slice(row, row + 1), positions, end)
        mask = torch.ones(end - start, end, dtype=torch.bool, device=device).tril(start)
        self._model.base_model(
            input_ids=torch.tensor([context[start:end]], device=device),
            attention_mask=mask[None, None],
            position_ids=positions,
            **with_cache(self._model.base_model, self._cache),
        )
        self._cached[row] = context[:end]

    def _forward(self) -> torch.Tensor:
        """Feed every running row its next token; return the logits ``[max_num_seqs, V]``."""
        tokens = [0] * len(self._cached)
        positions = [0] * len(self._cached)
        slots = [self._scratch] * len(self._cached)
        for request in self._running.values():
            row = self._row(request)
            position = len(self._cached[row])
            tokens[row], positions[row], slots[row] = request.context[position], position, position
            self._cached[row].append(tokens[row])
        longest = max(positions) + 1
        length = -(-longest // _LENGTH_STEP) * _LENGTH_STEP
        device = self._model.device
        position_ids = torch.tensor(positions, device=device)
        mask = torch.arange(length, device=device)[None] <= position_ids[:, None]
        self._cache.aim(slice(0, len(tokens)), torch.tensor(slots, device=device)[:, None], length)
        hidden = self._model.base_model(
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=mask[:, None, None],
            position_ids=position_ids[:, None],
            **with_cache(self._model.base_model, self._cache),
        ).last_hidden_state
        logits: torch.Tensor = self._model.get_output_embeddings()(hidden[:, 0])
        return logits.float()


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share.

    >>> _common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(i for i in range(size) if one[i] != other[i])


def _draw(
    logits: torch.Tensor, samplings: Sequence[Sampling], uniform: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Draw one token per row of ``logits [R, V]``; return the ids and their log-probabilities.

    The draw inverts the cumulative distribution at the row's number of ``uniform``.
    """
    column = partial(torch.tensor, dtype=torch.float32, device=logits.device)
    temperature = column([s.temperature for s in samplings])
    places = column(uniform).clamp(max=1 - 2**-24)  # below 1 in float32, too
    greedy = temperature == 0
    logprobs = torch.log_softmax(logits / torch.where(greedy, 1.0, temperature)[:, None], dim=-1)
    if any(s.top_p < 1 for s in samplings):
        logprobs = _keep_nucleus(logprobs, column([s.top_p for s in samplings]))
    cumulative = logprobs.exp().cumsum(-1)
    drawn = torch.searchsorted(cumulative, places[:, None] * cumulative[:, -1:], right=True)[:, 0]
    drawn = drawn.clamp(max=logits.shape[-1] - 1)  # among numbers that are none, nothing is found
    drawn = torch.where(greedy, logprobs.argmax(-1), drawn) if bool(greedy.any()) else drawn
    chosen = logprobs.gather(1, drawn[:, None])[:, 0]
    return drawn.tolist(), chosen.tolist()


def _keep_nucleus(logprobs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Renormalise each row over the smallest set of likeliest tokens whose probability reaches ``top_p``."""
    ordered, index = logprobs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    ordered = ordered.masked_fill(before >= top_p[:, None], -torch.inf)
    kept = torch.empty_like(logprobs).scatter_(-1, index, ordered)
    return torch.log_softmax(kept, dim=-1)
