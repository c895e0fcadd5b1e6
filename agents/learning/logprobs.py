"""Log-probabilities of chosen tokens from hidden states, without materializing all logits at once.

The logits of one token are as many numbers as the vocabulary has tokens, some 150,000, where a hidden state has a few
thousand. They are computed for a few tokens at a time, in the forward pass and again in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch

_LOGITS_BYTES = {"cpu": 2**26, "cuda": 2**28}


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    chosen: torch.Tensor,
    *,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each chosen token, and the entropy of its distribution.

    Logits are computed in the dtype of ``hidden``, everything else in float32, or in float64 if ``hidden`` is float64.

    Args:
        hidden: ``[n, H]`` hidden states, differentiable.
        weight: ``[V, H]`` weight of the output layer, differentiable.
        bias: ``[V]`` bias of the output layer, or None.
        chosen: ``[n]`` token ids.
        temperature: Divides the logits, above 0.

    Returns:
        Log-probabilities ``[n]`` and entropies ``[n]``, in nats, both differentiable.

    >>> logprobs, entropy = token_logprobs(torch.zeros(2, 3), torch.ones(4, 3), None, torch.tensor([0, 3]))
    >>> [round(value, 4) for value in (*logprobs.tolist(), *entropy.tolist())]
    [-1.3863, -1.3863, 1.3863, 1.3863]
    """
    return _TokenLogprobs.apply(hidden, weight, bias, chosen, temperature)  # type: ignore[no-untyped-call, no-any-return]


def _chunks(hidden: torch.Tensor, weight: torch.Tensor) -> list[slice]:
    size = max(1, _LOGITS_BYTES[hidden.device.type] // (4 * len(weight)))
    return [slice(start, start + size) for start in range(0, len(hidden), size)]


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float) -> torch.Tensor:
    logits = hidden @ weight.T
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if bias is not None:
        logits += bias
    return logits if temperature == 1 else logits.div_(temperature)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd calls it by position
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        chosen: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logprobs, entropy, normalizer = (hidden.new_empty(len(hidden), dtype=dtype) for _ in range(3))
        cast = weight.to(hidden.dtype)
        for part in _chunks(hidden, weight):
            logits = _logits(hidden[part], cast, bias, temperature)
            normalizer[part] = logits.logsumexp(1)
            logprobs[part] = logits.gather(1, chosen[part, None])[:, 0] - normalizer[part]
            probabilities = (logits - normalizer[part, None]).exp_()
            entropy[part] = normalizer[part] - torch.linalg.vecdot(probabilities, logits)
        ctx.save_for_backward(hidden, weight, bias, chosen, normalizer, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(
        ctx: Any, of_logprobs: torch.Tensor | None, of_entropy: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, chosen, normalizer, entropy = ctx.saved_tensors
        if of_logprobs is None:
            of_logprobs = torch.zeros_like(normalizer)
        of_hidden = torch.empty_like(hidden)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        cast = weight.to(hidden.dtype)
        for part in _chunks(hidden, weight):
            log_p = _logits(hidden[part], cast, bias, ctx.temperature).sub_(normalizer[part, None])
            of_logits = log_p.exp()
            pull = of_logprobs[part, None]
            if of_entropy is not None:  # the gradient of the entropy H is -p (log p + H)
                pull = log_p.add_(entropy[part, None]).mul_(of_entropy[part, None]).add_(pull)
            of_logits.mul_(pull).neg_().scatter_add_(1, chosen[part, None], of_logprobs[part, None])
            of_logits.div_(ctx.temperature)
            if of_bias is not None:
                of_bias += of_logits.sum(0)
            of_logits = of_logits.to(hidden.dtype)
            of_hidden[part] = of_logits @ cast
            if of_weight is not None:
                of_weight += of_logits.T @ hidden[part]
        return of_hidden, of_weight, of_bias, None, None
