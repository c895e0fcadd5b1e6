"""Validation between training steps: the same held-out problems each time, of one or more sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from agents.core.types import Trajectory
from agents.engines.base import Sampling
from agents.rollout.envs import EnvPool, open_split
from agents.rollout.evaluate import Evaluation, evaluate

if TYPE_CHECKING:
    from agents.config.training import TrainConfig
    from agents.core.chat import Chat
    from agents.engines.base import Engine

_OF_ARM = ("accuracy", "tools/use_ratio", "completions/mean_length", "episodes/invalid_ratio")


class Validator:
    """Plays held-out problems, which are never trained on.

    Args:
        config: The run.
        engine: Samples the tokens; it gets its weights from the caller.
        chat: Encodes prompts and feedback.
    """

    def __init__(self, config: TrainConfig, engine: Engine, chat: Chat) -> None:
        self._config, self._engine, self._chat = config, engine, chat
        self._sets = {key: (self._open(problems), size) for key, (problems, size) in config.validation.sets().items()}

    def play(
        self, *, arms: bool, on_end: Callable[[str], Callable[[Trajectory], None]], on_poll: Callable[[], None]
    ) -> dict[str, Evaluation]:
        """Return the outcome of each set, and of the first one's arms ``validation_greedy`` and ``validation_text``.

        Args:
            arms: Play the latter two as well, as far as the configuration has them.
            on_end: Given a set's or an arm's name, returns what is called with each of its trajectories as it ends.
            on_poll: Called all the time; what it raises ends the validation.
        """
        config, rollout = self._config.validation, self._config.rollout
        greedy = Sampling(temperature=0, max_tokens=rollout.max_completion_length)
        sampled = replace(greedy, temperature=rollout.temperature, top_p=config.top_p)

        def play(arm: str, envs: EnvPool, sampling: Sampling, size: int) -> Evaluation:
            return evaluate(
                envs,
                self._engine,
                self._chat,
                sampling,
                num_problems=min(size, envs.num_problems or size),
                seed=self._config.seed,
                on_end=on_end(arm),
                on_poll=on_poll,
                boundary=rollout.boundary,
            )

        outcomes = {key: play(key, envs, sampled, size) for key, (envs, size) in self._sets.items()}
        first, size = self._sets["validation"]
        if arms and config.greedy:
            outcomes["validation_greedy"] = play("validation_greedy", first, greedy, size)
        if arms and config.text_prompt is not None:
            problems, _ = config.sets()["validation"]
            with closing(self._open(problems, prompt=config.text_prompt, interaction_budget=0)) as envs:
                outcomes["validation_text"] = play("validation_text", envs, sampled, size)
        return outcomes

    def close(self) -> None:
        """Close the environments."""
        for envs, _ in self._sets.values():
            envs.close()

    def _open(self, problems: str | None, **overrides: str | int) -> EnvPool:
        env, named = self._config.env, {} if problems is None else {"problems": problems}
        budget = 0 if env.interaction_budget == "0" else self._config.validation.interaction_budget
        arguments = {"interaction_budget": budget, **named, **overrides}
        return open_split(env, self._config.rollout.max_num_seqs, split="test", **arguments)


def figures_of(outcomes: Mapping[str, Evaluation]) -> dict[str, float]:
    """Return the figures of all sets and arms, by subject too; each name begins with the set's or the arm's."""
    return {f"{arm}/{name}": value for arm, outcome in outcomes.items() for name, value in _of_arm(outcome).items()}


def _of_arm(outcome: Evaluation) -> dict[str, float]:
    figures = outcome.figures()
    subjects = {f"accuracy/{subject}": value for subject, value in outcome.accuracy_by("subject").items()}
    return {name: figures[name] for name in _OF_ARM if name in figures} | (subjects if len(subjects) > 1 else {})
