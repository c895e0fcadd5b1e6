"""The data of one training step, in the order in which it is made.

EpisodeSpec -> Completion -> Turn -> Trajectory -> Collected -> Batch -> PolicyOutput -> Advantages -> Loss

Every mask reads "True counts". Index ``t`` describes token ``t``: its id, whether the policy sampled it, its
log-probability given the tokens before it, its advantage. Log-probabilities are natural. ``B`` sequences of at most
``T`` tokens make a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    import torch

N = TypeVar("N", int, float, bool)

FinishReason = Literal["stop", "boundary", "length"]


class Purpose(IntEnum):
    """What a run draws at random; the second part of a seed tells these apart."""

    ENVIRONMENT = 0
    SAMPLING = 1
    MINIBATCHES = 2
    ENGINE = 3
    HOLD_OUT = 4
    TRANSCRIPTS = 5


def seed_of(*parts: int, bits: int = 63) -> int:
    """Return the seed of one purpose, from the run's seed and the numbers that tell the purposes apart.

    Args:
        parts: Non-negative integers.
        bits: Size of the seed, at most 64.

    >>> seed_of(0, 1, 2) == seed_of(0, 1, 2), seed_of(0, 1, 2) == seed_of(0, 2, 1)
    (True, False)
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> (64 - bits)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeSpec:
    """An episode to play: the reset of one environment and the seed of its sampling."""

    group_id: int
    """Episodes of one group start from the same reset and share a baseline."""
    env_seed: int
    """Seed given to ``env.reset``."""
    sampling_seed: int
    """Seed of every token that is sampled in this episode."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options given to ``env.reset``, such as ``problem_index`` and ``interaction_budget``."""
    sample: int = 0
    """Its number in its group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    r"""What an engine sampled for one request, token by token.

    Example::

        token_ids      [``, `\n]          text "```\n"
        text_ends      [2, 4]
        policy_versions  [7, 7]
        finish_reason  "boundary"          the scanner saw the end of a block
    """

    request_id: int
    """The request's number, the same over all turns of an episode."""
    token_ids: tuple[int, ...]
    """The sampled tokens, a closing end-of-sequence token included."""
    logprobs: tuple[float, ...]
    """Log-probability of each sampled token under the sampling distribution, float32."""
    text: str
    """The tokens as text, without the end-of-sequence token."""
    text_ends: tuple[int, ...]
    """For each token the length of the text with it; that of the token before if it ends inside a character."""
    finish_reason: FinishReason
    """``stop``: end of sequence; ``boundary``: the scanner's; ``length``: no tokens were left."""
    policy_versions: tuple[int, ...]
    """For each token the version of the weights that sampled it."""
    dropped_tokens: int = 0
    """How many tokens the engine has sampled past its end; they are nowhere else."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the completion whose fields lie in ``data``, with lists in place of tuples."""
        return cls(**_with_tuples(data))


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One action of an episode and what the environment answered."""

    text: str
    """What the policy wrote and the environment kept."""
    feedback: str
    """What the environment inserted after it; empty after the last turn."""
    finish_reason: FinishReason
    """Why the engine stopped."""
    info: Mapping[str, Any]
    """The environment's info after the step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of an episode as an API counts them, where there are no token ids."""

    prompt_tokens: int
    """Tokens of the prompts of all its requests; a later one contains the earlier ones."""
    completion_tokens: int
    """Tokens that the model wrote."""
    feedback_tokens: int
    """Tokens that the environment, and the chat template, wrote between the turns."""
    cost: float | None
    """What they cost; None without a price."""
    is_estimated: bool
    """Whether the server has left some of them uncounted."""


class Numbers(Sequence[N]):
    """A tuple of numbers, one for each token, held as an array: a tuple takes 32 bytes for most numbers, an array 4.

    Args:
        values: The numbers.
        dtype: Of the array.

    >>> ids = Numbers([3, 1, 2], np.int32)
    >>> ids, ids[0], ids[1:], ids == (3, 1, 2), ids.array.nbytes
    ((3, 1, 2), 3, (1, 2), True, 12)
    """

    __slots__ = ("array",)

    def __init__(self, values: Iterable[N], dtype: Any) -> None:
        self.array = np.fromiter(values, dtype)

    @classmethod
    def of_floats(cls, values: Sequence[float]) -> Numbers[float]:
        """Return floats in single precision if it holds all of them exactly, as it does what an engine reports.

        >>> Numbers.of_floats([0.5, -1.25]).array.dtype, Numbers.of_floats([0.1]).array.dtype
        (dtype('float32'), dtype('float64'))
        """
        exact: Numbers[float] = Numbers(values, np.float64)
        single = exact.array.astype(np.float32)
        if np.array_equal(single, exact.array, equal_nan=True):
            exact.array = single
        return exact

    def __len__(self) -> int:
        """Return how many numbers there are."""
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> N: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[N, ...]: ...

    def __getitem__(self, index: int | slice) -> N | tuple[N, ...]:
        """Return a number, or a tuple of some."""
        found = self.array[index].tolist()
        return tuple(found) if isinstance(index, slice) else found

    def __iter__(self) -> Iterator[N]:
        """Iterate over Python's numbers."""
        return iter(self.array.tolist())

    def __eq__(self, other: object) -> bool:
        """Return whether the other one has the same numbers; a tuple may."""
        return isinstance(other, Numbers | tuple) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        """Return the hash of the tuple."""
        return hash(tuple(self))

    def __repr__(self) -> str:
        """Return the text of the tuple."""
        return repr(tuple(self))


_OF_TOKENS: Mapping[str, Callable[[Sequence[Any]], Numbers[Any]]] = {
    "token_ids": partial(Numbers, dtype=np.int32),
    "action_mask": partial(Numbers, dtype=np.bool_),
    "logprobs": Numbers.of_floats,
    "policy_versions": partial(Numbers, dtype=np.int32),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """One finished episode, with exactly the tokens that were sampled.

    It holds what there is of each token in arrays (`Numbers`): a step has millions of tokens, and they travel between
    processes.

    Example (S sampled, P prompt, F feedback)::

        token_ids    P P P  S S S S  F F F  S S
        action_mask  . . .  x x x x  . . .  x x
        logprobs     0 0 0  l l l l  0 0 0  l l
    """

    problem_id: str
    """The problem's id."""
    group_id: int
    """Number of the group that shares a baseline."""
    token_ids: Sequence[int]
    """Prompt, sampled tokens and feedback, in order."""
    action_mask: Sequence[bool]
    """True on tokens that the policy sampled."""
    logprobs: Sequence[float]
    """Sampling log-probabilities; 0 where the mask is False."""
    prompt_length: int
    """Tokens of the prompt."""
    reward: float
    """Sum of the episode's rewards."""
    reward_valid: bool
    """False after an infrastructure error: the episode is dropped from baseline and loss."""
    terminated: bool
    """The policy gave its final answer."""
    truncated: bool
    """A length limit or an infrastructure error ended the episode. Never together with ``terminated``."""
    turns: tuple[Turn, ...]
    """The turns, in order."""
    boundary_cuts: int
    """Tokens that held a block's end and later text, and were replaced by the encoding of what was kept."""
    policy_versions: Sequence[int]
    """For each token the version of the weights that sampled it; -1 where the mask is False."""
    sample: int = 0
    """Its number in its group."""

    def __post_init__(self) -> None:
        for name, pack in _OF_TOKENS.items():
            if not isinstance(values := getattr(self, name), Numbers):
                object.__setattr__(self, name, pack(values))

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON data, for :meth:`from_json`."""
        return asdict(self) | {name: list(getattr(self, name)) for name in _OF_TOKENS}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the trajectory whose fields lie in ``data``, with lists in place of tuples."""
        return cls(**{**_with_tuples(data), "turns": tuple(Turn(**turn) for turn in data["turns"])})

    @property
    def text(self) -> str:
        """The text after the prompt: the policy's text and the feedback."""
        return "".join(turn.text + turn.feedback for turn in self.turns)

    @property
    def info(self) -> Mapping[str, Any]:
        """The environment's last info."""
        return self.turns[-1].info

    @property
    def is_correct(self) -> bool:
        """Whether the environment says ``correct`` or, where it does not say, whether the reward is positive."""
        correct = self.info.get("correct")
        return self.reward > 0 if correct is None else bool(correct)

    @property
    def is_void(self) -> bool:
        """Whether the last turn holds no answer, where the environment reports what it read as one."""
        return "predicted" in self.info and self.info["predicted"] is None and self.reward_valid

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """(status, feedback) of each executed block, where the environment reports ``execution_status``."""
        return [(s, turn.feedback) for turn in self.turns[:-1] if (s := turn.info.get("execution_status"))]

    @property
    def interactions(self) -> int:
        """Number of executed blocks, as the environment counts them; 0 where it does not."""
        info = self.info
        return info["interaction_budget"] - info["interactions_left"] if "interactions_left" in info else 0

    @property
    def budget_share(self) -> float:
        """Share of the interaction budget that the episode has used, in [0, 1]; 0 without a budget."""
        return self.interactions / (self.info.get("interaction_budget") or 1)

    @property
    def has_used_up_budget(self) -> bool:
        """Whether the episode has executed as many blocks as it may, and may execute any."""
        return bool(self.info.get("interaction_budget")) and self.info.get("interactions_left") == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a collection returns."""

    trajectories: tuple[Trajectory, ...]
    """Whole groups, one after the other."""
    metrics: Mapping[str, float]
    """What was measured, by name."""


def _with_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the host on ``device``, without waiting for the work that a GPU has still to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class _Tensors:
    """Row selection and device moves for a dataclass of tensors whose first dimension is ``B``."""

    __slots__ = ()

    def rows(self, index: torch.Tensor) -> Self:
        """Return the rows ``index`` (any integer tensor) of every tensor."""
        return self._map(lambda tensor: tensor[index])

    def columns(self, length: int) -> Self:
        """Return the first ``length`` columns of every tensor that has a token dimension."""
        return self._map(lambda tensor: tensor[:, :length] if tensor.ndim == 2 else tensor)

    def to(self, device: torch.device) -> Self:
        """Return the same data, now on the host, on ``device``."""
        return self._map(lambda tensor: upload(tensor, device))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return type(self)(**{name: None if value is None else change(value) for name, value in values.items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch(_Tensors):
    """Trajectories as right-padded tensors."""

    token_ids: torch.Tensor
    """``[B, T]`` int64."""
    attention_mask: torch.Tensor
    """``[B, T]`` bool: True on tokens, False on padding."""
    action_mask: torch.Tensor
    """``[B, T]`` bool: True on tokens that the policy sampled."""
    sampling_logprobs: torch.Tensor
    """``[B, T]`` float32: 0 where the action mask is False."""
    rewards: torch.Tensor
    """``[B]`` float32."""
    group_ids: torch.Tensor
    """``[B]`` int64."""

    def __len__(self) -> int:
        """Return the number of sequences."""
        return int(self.token_ids.shape[0])

    def trimmed(self) -> Batch:
        """Return the batch without the columns that are padding in every row."""
        return self.columns(int(self.attention_mask.sum(1).max()))


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyOutput(_Tensors):
    """A policy's outputs for a batch: 0 wherever the action mask is False."""

    logprobs: torch.Tensor
    """``[B, T]`` float32: log-probability of token t given the tokens before it."""
    entropy: torch.Tensor
    """``[B, T]`` float32: entropy in nats of the distribution that token t was drawn from."""
    values: torch.Tensor | None = None
    """``[B, T]`` float32: value of the state in which token t was drawn; None without a value head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Advantages(_Tensors):
    """The targets of an update."""

    advantages: torch.Tensor
    """``[B, T]`` float32: 0 where the action mask is False."""
    returns: torch.Tensor
    """``[B, T]`` float32: the value head's targets."""
    reference_logprobs: torch.Tensor | None = None
    """``[B, T]`` float32: what a KL penalty measures the distance from; None without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """A loss and its metrics."""

    total: torch.Tensor
    """Scalar with a gradient."""
    metrics: Mapping[str, torch.Tensor]
    """Scalars without a gradient: sums over the action tokens; the caller divides by their number."""
