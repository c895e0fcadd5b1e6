"""Collect trajectories: environments and engine run side by side, and no episode waits for another.

The loop hands finished completions to their environments and finished steps to the engine, whichever comes first.
Sampled token ids are kept as they were sampled; see :func:`keep_tokens` for the one exception.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from agents.engines.base import Sampling
from agents.types import Completion, Episode, FinishReason, Trajectory, Turn

if TYPE_CHECKING:
    from agents.chat import Chat
    from agents.engines.base import Engine
    from agents.envs import EnvPool, EnvResult


_LOG = logging.getLogger("agents")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptTokens:
    """The tokens of a completion that stay in the context."""

    token_ids: tuple[int, ...]
    """Token ids, in order."""
    action_mask: tuple[bool, ...]
    """False on the encoding that replaced a cut token."""
    logprobs: tuple[float, ...]
    """0 where the mask is False."""
    cuts: int
    """1 if a token was cut, else 0."""


def keep_tokens(completion: Completion, kept_chars: int, encode: Callable[[str], list[int]]) -> KeptTokens:
    """Return the tokens that hold the first ``kept_chars`` characters of a completion's text.

    A token that holds both kept and later text is replaced by the encoding of its kept part, which is masked: the
    policy did not sample it. An end-of-sequence token holds no text; it goes if the episode goes on.

    Args:
        completion: What the engine sampled.
        kept_chars: How much of its text the environment keeps.
        encode: Turns text to token ids.
    """
    sampled = len(completion.token_ids) - (completion.finish_reason == "stop")
    ends = (0, *completion.text_ends)
    whole = bisect_right(ends, kept_chars, hi=sampled + 1) - 1
    while 0 < whole < sampled and ends[whole] == ends[whole - 1]:
        whole -= 1  # the first bytes of a character that comes later
    token_ids = list(completion.token_ids[:whole])
    rest = encode(completion.text[ends[whole] : kept_chars]) if ends[whole] < kept_chars else []
    return KeptTokens(
        token_ids=(*token_ids, *rest),
        action_mask=(*[True] * whole, *[False] * len(rest)),
        logprobs=(*completion.logprobs[:whole], *[0.0] * len(rest)),
        cuts=int(bool(rest)),
    )


@dataclass(kw_only=True, slots=True)
class _Play:
    """An episode in progress."""

    number: int
    episode: Episode
    prompt_length: int = 0
    token_ids: list[int] = field(default_factory=list)
    action_mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    reward: float = 0.0
    cuts: int = 0
    version: int | None = None
    too_long: bool = False
    completion: Completion | None = None

    def append(self, token_ids: Sequence[int], mask: Sequence[bool], logprobs: Sequence[float]) -> None:
        self.token_ids += token_ids
        self.action_mask += mask
        self.logprobs += logprobs

    def append_unsampled(self, token_ids: Sequence[int]) -> None:
        self.append(token_ids, [False] * len(token_ids), [0.0] * len(token_ids))

    @property
    def finish_reason(self) -> FinishReason:
        return self.completion.finish_reason if self.completion is not None else "length"


class _Collector:
    """The state of one call of :func:`collect`."""

    def __init__(
        self,
        envs: EnvPool,
        engine: Engine,
        chat: Chat,
        sampling: Sampling,
        on_end: Callable[[Trajectory], None],
    ) -> None:
        self.envs, self.engine, self.chat, self.sampling, self.on_end = envs, engine, chat, sampling, on_end
        self.in_env: dict[int, _Play] = {}
        self.in_engine: dict[int, tuple[int, _Play]] = {}
        self.trajectories: dict[int, Trajectory] = {}
        self.too_long: set[int] = set()
        self.num_episodes = 0

    def run(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        self.num_episodes = len(episodes)
        waiting = deque(_Play(number=n, episode=episode) for n, episode in enumerate(episodes))
        for env_id in range(min(len(self.envs), len(waiting))):
            self._begin(env_id, waiting.popleft())
        while self.in_env or self.in_engine:
            for result in self.envs.recv(wait=not self.engine.busy):
                ended = self._take_result(result)
                if ended and waiting:
                    self._begin(result.env_id, waiting.popleft())
            for completion in self.engine.poll():
                self._take_completion(completion)
        return [self.trajectories[n] for n in range(len(episodes))]

    def abandon(self) -> None:
        """Free the engine's rows and wait for the environments, so that both can be used again."""
        for number in range(self.num_episodes):
            self.engine.release(number)
        self.envs.drain()

    def _begin(self, env_id: int, play: _Play) -> None:
        self.in_env[env_id] = play
        self.envs.reset(env_id, seed=play.episode.env_seed, options=play.episode.options)

    def _take_result(self, result: EnvResult) -> bool:
        """Go on with an episode whose environment is done; return whether it has ended."""
        play = self.in_env.pop(result.env_id)
        if not play.token_ids:
            play.append_unsampled(self.chat.encode_prompt(result.observation, result.info.get("messages")))
            play.prompt_length = len(play.token_ids)
        elif self._take_step(play, result):
            return True
        self._ask(play, result)
        return False

    def _take_step(self, play: _Play, result: EnvResult) -> bool:
        """Keep the tokens of an action that was stepped; return whether the episode has ended."""
        completion = play.completion
        ended = result.terminated or result.truncated or completion is None
        text = completion.text if completion is not None else ""
        kept_chars = len(text) if ended else int(result.info.get("kept_chars", len(text)))
        if completion is not None and ended:
            tokens = completion.token_ids
            play.append(tokens, [True] * len(tokens), completion.logprobs)
        elif completion is not None:
            kept = keep_tokens(completion, kept_chars, self.chat.encode_feedback)
            play.append(kept.token_ids, kept.action_mask, kept.logprobs)
            play.cuts += kept.cuts
        play.reward += result.reward
        feedback = "" if ended else result.observation
        play.turns.append(
            Turn(text=text[:kept_chars], feedback=feedback, finish_reason=play.finish_reason, info=result.info)
        )
        if ended:
            self._end(play, result)
        return ended

    def _ask(self, play: _Play, result: EnvResult) -> None:
        """Send the context to the engine, or end the episode where no token is left."""
        feedback_ids = self.chat.encode_feedback(result.observation) if play.turns else []
        length = len(play.token_ids) + len(feedback_ids)
        room = min(self.sampling.max_tokens - (length - play.prompt_length), self.engine.max_model_len - length)
        if room < 1:
            play.too_long = not play.turns
            if play.too_long and play.episode.group_id not in self.too_long:
                self.too_long.add(play.episode.group_id)
                name, limit = result.info.get("problem_id"), self.engine.max_model_len
                _LOG.warning("Leaving out problem %s: its prompt has %d tokens of at most %d", name, length, limit)
            self._act(result.env_id, play, None)
            return
        play.append_unsampled(feedback_ids)
        seed = np.random.SeedSequence([play.episode.sampling_seed, len(play.turns)]).generate_state(1, np.uint64)[0]
        sampling = Sampling(
            temperature=self.sampling.temperature, top_p=self.sampling.top_p, max_tokens=room, seed=int(seed)
        )
        self.in_engine[play.number] = (result.env_id, play)
        self.engine.submit(play.number, play.token_ids, sampling, result.scanner)

    def _take_completion(self, completion: Completion) -> None:
        env_id, play = self.in_engine.pop(completion.request_id)
        versions = [completion.policy_version] if play.version is None else [completion.policy_version, play.version]
        play.version = min(versions)
        self._act(env_id, play, completion)

    def _act(self, env_id: int, play: _Play, completion: Completion | None) -> None:
        play.completion = completion
        self.in_env[env_id] = play
        self.envs.send(env_id, completion.text if completion is not None else "")

    def _end(self, play: _Play, result: EnvResult) -> None:
        self.engine.release(play.number)
        truncated = result.truncated or play.finish_reason == "length"
        trajectory = Trajectory(
            problem_id=str(result.info.get("problem_id", play.episode.env_seed)),
            group_id=play.episode.group_id,
            token_ids=tuple(play.token_ids),
            action_mask=tuple(play.action_mask),
            logprobs=tuple(play.logprobs),
            prompt_length=play.prompt_length,
            reward=play.reward,
            reward_valid=bool(result.info.get("reward_valid", True)) and not play.too_long,
            terminated=not truncated,
            truncated=truncated,
            turns=tuple(play.turns),
            boundary_cuts=play.cuts,
            policy_version=play.version if play.version is not None else self.engine.version,
        )
        self.trajectories[play.number] = trajectory
        self.on_end(trajectory)


def collect(
    envs: EnvPool,
    engine: Engine,
    chat: Chat,
    episodes: Sequence[Episode],
    sampling: Sampling,
    *,
    on_end: Callable[[Trajectory], None] = lambda _: None,
) -> list[Trajectory]:
    """Play every episode to its end.

    Each episode draws from random streams of its own, so that neither order nor timing changes what is sampled, up to
    the engine's arithmetic. An episode whose prompt leaves no room for a token ends with ``reward_valid=False``.

    Args:
        envs: Copies of the environment; their number bounds the episodes in flight.
        engine: Samples the tokens.
        chat: Encodes prompts and feedback.
        episodes: What to play.
        sampling: Temperature and top_p; ``max_tokens`` counts everything after the prompt, feedback included; the seed
            is not used.
        on_end: Called with each trajectory as it ends.

    Returns:
        The trajectories, in the order of ``episodes``.
    """
    collector = _Collector(envs, engine, chat, sampling, on_end)
    try:
        return collector.run(episodes)
    except BaseException:
        collector.abandon()
        raise
