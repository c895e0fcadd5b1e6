"""The engine for CPUs and small GPUs: continuous batching over a transformers model, one cache row per episode.

The result of a request does not depend, bit for bit, on which other requests run:

- A sampling pass has the shape ``[max_num_seqs, 1]``, with one row more if that number is odd, or fewer rows if this
  machine's kernels compute the same bits with that number of rows, which is tested before the first pass.
- The context of a first turn is prefilled in chunks, each in a pass of a fixed length, and only whole chunks are copied
  from other rows, or all of the same context. Several rows share a pass if that computes the same bits, which is
  tested, too.

Context tokens that are not cached yet ("pending") are prefilled in a pass of their own if there are many, and otherwise
fed through the sampling passes token by token. Between two turns a request keeps its row. If another request needs the
row, its content is moved aside while memory allows.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from agents.core.errors import EngineError, EngineFault, ModelError, one_line
from agents.core.types import Completion
from agents.engines import packed_linear
from agents.engines.base import BROKEN, Sampling, Scanner, Weights
from agents.engines.request import Request
from agents.engines.row_cache import GROUPED_ATTENTION, RowCache, with_cache
from agents.engines.threads import one_thread
from agents.models.load import load_model
from agents.models.support import check_length, plain_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from agents.core.chat import Chat

_OTHER_WEIGHTS = "Expect the weights of the model in use, got others ({}): start the engine with that model."
_PREFILL_TOKENS = 24  # more pending tokens than this are prefilled in a pass of their own
_CHUNK = 64  # tokens of a row in a prefill pass over the context of a first turn
_TOGETHER = (4, 2)  # rows of a prefill pass, if it computes the same bits as each alone
_FEWEST_ROWS = 2  # kernels take an odd row by itself, and sum it in another order
_ROUNDING = {torch.bfloat16: 0.3, torch.float16: 0.03}  # nats, of one token; else 1e-3
_LENGTH_STEP = 32  # attention reads the cache in multiples of this, so that shapes rarely change
_CHECK_LENGTH = 128  # positions that the checks of a model and its kernels may take
_DRAWN = 2**20  # logits that a CPU draws from at once: its cache holds them, and the C library keeps their memory
_CANDIDATES = 4096  # among these a nucleus is looked for before all tokens are sorted

_Chunk = tuple[int, list[int], int]  # a row, its context, and where the chunk ends


class TransformersEngine:
    """Continuous batching for a causal language model; implements :class:`agents.engines.base.Engine`.

    Args:
        model: The engine's own copy, in the dtype to sample in; it is switched to eval mode.
        chat: Decodes tokens for the scanners.
        stop_token_ids: Each of these ends a completion.
        max_num_seqs: Cache rows, that is, the maximum number of concurrent requests.
        max_model_len: Maximum tokens per request. The cache has about ``max_num_seqs * max_model_len`` positions, and
            at most as many are kept aside for waiting requests.

    Raises:
        ConfigError: The model's positions do not allow ``max_model_len`` tokens.
        ModelError: The engine would compute other logits than the model itself.
    """

    cache_tokens: int | None = None

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
        self.has_weights = True
        check_length(model, max_model_len)
        self._model = model.eval().requires_grad_(False)
        self._chat = chat
        self._stop = frozenset(stop_token_ids)
        capacity = _rounded_up(max_model_len + 1, _LENGTH_STEP)
        self._scratch = capacity - 1  # inactive rows write here
        self._cache = RowCache(_rounded_up(max_num_seqs, _FEWEST_ROWS), capacity)
        self._sizes: list[int] = []  # allowed numbers of rows in a sampling pass, ascending
        self._together: list[int] = []  # allowed numbers of rows in a prefill pass, descending
        self._cached: list[list[int]] = [[] for _ in range(max_num_seqs)]
        self._prefilled = [0] * max_num_seqs  # leading tokens of each row that were prefilled for a first turn
        self._rows: dict[int, int] = {}
        self._free = list(range(max_num_seqs))  # a heap, so that the choice of a row is deterministic
        self._aside: dict[int, tuple[list[int], int, list[tuple[torch.Tensor, torch.Tensor]]]] = {}  # oldest first
        self._idle: dict[int, None] = {}  # requests that hold a row between two turns, longest idle first
        self._running: dict[int, Request] = {}
        self._queue: dict[int, Request] = {}
        self._random: dict[int, np.random.Generator] = {}
        self._first_turns: set[int] = set()  # requests in their first turn
        plain = plain_logits(model)
        self._packed = packed_linear.pack(model)
        self._threads = one_thread if packed_linear.packs_all(model) else nullcontext
        self._check(*plain)

    @classmethod
    def from_pretrained(
        cls,
        path: Path,
        chat: Chat,
        *,
        dtype: str,
        device: torch.device,
        max_num_seqs: int,
        max_model_len: int,
        **_: Any,
    ) -> TransformersEngine:
        """Load a model from a folder; its generation config gives further stop tokens."""
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
        """Request a completion; see :meth:`agents.engines.base.Engine.submit`."""
        if not self.has_weights:
            raise EngineError(BROKEN)
        request = Request.begin(
            request_id, token_ids, sampling, scanner, begun, chat=self._chat, max_model_len=self.max_model_len
        )
        if request_id in self._running or request_id in self._queue:
            raise EngineError(f"Expect a request that is not running, got {request_id} again.")
        if request_id not in self._random:
            self._first_turns.add(request_id)
        else:
            self._first_turns.discard(request_id)
        self._random[request_id] = np.random.default_rng(sampling.seed)
        if request_id in self._rows:
            self._idle.pop(request_id)
            self._start([request])
        else:
            self._queue[request_id] = request

    def release(self, request_id: int) -> None:
        """Discard a request and free its row."""
        for kept in (self._running, self._queue, self._idle, self._random, self._aside):
            kept.pop(request_id, None)
        self._first_turns.discard(request_id)
        if request_id in self._rows:
            heappush(self._free, self._rows.pop(request_id))

    def load_weights(self, version: int, weights: Weights) -> None:
        """Copy weights into the engine's model and drop all cached keys and values."""
        self.has_weights = False
        own = self._model.state_dict()
        odd = sorted(weights.shapes.keys() ^ own.keys())
        if odd:
            raise EngineError(_OTHER_WEIGHTS.format(f"{odd[0]} is in one of the two models"))
        for name, shape in weights.shapes.items():
            if shape != own[name].shape:
                raise EngineError(_OTHER_WEIGHTS.format(f"{name} of shape {list(shape)}, not {list(own[name].shape)}"))
        for name, tensor in weights.tensors:
            if own[name].is_meta:
                self._packed[name].pack(tensor)
            else:
                own[name].copy_(tensor)
        for layer in self._packed.values():
            if not layer.weight.is_meta:
                layer.pack(layer.weight)
        self.has_weights, self.version = True, version
        self._forget()
        self._start(self._running.values())

    def sleep(self) -> None:
        """Free the cache; the next pass allocates a new one."""
        self._cache.free()
        self._forget()

    def close(self) -> None:
        """Free the cache."""
        self._cache.free()
        self._running.clear()
        self._queue.clear()

    @property
    def busy(self) -> bool:
        """Whether a request is running or waiting for a row."""
        return bool(self._running or self._queue)

    @torch.inference_mode()
    def poll(self) -> list[Completion]:
        """Start waiting requests in free rows, then sample one token for every request without pending tokens.

        If no row is free, the request that has been idle longest gives up its row.
        """
        if not self.has_weights and self.busy:
            raise EngineFault(BROKEN)
        if self._queue and not self._sizes:
            self._sizes, self._together = self._equal_sizes(), self._equal_together()
        begun = []
        while self._queue and (self._free or self._idle):
            request = self._queue.pop(next(iter(self._queue)))
            row = heappop(self._free) if self._free else self._evict()
            self._rows[request.request_id] = row
            self._cached[row] = self._cached[row][: self._prefilled[row]]
            begun.append(request)
        self._start(begun)
        if not self._running:
            return []
        logits = self._forward()
        ready = [r for r in self._running.values() if len(self._cached[self._row(r)]) == len(r.context)]
        if not ready:
            return []
        done = []
        for request, token_id, logprob in self._sample(logits, ready):
            reason = request.append(token_id, logprob, self.version, self._stop)
            if reason is not None:
                del self._running[request.request_id]
                self._idle[request.request_id] = None
                done.append(request.completion(reason))
        return done

    @torch.inference_mode()
    def _check(self, ids: torch.Tensor, expected: torch.Tensor) -> None:
        """Reject a model whose logits in this engine are not its own."""
        name, context = type(self._model).__name__, ids.tolist()
        self._model.set_attn_implementation(GROUPED_ATTENTION)
        whole, self._cache = self._cache, RowCache(_FEWEST_ROWS, _CHECK_LENGTH)
        try:
            self._prefill([0], [context], 0, [len(context) - 1], len(context) - 1)
            found = self._pass([context[-1], 0], [len(context) - 1, 0], [len(context) - 1, 0])[0]
        except Exception as error:
            raise ModelError(f"Expect a model for the engine transformers, got {name}: {one_line(error)}") from error
        self._cache = whole
        self._forget()
        difference = (found.log_softmax(-1) - expected[-1].log_softmax(-1))[expected[-1].argmax()].abs()
        if not difference <= _ROUNDING.get(self._model.dtype, 1e-3):
            raise ModelError(
                f"Expect a model for the engine transformers, got {name}, whose log-probabilities it would change by "
                f"{difference:.2g} nats."
            )

    def _forget(self) -> None:
        self._cached = [[] for _ in self._cached]
        self._prefilled = [0] * len(self._cached)
        self._aside.clear()

    def _row(self, request: Request) -> int:
        return self._rows[request.request_id]

    def _evict(self) -> int:
        """Return the row of the request that has been idle longest; its content is moved aside."""
        idlest = next(iter(self._idle))
        del self._idle[idlest]
        row = self._rows.pop(idlest)
        if self._cached[row]:
            layers = self._cache.lift(row, len(self._cached[row]))
            self._aside[idlest] = self._cached[row], self._prefilled[row], layers
        while sum(len(cached) for cached, *_ in self._aside.values()) > len(self._cached) * self.max_model_len:
            del self._aside[next(iter(self._aside))]
        return row

    @torch.inference_mode()
    def _start(self, requests: Collection[Request]) -> None:
        """Prefill rows with their contexts, except for the last tokens, which the sampling passes feed."""
        for request in requests:
            row = self._row(request)
            if request.request_id in self._aside:
                self._cached[row], self._prefilled[row], layers = self._aside.pop(request.request_id)
                self._cache.put(row, layers)
            self._running[request.request_id] = request
        waiting = list(requests)
        while waiting:
            waiting = self._prefill_next(waiting)

    def _prefill_next(self, requests: Sequence[Request]) -> list[Request]:
        """Prefill the next chunk of each context, or all of a later turn's; return the requests that need another one.

        A chunk that several contexts have in common is computed for the first of them, and then copied.
        """
        due: dict[tuple[int, int], list[_Chunk]] = {}
        computed: set[tuple[int, ...]] = set()
        waiting = []
        for request in requests:
            row, context, end = self._row(request), request.context, len(request.context) - 1
            kept, source = self._longest(row, context[:end])
            is_first = request.request_id in self._first_turns
            stop = min(kept + _CHUNK, end) if is_first else end
            is_due, ids = stop - kept > _PREFILL_TOKENS, tuple(context[:stop])
            if is_due and is_first and ids in computed:
                waiting.append(request)
                continue
            self._take_over(row, source, context[:kept])
            if is_due and is_first:
                computed.add(ids)
                due.setdefault((kept, _rounded_up(stop, _LENGTH_STEP)), []).append((row, context, stop))
                if stop < end:
                    waiting.append(request)
            elif is_due:
                self._prefill([row], [context], kept, [stop], stop - kept)
        for (start, _), alike in due.items():
            for part in self._parts(alike):
                rows, contexts, ends = zip(*part, strict=True)
                self._prefill([*rows], contexts, start, ends, _CHUNK)
                for row, _, stop in part:
                    self._prefilled[row] = stop
        return waiting

    def _parts(self, chunks: Sequence[_Chunk]) -> Iterator[Sequence[_Chunk]]:
        """Split chunks into as many as share a prefill pass."""
        while chunks:
            size = next((size for size in self._together if size <= len(chunks)), 1)
            yield chunks[:size]
            chunks = chunks[size:]

    def _longest(self, row: int, wanted: list[int]) -> tuple[int, int]:
        """Return the length of the longest prefix of a context that a row can take over, and the row that has it."""
        first: list[int] = []
        for cached, count in zip(self._cached, self._prefilled, strict=True):
            same = _common_prefix(cached[:count], wanted)
            first.append(same if same == count == len(wanted) else same // _CHUNK * _CHUNK)
        has_own = len(self._cached[row]) > self._prefilled[row]
        own = _common_prefix(self._cached[row], wanted) if has_own else first[row]
        longest = max(first)
        return (longest, first.index(longest)) if longest > own else (own, row)

    def _take_over(self, row: int, source: int, prefix: list[int]) -> None:
        """Keep a prefix in a row, or copy it from another one."""
        if source != row:
            self._cache.copy(source, row, len(prefix))
            self._prefilled[row] = len(prefix)
        elif len(prefix) < self._prefilled[row]:
            self._prefilled[row] = len(prefix) // _CHUNK * _CHUNK
        self._cached[row] = prefix

    def _prefill(
        self, rows: list[int], contexts: Sequence[list[int]], start: int, ends: Sequence[int], width: int
    ) -> None:
        """Compute the keys and values of each row's tokens from ``start`` to its end, in a pass of ``width`` tokens."""
        tokens, positions, slots = [], [], []
        for context, end in zip(contexts, ends, strict=True):
            count = width - (end - start)
            tokens.append([*context[start:end], *[0] * count])
            positions.append([*range(start, end), *[end - 1] * count])
            slots.append([*range(start, end), *[self._scratch] * count])
        self._run(rows, tokens, positions, slots)
        for row, context, end in zip(rows, contexts, ends, strict=True):
            self._cached[row] = context[:end]

    def _forward(self) -> torch.Tensor:
        """Feed every running row its next token; return the logits ``[rows, V]`` of the first rows."""
        size = self._gather()
        tokens, positions, slots = [0] * size, [0] * size, [self._scratch] * size
        for request in self._running.values():
            row = self._row(request)
            position = len(self._cached[row])
            tokens[row], positions[row], slots[row] = request.context[position], position, position
            self._cached[row].append(tokens[row])
        return self._pass(tokens, positions, slots)

    def _sample(self, logits: torch.Tensor, requests: Sequence[Request]) -> Iterator[tuple[Request, int, float]]:
        """Draw a token for each request, with its log-probability."""
        device = logits.device
        count = max(1, _DRAWN // logits.shape[-1]) if device.type == "cpu" else len(requests)
        for start in range(0, len(requests), count):
            part = requests[start : start + count]
            rows = torch.tensor([self._row(request) for request in part], device=device)
            uniform = [self._random[request.request_id].random() for request in part]
            yield from zip(part, *_draw(logits[rows], [r.sampling for r in part], uniform), strict=True)

    def _gather(self) -> int:
        """Move the running requests to the first rows; return how many rows the next pass has."""
        size = next(size for size in self._sizes if size >= len(self._running))
        rows = {self._row(request) for request in self._running.values()}
        inner = (row for row in range(size) if row not in rows)
        for outer in sorted(row for row in rows if row >= size):
            self._swap(outer, next(inner))
        return size

    def _swap(self, row: int, other: int) -> None:
        """Swap two rows, content and owners."""
        self._cache.swap(row, other, max(len(self._cached[row]), len(self._cached[other])))
        self._cached[row], self._cached[other] = self._cached[other], self._cached[row]
        self._prefilled[row], self._prefilled[other] = self._prefilled[other], self._prefilled[row]
        moved = {row: other, other: row}
        self._rows = {request_id: moved.get(held, held) for request_id, held in self._rows.items()}
        self._free = [moved.get(free, free) for free in self._free]
        heapify(self._free)

    @torch.inference_mode()
    def _equal_sizes(self) -> list[int]:
        """Return the numbers of rows with which a pass computes the same bits as with all rows, the full number last.

        Kernels may sum in another order for another number of rows; float32 attention on several threads does. The
        cache must be empty; it is left filled with noise, the same in all rows.
        """
        count, draw = self._cache.size, random.Random(0)
        token = draw.randrange(self._model.config.get_text_config().vocab_size)
        slot = min(_CHECK_LENGTH, self.max_model_len) - 1

        def logits(size: int) -> torch.Tensor:
            return self._pass([token] * size, [slot] * size, [slot] * size)

        logits(count)
        self._cache.fill(_CHECK_LENGTH)
        every, step = logits(count)[0], max(_FEWEST_ROWS, -(-count // 8))
        return [size for size in range(step, count, step) if bool((logits(size) == every).all())] + [count]

    @torch.inference_mode()
    def _equal_together(self) -> list[int]:
        """Return the numbers of rows with which a prefill pass computes the same bits as for each alone, descending.

        The cache must hold noise.
        """
        draw, end = random.Random(0), min(_CHECK_LENGTH, self.max_model_len)
        vocab_size = self._model.config.get_text_config().vocab_size
        rows = list(range(min(max(_TOGETHER), len(self._cached))))
        contexts = [[draw.randrange(vocab_size) for _ in range(end)] for _ in rows]
        start = max(0, end - _CHUNK)

        def written(size: int) -> list[torch.Tensor]:
            return [each for row in rows[:size] for layer in self._cache.lift(row, end) for each in layer]

        for row in rows:
            self._prefill([row], [contexts[row]], start, [end], _CHUNK)
        alone, equal = written(len(rows)), []
        for size in (size for size in _TOGETHER if size <= len(rows)):
            self._prefill(rows[:size], contexts[:size], start, [end] * size, _CHUNK)
            if all(map(torch.equal, written(size), alone)):
                equal.append(size)
        self._forget()
        return equal

    def _pass(self, tokens: list[int], positions: list[int], slots: list[int]) -> torch.Tensor:
        """Run one token of each of the first rows, cached at ``slots``; return the logits ``[rows, V]``."""
        columns = ([[each] for each in numbers] for numbers in (tokens, positions, slots))
        hidden = self._run(slice(0, len(tokens)), *columns)
        logits: torch.Tensor = self._model.get_output_embeddings()(hidden[:, 0])
        return logits.float()

    def _run(
        self, rows: slice | list[int], tokens: list[list[int]], positions: list[list[int]], slots: list[list[int]]
    ) -> torch.Tensor:
        """Run some tokens of each row, cached at ``slots``; return the last hidden states ``[rows, n, H]``."""
        length, device = _rounded_up(1 + max(map(max, positions)), _LENGTH_STEP), self._model.device
        position_ids = torch.tensor(positions, device=device)
        mask = torch.arange(length, device=device) <= position_ids[..., None]
        self._cache.aim(rows, torch.tensor(slots, device=device), length)
        with self._threads():
            hidden: torch.Tensor = self._model.base_model(
                input_ids=torch.tensor(tokens, device=device),
                attention_mask=mask[:, None],
                position_ids=position_ids,
                **with_cache(self._model.base_model, self._cache),
            ).last_hidden_state
        return hidden


def _rounded_up(count: int, step: int) -> int:
    """Return the next multiple of ``step``.

    >>> _rounded_up(33, 32)
    64
    """
    return -(-count // step) * step


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
    """Sample one token per row by inverting the cumulative distribution.

    Args:
        logits: ``[R, V]``.
        samplings: Sampling parameters of each row.
        uniform: A uniform random number in [0, 1) for each row.

    Returns:
        Token ids and their log-probabilities.
    """
    column = partial(torch.tensor, dtype=torch.float32, device=logits.device)
    temperature = column([s.temperature for s in samplings])
    places = column(uniform).clamp(max=1 - 2**-24)  # stays below 1 in float32
    greedy = temperature == 0
    logprobs = torch.log_softmax(logits / torch.where(greedy, 1.0, temperature)[:, None], dim=-1)
    logprobs = _filtered(logprobs, samplings)
    cumulative = torch.softmax(logprobs, dim=-1).cumsum(-1)  # exp would take long where it underflows
    drawn = torch.searchsorted(cumulative, places[:, None] * cumulative[:, -1:], right=True)[:, 0]
    drawn = drawn.clamp(max=logits.shape[-1] - 1)  # NaNs yield V
    drawn = torch.where(greedy, logprobs.argmax(-1), drawn) if bool(greedy.any()) else drawn
    chosen = logprobs.gather(1, drawn[:, None])[:, 0]
    return drawn.tolist(), chosen.tolist()


def _filtered(logprobs: torch.Tensor, samplings: Sequence[Sampling]) -> torch.Tensor:
    """Renormalize each row over the tokens that its filters keep, in the order of vLLM; other rows stay as they are."""
    for keep, values in (
        (_keep_probable, {row: s.min_p for row, s in enumerate(samplings) if s.min_p > 0}),
        (_keep_likeliest, {row: s.top_k for row, s in enumerate(samplings) if s.top_k > 0}),
        (_keep_nucleus, {row: s.top_p for row, s in enumerate(samplings) if s.top_p < 1}),
    ):
        if values:
            rows = torch.tensor([*values], device=logprobs.device)
            logprobs = logprobs.index_copy(0, rows, keep(logprobs[rows], [*values.values()]))
    return logprobs


def _keep_probable(logprobs: torch.Tensor, min_p: Sequence[float]) -> torch.Tensor:
    """Renormalize each row over the tokens with at least ``min_p`` of the likeliest one's probability."""
    return _keep_from(logprobs, logprobs.amax(-1) + logprobs.new_tensor(min_p).log())


def _keep_likeliest(logprobs: torch.Tensor, top_k: Sequence[int]) -> torch.Tensor:
    """Renormalize each row over its ``top_k`` likeliest tokens, and those that tie with the last of them."""
    count = torch.tensor(top_k, device=logprobs.device).clamp(max=logprobs.shape[-1])
    return _keep_from(logprobs, logprobs.topk(int(count.max())).values.gather(1, count[:, None] - 1)[:, 0])


def _keep_nucleus(logprobs: torch.Tensor, top_p: Sequence[float]) -> torch.Tensor:
    """Renormalize each row over the smallest set of likeliest tokens with a probability of at least ``top_p``.

    Those that tie with the last of them stay, too.
    """
    share = logprobs.new_tensor(top_p)
    bound, is_found = _end_of_nucleus(logprobs.topk(min(_CANDIDATES, logprobs.shape[-1])).values, share)
    wide = ~is_found
    bound[wide], _ = _end_of_nucleus(logprobs[wide].sort(-1, descending=True).values, share[wide])
    return _keep_from(logprobs, bound)


def _keep_from(logprobs: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    return torch.log_softmax(logprobs.masked_fill(logprobs < bound[:, None], -torch.inf), dim=-1)


def _end_of_nucleus(ordered: torch.Tensor, top_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the last log-probability of each row's nucleus, and whether the nucleus ends among those given."""
    probabilities = ordered.exp()
    is_beyond = probabilities.cumsum(-1) - probabilities >= top_p[:, None]
    return ordered.masked_fill(is_beyond, torch.inf).amin(-1), is_beyond[:, -1]
