"""Copies of one Gymnasium environment that are stepped concurrently.

``send`` passes an action to one copy and returns at once; ``recv`` returns the copies that are done, in the order in
which they finished.
"""

from __future__ import annotations

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from agents.core.errors import ConfigError, one_line
from agents.engines.base import Scanner

if TYPE_CHECKING:
    from agents.config.shared import EnvArguments
    from agents.config.training import RunArguments

Config = TypeVar("Config", bound="RunArguments")


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvResult:
    """What a reset or a step of one copy returned."""

    env_id: int
    """Number of the copy, from 0."""
    observation: str
    """The prompt after a reset, the feedback after a step."""
    reward: float
    """0 after a reset."""
    terminated: bool
    """False after a reset."""
    truncated: bool
    """False after a reset."""
    info: Mapping[str, Any]
    """The environment's info."""
    scanner: Scanner | None
    """Finds where the environment ends the next action, if it has a scanner; see :class:`EnvPool`."""


class EnvPool(ABC):
    """Copies of a text environment, numbered from 0; `open_pool` creates one.

    An environment may have a method ``action_scanner() -> Scanner | None``: the scanner tells an engine where to stop
    sampling. Environments without one get whole completions.
    """

    envs: Sequence[gymnasium.Env[str, str]]
    """The copies."""
    open_others: Callable[[int], EnvPool]
    """Opens that many other copies, in any process; `open_split` sets it."""

    def __len__(self) -> int:
        """Return the number of copies."""
        return len(self.envs)

    @property
    def num_problems(self) -> int | None:
        """Size of the problem set that ``problem_index`` selects from; None if the environment has none."""
        env = self.envs[0]
        return len(env.get_wrapper_attr("problems")) if env.has_wrapper_attr("problems") else None

    def traits(self, name: str) -> list[str]:
        """Return an attribute of each problem in the problem set, such as ``subject``; "" where it has none."""
        return [str(getattr(problem, name, "")) for problem in self.envs[0].get_wrapper_attr("problems")]

    @property
    def data_summary(self) -> str | None:
        """A summary of the problem set in one line, for the log; None if the environment has none."""
        env = self.envs[0]
        if env.has_wrapper_attr("data_summary"):
            return str(env.get_wrapper_attr("data_summary"))
        return None if self.num_problems is None else f"{self.num_problems:,} problems"

    def statement_keys(self) -> list[str] | None:
        """Return a key for each problem's statement; equal keys mean equal problems. None without a problem set.

        The keys are the environment's ``statement_keys`` if it has any, else the statements themselves.
        """
        env = self.envs[0]
        if env.has_wrapper_attr("statement_keys"):
            return list(env.get_wrapper_attr("statement_keys"))
        statements = [] if self.num_problems is None else self.traits("statement")
        return statements if statements and all(statements) else None

    @abstractmethod
    def reset(self, env_id: int, *, seed: int, options: Mapping[str, Any]) -> None:
        """Start an episode in one copy."""

    @abstractmethod
    def send(self, env_id: int, action: str) -> None:
        """Send an action to one copy."""

    @abstractmethod
    def recv(self, *, wait: bool) -> list[EnvResult]:
        """Return the copies that are done; with ``wait``, at least one.

        Raises:
            RuntimeError: ``wait`` is set, but nothing is in flight. Errors of an environment are raised here, too.
        """

    @abstractmethod
    def drain(self) -> None:
        """Wait for everything in flight and discard it, errors included."""

    @abstractmethod
    def close(self) -> None:
        """Close every copy, and discard what is in flight."""

    def _scanner(self, env_id: int, *, over: bool) -> Scanner | None:
        return None if over else action_scanner(self.envs[env_id])


def action_scanner(env: gymnasium.Env[str, str]) -> Scanner | None:
    """Return what finds the end of an environment's next action, if it has a scanner; see :class:`EnvPool`."""
    return env.get_wrapper_attr("action_scanner")() if env.has_wrapper_attr("action_scanner") else None


def open_pool(env_id: str, num_envs: int, **kwargs: Any) -> EnvPool:
    """Return ``num_envs`` copies of a registered environment.

    If its vector environment follows EnvPool's asynchronous convention (``send``, ``recv`` and ``send_reset``), the
    vector environment steps the copies; otherwise each copy has a thread.

    Args:
        env_id: As for ``gymnasium.make``.
        num_envs: Number of copies.
        kwargs: Keyword arguments of the environment.
    """
    name, spec = find_spec(env_id)
    if spec.vector_entry_point is not None and hasattr(_load(spec.vector_entry_point), "send_reset"):
        return VectorPool(gymnasium.make_vec(name, num_envs, "vector_entry_point", **kwargs))
    return ThreadedPool(lambda: gymnasium.make(name, **kwargs), num_envs)


def open_split(config: EnvArguments, num_envs: int, *, split: str, **overrides: Any) -> EnvPool:
    """Return copies of the configured environment with the problems of one split.

    Args:
        config: Which environment.
        num_envs: Number of copies.
        split: ``train`` or ``test``.
        overrides: Arguments that replace the configuration's.

    Raises:
        ConfigError: There is no such environment, its actions are not text, or as for `accepted`.
    """
    envs = open_pool(config.id, num_envs, **accepted(config, {**config.kwargs(split=split), **overrides}))
    if not isinstance(envs.envs[0].action_space, gymnasium.spaces.Text):
        envs.close()
        raise ConfigError(f"Expect `env.id` of an environment whose actions are text, got {config.id!r}.")
    envs.open_others = partial(open_split, config, split=split, **overrides)
    return envs


def find_spec(env_id: str) -> tuple[str, EnvSpec]:
    """Return the name and spec of an environment; as in gymnasium.make, a module before a colon is imported.

    Raises:
        ConfigError: There is no such environment, or no such module.
    """
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return name, gymnasium.spec(name)
    except (ImportError, gymnasium.error.Error) as error:
        raise ConfigError(
            f"Expect `env.id` of an environment that Gymnasium knows, or MODULE:ID of one that a module registers, "
            f"got {env_id!r}: {one_line(error)}."
        ) from error


def accepted(config: EnvArguments, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return those ``arguments`` that the environment's constructor accepts; it need not accept all of them.

    Raises:
        ConfigError: There is no such environment, or the configuration sets an argument that it does not accept.
    """
    missing = lacking(config.id, arguments)
    defaults = type(config)().kwargs(split="train")
    changed = {name for name, value in config.kwargs(split="train").items() if value != defaults[name]}
    if ignored := [f"`env.{name}`" for name in arguments if name in changed & missing]:
        names = ", ".join(ignored)
        raise ConfigError(f"Expect only arguments that the environment {config.id!r} accepts, got {names}.")
    return {name: value for name, value in arguments.items() if name not in missing}


def lacking(env_id: str, names: Iterable[str]) -> set[str]:
    """Return those ``names`` that an environment's constructor does not accept as arguments."""
    entry_point = find_spec(env_id)[1].entry_point
    parameters = inspect.signature(_load(entry_point)).parameters if entry_point is not None else {}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return set() if takes_any else set(names) - parameters.keys()


def without_presets_arguments(config: Config, preset: Config) -> Config:
    """Return the configuration with defaults in place of preset values that its environment does not accept."""
    env = config.env
    names = lacking(env.id, env.kwargs(split="train")) & env.kwargs(split="train").keys()
    defaults = type(env)()
    unset = {name for name in names if hasattr(preset.env, name) and getattr(env, name) == getattr(preset.env, name)}
    return replace(config, env=replace(env, **{name: getattr(defaults, name) for name in unset}))


def _load(entry_point: str | Callable[..., Any]) -> Callable[..., Any]:
    return entry_point if callable(entry_point) else load_env_creator(entry_point)


class VectorPool(EnvPool):
    """The copies of one vector environment; no threads are started."""

    def __init__(self, vector: Any) -> None:
        self._vector = vector
        self.envs = vector.envs

    def reset(self, env_id: int, *, seed: int, options: Mapping[str, Any]) -> None:
        """Start an episode in one copy."""
        self._vector.send_reset([env_id], [seed], [options or None])

    def send(self, env_id: int, action: str) -> None:
        """Send an action to one copy."""
        self._vector.send([action], [env_id])

    def recv(self, *, wait: bool) -> list[EnvResult]:
        """Return the copies that are done; see `EnvPool.recv`."""
        observations, rewards, terminations, truncations, infos = self._vector.recv(wait=wait)
        columns = {name: values.tolist() for name, values in infos.items()}
        env_ids = columns.pop("env_id")
        return [
            EnvResult(
                env_id=env_id,
                observation=observations[row],
                reward=float(rewards[row]),
                terminated=bool(terminations[row]),
                truncated=bool(truncations[row]),
                info={name: values[row] for name, values in columns.items()},
                scanner=self._scanner(env_id, over=bool(terminations[row] or truncations[row])),
            )
            for row, env_id in enumerate(env_ids)
        ]

    def drain(self) -> None:
        """Wait for everything in flight and discard it, errors included."""
        while self._vector.in_flight:
            with suppress(Exception):
                self._vector.recv()

    def close(self) -> None:
        """Close every copy, and discard what is in flight."""
        self._vector.close()


class ThreadedPool(EnvPool):
    """Copies of any environment, with one thread per copy, so that waiting steps overlap.

    Args:
        make_env: Creates one copy.
        num_envs: Number of copies.
    """

    def __init__(self, make_env: Callable[[], gymnasium.Env[str, str]], num_envs: int) -> None:
        with ExitStack() as made:
            self.envs = [made.enter_context(closing(make_env())) for _ in range(num_envs)]
            made.pop_all()
        self._threads = ThreadPoolExecutor(num_envs, thread_name_prefix="env")
        self._done: SimpleQueue[Future[EnvResult]] = SimpleQueue()
        self._pending = 0

    def reset(self, env_id: int, *, seed: int, options: Mapping[str, Any]) -> None:
        """Start an episode in one copy."""
        self._submit(self._reset, env_id, seed, dict(options))

    def send(self, env_id: int, action: str) -> None:
        """Send an action to one copy."""
        self._submit(self._step, env_id, action)

    def recv(self, *, wait: bool) -> list[EnvResult]:
        """Return the copies that are done; see `EnvPool.recv`."""
        if wait and not self._pending:
            raise RuntimeError("Expect a reset or an action in flight before recv(wait=True), got none.")
        results: list[EnvResult] = []
        while True:
            try:
                future = self._done.get(block=wait and not results)
            except Empty:
                return results
            self._pending -= 1
            results.append(future.result())

    def drain(self) -> None:
        """Wait for everything in flight and discard it, errors included."""
        while self._pending:
            self._done.get()
            self._pending -= 1

    def close(self) -> None:
        """Wait for the steps in progress, and close every copy."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for env in self.envs:
            env.close()

    def _submit(self, call: Callable[..., EnvResult], *args: Any) -> None:
        self._pending += 1
        self._threads.submit(call, *args).add_done_callback(self._done.put)

    def _reset(self, env_id: int, seed: int, options: dict[str, Any]) -> EnvResult:
        observation, info = self.envs[env_id].reset(seed=seed, options=options or None)
        return self._result(env_id, observation, info)

    def _step(self, env_id: int, action: str) -> EnvResult:
        observation, reward, terminated, truncated, info = self.envs[env_id].step(action)
        return self._result(env_id, observation, info, float(reward), terminated, truncated)

    def _result(  # noqa: PLR0917
        self,
        env_id: int,
        observation: str,
        info: dict[str, Any],
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
    ) -> EnvResult:
        return EnvResult(
            env_id=env_id,
            observation=observation,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            info=info,
            scanner=self._scanner(env_id, over=terminated or truncated),
        )
