"""Validation between training steps: the same held-out problems each time, of one or more sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agents.core.errors import ConfigError
from agents.core.types import Trajectory
from agents.engines.base import Sampling
from agents.rollout.envs import EnvPool, open_split
from agents.rollout.evaluate import Evaluation, evaluate
from agents.rollout.selection import CALLS
from agents.tracking.history import ARMS

if TYPE_CHECKING:
    from agents.config.training import TrainConfig
    from agents.rollout.source import Source

HeldOut = Mapping[str, tuple[EnvPool, int]]
"""Environments with held-out problems and how many of these are played, by what stands before the metrics."""

_NAMED = 3
_OF_ARM = (
    "accuracy",
    "completions/mean_length",
    "episodes/invalid_ratio",
    "tools/output_use_ratio",
    "tools/recovery_ratio",
    "tools/recovery_right_ratio",
    "tools/use_ratio",
)


def open_held_out(config: TrainConfig, train: EnvPool, *, log: Callable[[str], Any]) -> HeldOut:
    """Return the environments of the validation's problem sets, once their problems are known to be held out.

    Args:
        config: The run.
        train: The training environments.
        log: Called with a line about the training problems and about each set, and with warnings.

    Raises:
        ConfigError: As for `check_held_out`; the environments are closed.
    """
    if config.validation.text_prompt is not None:
        _open_text(config, copies=1).close()  # reject a bad prompt now
    with ExitStack() as opened:
        sets: dict[str, tuple[EnvPool, int]] = {}
        for key, (problems, size) in config.validation.sets().items():
            envs = opened.enter_context(closing(_open(config, problems)))
            sets[key] = envs, min(size, envs.num_problems or size)
        trained = [f"Training on {train.data_summary}."] if train.data_summary else []
        for line in trained + describe_held_out(sets):
            log(line)
        check_held_out(train, sets, config.validation.max_overlap, warn=log)
        opened.pop_all()
    return sets


def describe_held_out(sets: HeldOut) -> list[str]:
    """Return a line for the log about each set: how many problems are played, and of how many."""
    played = [(envs.data_summary, f"{size:,}") for envs, size in sets.values()]
    return [
        f"Validating on {size} of {whole}." if whole else f"Validating on {size} problems." for whole, size in played
    ]


def check_held_out(train: EnvPool, sets: HeldOut, max_overlap: float, *, warn: Callable[[str], Any]) -> None:
    """Compare the problems that a validation plays with the training problems.

    Args:
        train: The training environments.
        sets: The environments of the validation.
        max_overlap: Which share of a set's problems may be training problems as well.
        warn: Called with a warning about each set with training problems.

    Raises:
        ConfigError: The share of a set is larger.
    """
    trained = frozenset(train.statement_keys() or ())
    for key, (envs, size) in sets.items():
        found = [n for n, statement in enumerate((envs.statement_keys() or [])[:size]) if statement in trained]
        if not found:
            continue
        ids, statements = envs.traits("id"), envs.traits("statement")
        named = [f"{ids[n]} ({statements[n][:60]!r})" for n in found[:_NAMED]]
        listed = ", ".join(named) + ", ..." * (len(found) > _NAMED)
        if len(found) > max_overlap * size:
            raise ConfigError(
                f"Expect problems for {key!r} that are not trained on, got {len(found):,} of {size:,} that are: "
                f"{listed}. Name other problems with --validation.problems, or raise --validation.max-overlap."
            )
        warn(f"Warning: {len(found):,} of {size:,} problems for {key!r} are training problems, too: {listed}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """The outcome of a validation."""

    metrics: Mapping[str, float]
    """Of all sets and arms, by subject too; each name begins with the set's or the arm's."""
    trajectories: Mapping[str, Sequence[Trajectory]]
    """By set or arm."""

    def in_words(self) -> str:
        """Return the accuracy of each set and arm in a line.

        >>> Validation(metrics={"validation/accuracy": 0.5, "time/validation_s": 1.0}, trajectories={}).in_words()
        'validation 0.500'
        """
        of = {key.removesuffix("/accuracy"): value for key, value in self.metrics.items() if key.endswith("/accuracy")}
        return ", ".join(f"{name} {value:.3f}" for name, value in of.items())


class Validator:
    """Plays held-out problems, which are never trained on.

    Args:
        config: The run.
        sets: The environments, from `open_held_out`.
        source: Plays them; it gets its weights from the caller.

    Attributes:
        last_step: The step of the last validation, set by the caller; None before the first.
    """

    def __init__(self, config: TrainConfig, sets: HeldOut, source: Source) -> None:
        self._config, self._sets, self._source = config, sets, source
        self.last_step: int | None = None

    def is_due(self, step: int) -> bool:
        """Return whether to validate: before the first step, after the last, at intervals; never twice after a step."""
        every = self._config.validation.every
        is_due = self._is_at_an_end(step) or (every > 0 and step % every == 0)
        return is_due and self.last_step != step

    def play(
        self,
        step: int,
        *,
        on_begin: Callable[[str, int], Callable[[Trajectory], None]],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Validation | None:
        """Play every set, and before the first and after the last step the first set's other arms, too.

        Args:
            step: Whole steps so far.
            on_begin: Called with a phrase about a set or an arm, and the number of its episodes in this process;
                returns what is called with each of its trajectories as it ends.
            should_stop: Asked all the time; once it returns True the validation ends.

        Returns:
            The outcome of all sets, and of the arms ``validation_greedy`` and ``validation_text`` as far as the
            configuration has them; None if a process was stopped.
        """
        config, rollout = self._config.validation, self._config.rollout
        greedy = Sampling(temperature=0, max_tokens=rollout.max_completion_length)
        sampled = replace(greedy, temperature=rollout.temperature, top_p=config.top_p)
        first, size = self._sets["validation"]
        arms = [(key, envs, sampled, size) for key, (envs, size) in self._sets.items()]
        with ExitStack() as opened:
            if config.greedy and self._is_at_an_end(step):
                arms.append(("validation_greedy", first, greedy, size))
            if config.text_prompt is not None and self._is_at_an_end(step):
                text = opened.enter_context(closing(_open_text(self._config)))
                arms.append(("validation_text", text, sampled, size))
            outcomes = {}
            for place, (arm, envs, sampling, size) in enumerate(arms, 1):
                name = f"validation {place} of {len(arms)}, {ARMS.get(arm, arm)}: episode"
                on_end = on_begin(name, len(self._source.share(range(size))))
                outcome = self._play(envs, sampling, size, on_end, should_stop)
                if outcome is None:
                    return None
                outcomes[arm] = outcome
        return Validation(
            metrics=metrics_of(outcomes),
            trajectories={arm: outcome.trajectories for arm, outcome in outcomes.items()},
        )

    def close(self) -> None:
        """Close the environments."""
        for envs, _ in self._sets.values():
            envs.close()

    def _is_at_an_end(self, step: int) -> bool:
        return step in (0, self._config.max_steps)

    def _play(
        self,
        envs: EnvPool,
        sampling: Sampling,
        size: int,
        on_end: Callable[[Trajectory], None],
        should_stop: Callable[[], bool],
    ) -> Evaluation | None:
        return evaluate(
            envs,
            self._source,
            sampling,
            num_problems=size,
            seed=self._config.seed,
            on_end=on_end,
            should_stop=should_stop,
        )


def _open_text(config: TrainConfig, copies: int | None = None) -> EnvPool:
    """Open the first set's problems with the prompt of the arm without code."""
    problems, _ = config.validation.sets()["validation"]
    return _open(config, problems, copies, prompt=config.validation.text_prompt, interaction_budget=0)


def _open(config: TrainConfig, problems: str | None, copies: int | None = None, **overrides: Any) -> EnvPool:
    """Open the test split of the training problems, or problems that are named."""
    env = config.env
    named: dict[str, Any] = {} if problems is None else {"problems": problems}
    if problems not in (None, env.problems):
        named["test_share"] = 1.0  # nobody trains on the rest of such a file
    budget = 0 if env.interaction_budget == "0" else config.validation.interaction_budget
    arguments = {"interaction_budget": budget, **named, **overrides}
    return open_split(env, copies or config.rollout.num_rows, split="test", **arguments)


def metrics_of(outcomes: Mapping[str, Evaluation]) -> dict[str, float]:
    """Return the metrics of all sets and arms, by subject too; each name begins with the set's or the arm's."""
    return {f"{arm}/{name}": value for arm, outcome in outcomes.items() for name, value in _of_arm(outcome).items()}


def _of_arm(outcome: Evaluation) -> dict[str, float]:
    metrics = outcome.metrics()
    subjects = {f"accuracy/{subject}": value for subject, value in outcome.accuracy_by("subject").items()}
    kept = {name: value for name, value in metrics.items() if name in _OF_ARM or name.startswith(CALLS)}
    return kept | (subjects if len(subjects) > 1 else {})
