"""Episodes of a model behind an API: text alone, many at once, each in an environment of its own.

What :class:`agents.rollout.collector.Collector` does token by token, :func:`play_chats` does message by message. A turn
ends where the environment's scanner says. Then the server either continues the assistant's message, feedback included,
as a local engine would, or gets the feedback as the next user message (:data:`agents.config.served.Turns`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from agents.core.errors import EngineError
from agents.core.types import EpisodeSpec, Trajectory, Turn, Usage, seed_of
from agents.engines.chat_api import is_about_length, is_rejection
from agents.rollout.envs import action_scanner
from agents.rollout.evaluate import specs_of

if TYPE_CHECKING:
    import gymnasium

    from agents.engines.base import Sampling
    from agents.engines.chat_api import ChatServer, Message, Reply
    from agents.rollout.envs import EnvPool

_LOG = logging.getLogger("agents")
OnEnd = Callable[[Trajectory, Usage], None]


def play_chats(
    envs: EnvPool,
    server: ChatServer,
    sampling: Sampling,
    *,
    num_problems: int,
    num_samples: int,
    seed: int,
    options: Mapping[str, Any],
    wanted: Callable[[tuple[int, int]], bool],
    on_end: OnEnd,
) -> int:
    """Play ``num_samples`` episodes of each of the first ``num_problems`` problems.

    Args:
        envs: Copies of the environment; their number bounds the episodes in flight.
        server: What writes.
        sampling: Sampling parameters; ``max_tokens`` counts everything after the prompt, feedback included, as far as
            the server has counted it when a turn begins.
        num_problems: As for :func:`agents.rollout.evaluate.evaluate`; so are the following.
        num_samples: Episodes per problem.
        seed: Seed of the sampling.
        options: More reset options.
        wanted: Returns whether to play an episode.
        on_end: Called with each trajectory, which has no token ids, and its tokens as the server counted them.

    Returns:
        The number of episodes that were given up, because a request failed again and again while others succeeded.
        They are not passed to ``on_end``. One whose request is rejected is, as an invalid one.

    Raises:
        EngineError: The server rejects the key, the model or the first requests.
        EngineFault: The server is gone.
    """
    waiting = iter(specs_of(envs, num_problems, num_samples, seed=seed, options=options, wanted=wanted))
    with ThreadPoolExecutor(len(envs), thread_name_prefix="env") as threads:
        return server.run(lambda: _play_all(envs, server, sampling, waiting, threads, on_end))


async def _play_all(  # noqa: PLR0917
    envs: EnvPool,
    server: ChatServer,
    sampling: Sampling,
    waiting: Iterator[EpisodeSpec],
    threads: ThreadPoolExecutor,
    on_end: OnEnd,
) -> int:
    """Play all episodes; return how many were given up."""

    async def work(env: gymnasium.Env[str, str]) -> int:
        failed = 0
        for spec in waiting:
            play = _Chat(spec=spec, env=env, server=server, sampling=sampling, threads=threads)
            if await play.to_its_end():
                on_end(play.trajectory(), play.usage())
            else:
                failed += 1
        return failed

    workers = [asyncio.create_task(work(env)) for env in envs.envs]
    try:
        return sum(await asyncio.gather(*workers))
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


@dataclass(kw_only=True, slots=True)
class _Chat:
    """One episode."""

    spec: EpisodeSpec
    env: gymnasium.Env[str, str]
    server: ChatServer
    sampling: Sampling
    threads: ThreadPoolExecutor
    prompt: list[Message] = field(default_factory=list)
    """The messages before the model's first one."""
    turns: list[Turn] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    reward: float = 0.0
    truncated: bool = False
    rejected: bool = False

    async def to_its_end(self) -> bool:
        """Play the episode; return False if a request of it failed for good."""
        observation, info = await self._call(self.env.reset, seed=self.spec.env_seed, options=dict(self.spec.options))
        self.prompt = list(info.get("messages") or [{"role": "user", "content": observation}])
        while True:
            reply = None
            if not self._is_stuck and (room := self._room()) > 0:
                try:
                    reply = await self._ask(room)
                except EngineError as error:
                    if not is_rejection(error) or not self.server.num_replies:
                        raise
                    self.rejected = True
                    _LOG.warning("Dropping a sample of problem %s: %s", info.get("problem_id"), error)
                if reply is None and not self.rejected:
                    return False
                self.replies += [reply] if reply else []
            # without room the environment ends the episode with what it has
            text = reply.text if reply else ""
            observation, reward, terminated, truncated, info = await self._call(self.env.step, text)
            ended = terminated or truncated or reply is None
            kept_chars = len(text) if ended else int(info.get("kept_chars", len(text)))
            reason = reply.finish_reason if reply else "length"
            self.reward += float(reward)
            feedback = "" if ended else observation
            self.turns.append(Turn(text=text[:kept_chars], feedback=feedback, finish_reason=reason, info=info))
            if ended:
                self.truncated = truncated or reason == "length"
                return True

    @property
    def _is_stuck(self) -> bool:
        return bool(self.turns) and not self.turns[-1].text and not self.turns[-1].feedback

    def _room(self) -> int:
        usage = self.usage()
        return self.sampling.max_tokens - usage.completion_tokens - usage.feedback_tokens

    async def _ask(self, room: int) -> Reply | None:
        """Return the next turn."""
        seed = seed_of(self.spec.sampling_seed, len(self.turns), bits=31)  # some servers know 32 bits alone
        sampling = replace(self.sampling, max_tokens=room, seed=seed)
        messages, scanner = self._messages(), action_scanner(self.env)
        prefix = bool(self.turns) and self.server.traits.turns == "prefix"
        try:
            return await self.server.complete(messages, sampling, scanner, prefix=prefix)
        except EngineError as error:
            if not self.turns or not is_about_length(error):
                raise
        # The server has not counted the last feedback before; each of its tokens has at least a byte.
        room = max(1, room - len(self.turns[-1].feedback.encode()) - 64)
        return await self.server.complete(messages, replace(sampling, max_tokens=room), scanner, prefix=prefix)

    def _messages(self) -> list[Message]:
        if not self.turns:
            return self.prompt
        if self.server.traits.turns == "prefix":
            written = "".join(turn.text + turn.feedback for turn in self.turns)
            return [*self.prompt, {"role": "assistant", "content": written}]
        pairs = (("assistant", turn.text, "user", turn.feedback) for turn in self.turns)
        more = [
            message
            for one, text, other, feedback in pairs
            for message in ({"role": one, "content": text}, {"role": other, "content": feedback})
        ]
        return [*self.prompt, *more]

    async def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, lambda: function(*args, **kwargs))

    def usage(self) -> Usage:
        """Return the tokens so far."""
        counted = [(reply.prompt_tokens, reply.completion_tokens) for reply in self.replies]
        written = sum(completion for _, completion in counted)
        prompts = sum(prompt for prompt, _ in counted)
        between = counted[-1][0] - counted[0][0] - (written - counted[-1][1]) if counted else 0
        return Usage(
            prompt_tokens=prompts,
            completion_tokens=written,
            feedback_tokens=max(0, between),
            cost=self.server.cost(prompts, written),
            is_estimated=any(reply.is_estimated for reply in self.replies),
        )

    def trajectory(self) -> Trajectory:
        """Return the episode, without token ids."""
        info = self.turns[-1].info
        return Trajectory(
            problem_id=str(info.get("problem_id", self.spec.env_seed)),
            group_id=self.spec.group_id,
            token_ids=(),
            action_mask=(),
            logprobs=(),
            prompt_length=0,
            reward=self.reward,
            reward_valid=bool(info.get("reward_valid", True)) and not self.rejected,
            terminated=not self.truncated,
            truncated=self.truncated,
            turns=tuple(self.turns),
            boundary_cuts=0,
            policy_versions=(),
            sample=self.spec.sample,
        )
