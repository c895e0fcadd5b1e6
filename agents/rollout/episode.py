"""An episode in progress: its tokens so far, and the rules for which tokens of a completion stay."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from agents.core.types import Completion, EpisodeSpec, FinishReason, Trajectory, Turn

if TYPE_CHECKING:
    from agents.engines.base import Scanner
    from agents.rollout.envs import EnvResult


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptTokens:
    """The tokens of a completion that stay in the context."""

    token_ids: tuple[int, ...]
    """Token ids, in order."""
    action_mask: tuple[bool, ...]
    """False on the encoding that replaced a cut token."""
    logprobs: tuple[float, ...]
    """0 where the mask is False."""
    policy_versions: tuple[int, ...]
    """-1 where the mask is False."""
    cuts: int
    """1 if a token was cut, else 0."""


def keep_tokens(completion: Completion, kept_chars: int, encode: Callable[[str], list[int]]) -> KeptTokens:
    """Return the tokens that hold the first ``kept_chars`` characters of a completion's text.

    A token that holds both kept and later text is replaced by the encoding of its kept part, which is masked: the
    policy did not sample it. An end-of-sequence token holds no text; it is dropped if the episode continues.

    Args:
        completion: What the engine sampled.
        kept_chars: How many characters of its text the environment keeps.
        encode: Converts text to token ids.
    """
    sampled = len(completion.token_ids) - (completion.finish_reason == "stop")
    ends = (0, *completion.text_ends)
    whole = bisect_right(ends, kept_chars, hi=sampled + 1) - 1
    while 0 < whole < sampled and ends[whole] == ends[whole - 1]:
        whole -= 1  # the first bytes of a character that a later token completes
    token_ids = list(completion.token_ids[:whole])
    rest = encode(completion.text[ends[whole] : kept_chars]) if ends[whole] < kept_chars else []
    return KeptTokens(
        token_ids=(*token_ids, *rest),
        action_mask=(*[True] * whole, *[False] * len(rest)),
        logprobs=(*completion.logprobs[:whole], *[0.0] * len(rest)),
        policy_versions=(*completion.policy_versions[:whole], *[-1] * len(rest)),
        cuts=int(bool(rest)),
    )


class TurnRules:
    """Where a turn ends, which of its tokens stay, and which are trained on.

    These are the paper's rules: exact block boundaries, sampled tokens kept as they are, feedback masked. An
    experiment that breaks one on purpose overrides a method; see ``experiments/ablations.py``.
    """

    def scanner(self, scanner: Scanner | None) -> Scanner | None:
        """Return the scanner that ends the next turn; the environment's own must not be modified."""
        return deepcopy(scanner)

    def completed(self, completion: Completion) -> Completion:
        """Return the completion whose text the environment gets."""
        return completion

    def keep(
        self, completion: Completion, kept_chars: int, encode: Callable[[str], list[int]], *, ended: bool
    ) -> KeptTokens:
        """Return the tokens of a turn that stay in the context.

        Args:
            completion: What the engine sampled.
            kept_chars: How many characters of its text the environment keeps.
            encode: Converts text to token ids.
            ended: Whether the episode ends here; if so, every token stays.
        """
        if not ended:
            return keep_tokens(completion, kept_chars, encode)
        return KeptTokens(
            token_ids=completion.token_ids,
            action_mask=(True,) * len(completion.token_ids),
            logprobs=completion.logprobs,
            policy_versions=completion.policy_versions,
            cuts=0,
        )

    def trained(self, trajectory: Trajectory) -> Trajectory:
        """Return a trajectory with its action mask True on the tokens that are trained on."""
        return trajectory


@dataclass(kw_only=True, slots=True)
class ActiveEpisode:
    """An episode in progress."""

    number: int
    """Its number among all episodes of its collector."""
    episode: EpisodeSpec
    """Its specification."""
    prompt_length: int = 0
    """Tokens of the prompt; 0 until it is encoded."""
    token_ids: list[int] = field(default_factory=list)
    """The prompt and the finished turns."""
    action_mask: list[bool] = field(default_factory=list)
    """True on tokens that the policy sampled."""
    logprobs: list[float] = field(default_factory=list)
    """0 where the mask is False."""
    policy_versions: list[int] = field(default_factory=list)
    """-1 where the mask is False."""
    turns: list[Turn] = field(default_factory=list)
    """The finished turns."""
    reward: float = 0.0
    """The sum so far."""
    cuts: int = 0
    """Tokens that were cut at the end of a block."""
    too_long: bool = False
    """Whether the prompt leaves no room for a token."""
    completion: Completion | None = None
    """What is sampled so far of the turn in progress."""
    scanner: Scanner | None = None
    """Finds the end of the turn in progress; in its initial state."""
    allowance: int | None = None
    """Tokens that may still be sampled in this collection; None: no limit."""
    acted_at: float = 0.0
    """When the last action was sent to the environment."""

    @property
    def finish_reason(self) -> FinishReason:
        """Why the last completion ended; ``length`` without one: no token was left."""
        return self.completion.finish_reason if self.completion is not None else "length"

    @property
    def begun(self) -> int:
        """Number of tokens sampled so far in the turn in progress."""
        return 0 if self.completion is None else len(self.completion.token_ids)

    def insert(self, token_ids: Sequence[int]) -> None:
        """Append tokens that the policy did not sample."""
        self.token_ids += token_ids
        self.action_mask += [False] * len(token_ids)
        self.logprobs += [0.0] * len(token_ids)
        self.policy_versions += [-1] * len(token_ids)

    def end_turn(self, result: EnvResult, encode: Callable[[str], list[int]], rules: TurnRules) -> bool:
        """Append the part of the action that the environment kept; return whether the episode has ended."""
        completion = self.completion
        ended = result.terminated or result.truncated or completion is None
        text = completion.text if completion is not None else ""
        kept_chars = len(text) if ended else int(result.info.get("kept_chars", len(text)))
        if completion is not None:
            kept = rules.keep(completion, kept_chars, encode, ended=ended)
            self.token_ids += kept.token_ids
            self.action_mask += kept.action_mask
            self.logprobs += kept.logprobs
            self.policy_versions += kept.policy_versions
            self.cuts += kept.cuts
        self.reward += result.reward
        feedback = "" if ended else result.observation
        self.turns.append(
            Turn(text=text[:kept_chars], feedback=feedback, finish_reason=self.finish_reason, info=result.info)
        )
        return ended

    def trajectory(self, *, truncated: bool) -> Trajectory:
        """Return the trajectory of an episode that has ended."""
        info = self.turns[-1].info
        return Trajectory(
            problem_id=str(info.get("problem_id", self.episode.env_seed)),
            group_id=self.episode.group_id,
            token_ids=self.token_ids,
            action_mask=self.action_mask,
            logprobs=self.logprobs,
            prompt_length=self.prompt_length,
            reward=self.reward,
            reward_valid=bool(info.get("reward_valid", True)) and not self.too_long,
            terminated=not truncated,
            truncated=truncated,
            turns=tuple(self.turns),
            boundary_cuts=self.cuts,
            policy_versions=self.policy_versions,
            sample=self.episode.sample,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the episode as JSON data, without its scanner."""
        values = {name: copy(getattr(self, name)) for name in self.__slots__ if name not in _NOT_SAVED}
        completion = None if self.completion is None else asdict(self.completion)
        return values | {
            "episode": asdict(self.episode),
            "turns": [asdict(turn) for turn in self.turns],
            "completion": completion,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the episode that :meth:`as_json` returned as ``data``."""
        completion = None if data["completion"] is None else Completion.from_json(data["completion"])
        turns = [Turn(**turn) for turn in data["turns"]]
        saved = {name: value for name, value in data.items() if name in cls.__slots__}  # older versions saved more
        return cls(**{**saved, "episode": EpisodeSpec(**data["episode"]), "turns": turns, "completion": completion})


_NOT_SAVED = ("scanner", "allowance", "acted_at")
