"""A language model as a policy: log-probabilities and values of the tokens of a batch.

Only this module shifts by one token: what the model computes at position ``t - 1`` is stored at index ``t``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.modules.dropout import _DropoutNd
from transformers.modeling_layers import GradientCheckpointingLayer

from agents.core.distributed import add_up, size, wait
from agents.core.errors import ModelError, expect
from agents.core.types import Batch, PolicyOutput, upload
from agents.learning.batching import deal, micro_batches
from agents.learning.packing import ATTENTION, SHARED_TOKENS, Packed, pack
from agents.models.sharded import read_shards
from agents.models.support import attention_calls, longest_row, plain_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOGITS_BYTES = {"cpu": 2**25, "cuda": 2**28}  # of the logits that are in memory at once; glibc reuses up to 2**25
_ROUNDING = {None: 1e-4, torch.bfloat16: 0.3}  # relative error of logits, by the dtype of autocast


class Policy(nn.Module):
    """A causal language model with an optional value head.

    The rows of a batch are packed into one sequence without padding. Prefixes that rows share (the instruction, a
    group's problem) are computed once, with the same gradient as if each row were computed alone: see `packing`.

    Args:
        model: The language model, in the dtype to train in. On the meta device it is sharded first (`shard`), then
            gets its weights, and then needs :meth:`check`.
        temperature: The sampling temperature: log-probabilities are those of ``logits / temperature``.
        value_head: Add a linear value head on the last hidden state, initialised to 0.
        critic: A separate language model for the value head; None: it reads the policy's hidden states.
        autocast: dtype of the matrix products, such as ``torch.bfloat16``; None: the parameters' own.
        gradient_checkpointing: Recompute activations in the backward pass.
        entropy_gradient: Compute the entropy with a gradient, for an entropy bonus.
        compile_layers: Compile the layers' feed-forward parts for sequences of any length.

    Attributes:
        autocast: As given.

    Raises:
        ModelError: The model cannot be trained, see :meth:`check`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        temperature: float = 1.0,
        value_head: bool = False,
        critic: PreTrainedModel | None = None,
        autocast: torch.dtype | None = None,
        gradient_checkpointing: bool = False,
        entropy_gradient: bool = False,
        compile_layers: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.critic = critic
        if critic is not None and critic.get_output_embeddings().weight is not critic.get_input_embeddings().weight:
            critic.get_output_embeddings().requires_grad_(False)  # its logits are never computed
        for each in self.models():
            _switch_off_noise(each)
            if gradient_checkpointing:
                # transformers 5.2x renamed it, and warns about the old name
                enable = getattr(each, "activation_checkpointing_enable", None) or each.gradient_checkpointing_enable
                enable({"use_reentrant": False})
        self._gradient_checkpointing = gradient_checkpointing
        self._longest = longest_row(model)
        self.temperature = temperature
        self.value_head = nn.Linear(model.config.get_text_config().hidden_size, 1) if value_head else None
        if self.value_head is not None:
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        self.autocast: torch.dtype | None = None
        if model.device.type != "meta":
            if self.value_head is not None:
                self.value_head.to(model.device)
            self.check()  # in the parameters' dtype
        self.autocast = autocast
        self._entropy_gradient = entropy_gradient
        if compile_layers:
            for layer in self.layers():
                part = getattr(layer, "mlp", None)
                if not isinstance(part, nn.Module):
                    raise ModelError(f"Expect layers with a module `mlp` to compile, got {type(layer).__name__}.")
                part.compile(dynamic=True)

    def models(self) -> list[PreTrainedModel]:
        """Return the language model and, if it is separate, the critic's."""
        return [self.model] if self.critic is None else [self.model, self.critic]

    def check(self) -> None:
        """Try the models' own code, and replace their attention; then compare what they compute.

        Raises:
            ModelError: The model transforms its logits after the output layer, its attention cannot be replaced, or it
                mixes tokens outside standard attention.
        """
        with self._casting():
            for model in self.models():
                ids, expected = plain_logits(model)
                model.set_attn_implementation(ATTENTION)
                _check_packing(model, ids, expected, rounding=_ROUNDING[self.autocast])

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules; dropout is off in both, so that an update begins with ratios of exactly 1.

        Transformers recomputes activations in training mode only; models that do not need it stay in evaluation mode.
        """
        return super().train(mode and self._gradient_checkpointing)

    def layers(self) -> list[nn.Module]:
        """Return the decoder layers, whose parameters are sharded together."""
        return [
            each for model in self.models() for each in model.modules() if isinstance(each, GradientCheckpointingLayer)
        ]

    def embeddings(self) -> list[nn.Module]:
        """Return the models' input embeddings."""
        return [model.get_input_embeddings() for model in self.models()]

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """Return the trained parameters: the policy's and, if there is a separate critic, the critic's."""
        trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if self.critic is None:
            return [list(trained.values())]
        of_critic = [p for name, p in trained.items() if name.startswith(("critic.", "value_head."))]
        return [[p for name, p in trained.items() if name.startswith("model.")], of_critic]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.model.device

    def forward(self, batch: Batch) -> PolicyOutput:
        """Return log-probabilities, entropies and values of the sampled tokens, with gradients if enabled.

        The device computes all of it without an answer from it to the host: what depends on the batch's shape and masks
        is computed before the transfer.

        Args:
            batch: ``B`` sequences, on the host.

        Returns:
            Outputs on the policy's device.
        """
        acts = batch.action_mask
        if acts[:, 0].any():
            raise ValueError(
                "Expect a prompt of at least one token in every row, got a row that starts with an action."
            )
        packed = pack(batch, self.device)
        if self._longest is not None and max(packed.layout.key_lengths) > self._longest[0]:
            length, reason = self._longest
            raise ValueError(f"Expect rows of at most {length} tokens for {reason}.")
        indices = packed.places[:, :-1][acts[:, 1:]], acts.flatten().nonzero()[:, 0], batch.token_ids[acts]
        before, acting, chosen = (upload(index, self.device) for index in indices)
        with self._casting():
            hidden = _hidden(self.model, packed)[before]
            states = hidden if self.critic is None else _hidden(self.critic, packed)[before]
        values = None
        if self.value_head is not None:
            values = self.value_head(states.to(self.value_head.weight.dtype)).squeeze(-1)
        head = self.model.get_output_embeddings()
        hidden = hidden if self.autocast is None else hidden.to(self.autocast)
        bias = getattr(head, "bias", None)
        logprobs, entropy = token_logprobs(hidden, head.weight, bias, chosen, temperature=self.temperature)

        def spread(of_tokens: torch.Tensor) -> torch.Tensor:
            return of_tokens.new_zeros(acts.shape).put(acting, of_tokens)

        return PolicyOutput(
            logprobs=spread(logprobs),
            entropy=spread(entropy if self._entropy_gradient else entropy.detach()),
            values=None if values is None else spread(values.float()),
        )

    @overload
    def evaluate(self, batch: Batch, max_tokens: int) -> PolicyOutput: ...

    @overload
    def evaluate(self, batch: Batch, max_tokens: int, *, should_stop: Callable[[], bool]) -> PolicyOutput | None: ...

    @torch.no_grad()
    def evaluate(
        self, batch: Batch, max_tokens: int, *, should_stop: Callable[[], bool] = lambda: False
    ) -> PolicyOutput | None:
        """Return the output for a whole batch, without gradients; rows without sampled tokens are not computed.

        Args:
            batch: ``B`` sequences, on the host.
            max_tokens: Maximum tokens per forward pass.
            should_stop: Called after each forward pass; once it returns True, evaluation ends and returns None.

        Returns:
            Outputs on the host.
        """
        self.eval()
        names = ["logprobs", "entropy", *(["values"] if self.value_head is not None else [])]
        total = {name: torch.zeros_like(batch.sampling_logprobs, device=self.device) for name in names}
        acting = batch.action_mask.any(1).nonzero()[:, 0]
        for index, counts in deal(micro_batches(batch.rows(acting), max_tokens)):
            rows = batch.rows(acting[index]).trimmed()
            output, there = self(rows), upload(acting[index], self.device)
            for name, tensor in total.items():
                if counts:
                    tensor[there, : rows.token_ids.shape[1]] = getattr(output, name).to(tensor)
            if should_stop():
                return None
        return PolicyOutput(**{name: add_up(tensor).cpu() for name, tensor in total.items()})

    def _casting(self) -> AbstractContextManager[None]:
        if self.autocast is None:
            return nullcontext()
        # each weight is cast once per forward pass, so a cache would only hold all weights in both dtypes
        return torch.autocast(self.device.type, dtype=self.autocast, cache_enabled=False)


def _switch_off_noise(model: PreTrainedModel) -> None:
    """Set every dropout probability to 0, and the noise of routers: they act in training mode."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or "jitter" in name):
                setattr(module, name, 0.0)


@torch.no_grad()
def _check_packing(model: PreTrainedModel, row: torch.Tensor, expected: torch.Tensor, *, rounding: float) -> None:
    """Reject a model whose logits of a row change when it is packed beside rows with the same prefix."""
    one, other = (_logits_beside(model, row.cpu(), shift) for shift in (SHARED_TOKENS, 3 * SHARED_TOKENS))
    spread = expected - expected.mean(-1, keepdim=True)
    # bfloat16 may change a single token much, so this bound is on all of them; a neighbor changes none
    is_same = (one - expected).norm() <= rounding * spread.norm()
    if not is_same or not ((one - other).norm(dim=-1) <= rounding * spread.norm(dim=-1)).all():
        if not all("layout" in names for names in attention_calls(model, layout=0)):
            raise ModelError(
                f"Expect a model that passes arguments on to its attention, got {type(model).__name__}, "
                "whose rows cannot be packed into one sequence."
            )
        raise ModelError(
            f"Expect a model that mixes tokens only in standard attention, got {type(model).__name__}, "
            "whose rows cannot be packed into one sequence."
        )


def _logits_beside(model: PreTrainedModel, row: torch.Tensor, shift: int) -> torch.Tensor:
    """Return the logits ``[n, V]`` of a row packed behind another one, whose own tokens are shifted by ``shift``."""
    ids = row.repeat(2, 1)
    ids[0, SHARED_TOKENS:] = (ids[0, SHARED_TOKENS:] + shift) % model.config.get_text_config().vocab_size
    there, zeros = torch.ones_like(ids, dtype=torch.bool), torch.zeros(ids.shape)
    batch = Batch(
        token_ids=ids,
        attention_mask=there,
        action_mask=there,
        sampling_logprobs=zeros,
        rewards=zeros[:, 0],
        group_ids=ids[:, 0],
    )
    packed = pack(batch, model.device)
    logits: torch.Tensor = model.get_output_embeddings()(_hidden(model, packed)[packed.places[1]])
    return logits.float()


def _hidden(model: PreTrainedModel, packed: Packed) -> torch.Tensor:
    """Return the last hidden states ``[N, H]`` of a packed batch."""
    output = model.base_model(
        input_ids=packed.token_ids[None],
        position_ids=packed.position_ids[None],
        use_cache=False,
        layout=packed.layout,
    )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


def shard(policy: Policy, device: torch.device | None = None, *, replicas: int = 1) -> None:
    """Shard a policy's parameters over the processes: layer by layer, then the rest together (FSDP2).

    All processes start from the parameters of the first; those on the meta device stay there, for `read_shards`.
    Parameters are gathered in the dtype of autocast; shards, reduced gradients and hidden states between layers keep
    the parameters' own.

    Args:
        policy: Whole, in each process.
        device: Of the shards; by default where the policy is.
        replicas: Copies of the shards. With one per node, parameters are gathered inside a node, and only gradients are
            reduced between nodes (HSDP).

    Raises:
        ConfigError: The processes cannot be divided among so many copies.
    """
    expect(size() % replicas == 0, "num_replicas", f"a divisor of the {size()} processes", replicas)
    if size() == 1:
        return
    wait()  # some processes load a model more slowly
    for parameter in policy.parameters():
        if not parameter.is_meta:
            torch.distributed.broadcast(parameter.data, 0)
    names, sizes = ("replicate", "shard"), (replicas, size() // replicas)
    first = 0 if replicas > 1 else 1
    mesh = init_device_mesh((device or policy.device).type, sizes[first:], mesh_dim_names=names[first:])
    precision = MixedPrecisionPolicy()
    if policy.autocast is not None:
        precision = MixedPrecisionPolicy(policy.autocast, torch.float32, cast_forward_inputs=False)
        for embeddings in policy.embeddings():
            embeddings.register_forward_hook(lambda _, __, output: output.float())
    for layer in policy.layers():
        fully_shard(layer, mesh=mesh, mp_policy=precision)
    if policy.value_head is not None:
        fully_shard(policy.value_head, mesh=mesh)  # autocast does not reach it
    fully_shard(policy, mesh=mesh, mp_policy=precision)


def place(policy: Policy, path: Path, device: torch.device, *, replicas: int = 1) -> None:
    """Shard a policy over the processes, and give its models the weights that they lack.

    Args:
        policy: Its models are those of the folder, whole or without weights.
        path: The folder.
        device: Where to.
        replicas: As for :func:`shard`.

    Raises:
        ConfigError: As for :func:`shard`.
        ModelError: A model cannot be trained.
    """
    lacks = any(parameter.is_meta for parameter in policy.parameters())
    shard(policy, device, replicas=replicas)
    if lacks:
        for model in policy.models():
            read_shards(model, path, device)
        register_fsdp_forward_method(policy, "check")
        policy.check()
        if isinstance(policy, FSDPModule):
            policy.reshard()


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    chosen: torch.Tensor,
    *,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each chosen token, and the entropy of its distribution.

    The logits of one token are as many numbers as the vocabulary has tokens, some 150,000. So that all of them are
    never in memory, the forward pass computes them for a few tokens at a time, and the backward pass again for a part
    of the vocabulary at a time: each row of the weight gets its gradient from one product over all tokens. Logits are
    computed in the dtype of ``hidden``, everything else in float32, or in float64 if ``hidden`` is float64.

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


def _chunks(count: int, width: int, device: torch.device) -> list[slice]:
    """Divide ``count`` rows of ``width`` logits into parts that fit."""
    size = max(1, _LOGITS_BYTES[device.type] // (4 * max(1, width)))
    return [slice(start, start + size) for start in range(0, count, size)]


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
        for part in _chunks(len(hidden), len(weight), hidden.device):
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
        of_hidden = torch.zeros_like(hidden, dtype=normalizer.dtype)
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        of_bias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
        for part in _chunks(len(weight), len(hidden), hidden.device):
            rows = weight[part].to(hidden.dtype)
            log_p = _logits(hidden, rows, None if bias is None else bias[part], ctx.temperature)
            log_p.sub_(normalizer[:, None])
            of_logits = log_p.exp()
            pull = of_logprobs[:, None]
            if of_entropy is not None:  # the gradient of the entropy H is -p (log p + H)
                pull = log_p.add_(entropy[:, None]).mul_(of_entropy[:, None]).add_(pull)
            place = chosen[:, None] - part.start
            is_here = (place >= 0) & (place < len(rows))
            place = place.clamp(0, len(rows) - 1)
            of_logits.mul_(pull).neg_().scatter_add_(1, place, of_logprobs[:, None] * is_here)
            of_logits.div_(ctx.temperature)
            if of_bias is not None:
                of_bias[part] = of_logits.sum(0)
            of_logits = of_logits.to(hidden.dtype)
            of_hidden += of_logits @ rows
            if of_weight is not None:
                of_weight[part] = of_logits.T @ hidden
        return of_hidden.to(hidden.dtype), of_weight, of_bias, None, None
