"""`CodeMathVectorEnv`: many episodes in one process, executed and graded concurrently."""

import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from queue import Empty, SimpleQueue
from typing import Any, Literal

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from cir_env.env import CodeMathEnv, Stages, StepResult
from cir_env.errors import ActionError, EpisodeError, OptionError, check_integer
from cir_env.problems.load import load_problems
from cir_env.problems.problem_set import ProblemSet

Batch = tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]
"""Observations, rewards, terminations, truncations, infos."""


class CodeMathVectorEnv(SyncVectorEnv):
    """``num_envs`` copies of `CodeMathEnv` that execute and grade concurrently.

    ``gymnasium.make_vec("CodeMath-v0", num_envs=N)`` creates one. `reset` and `step` follow Gymnasium: observations,
    rewards, flags and infos equal those of `gymnasium.vector.SyncVectorEnv` over the same environments, in all three
    autoreset modes. `step` is faster, since it waits for all executions and gradings of a batch together.

    In addition, `send`, `recv`, `async_reset` and `batch_size` follow EnvPool's asynchronous convention, in which no
    episode waits for another. `send` passes actions to some of the environments and returns at once; `recv` returns
    the environments that are ready, first come, first served::

        envs.async_reset()
        while True:
            observations, rewards, terminations, truncations, infos = envs.recv()
            envs.send(policy(observations), infos["env_id"])

    ``step(actions, env_ids)`` is `send` and then `recv`. Of EnvPool, there are no other arguments of `make`, no
    dm_env interface, and no XLA interface; observations are tuples of strings, not arrays. `send_reset` begins chosen
    episodes with seeds and options, which EnvPool cannot.

    Only one thread at a time may use it; it starts no threads.

    Args:
        num_envs: Number of environments.
        autoreset_mode: When an environment begins its next episode: at the next action, which is ignored ("NextStep");
            within the same step, with the end of the episode in `final_obs` and `final_info` ("SameStep"); or only on
            `reset` with a `reset_mask`, or `send_reset` ("Disabled").
        batch_size: How many environments `recv` waits for and returns; by default it waits for one, and returns all
            that are ready.
        kwargs: Arguments of `CodeMathEnv`, the same for all environments.

    Raises:
        OptionError: `num_envs` or `batch_size` is out of range, or an argument of `CodeMathEnv` is not valid.
        ProblemError: See `CodeMathEnv`.
    """

    envs: list[CodeMathEnv]  # type: ignore[assignment]
    _env_obs: list[Any]

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | Literal["NextStep", "SameStep", "Disabled"] = AutoresetMode.NEXT_STEP,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_integer("num_envs", num_envs, 1)
        if batch_size is not None and not 1 <= check_integer("batch_size", batch_size) <= num_envs:
            raise OptionError(f"Expect `batch_size` to be from 1 to {num_envs}, got {batch_size}.")
        self.batch_size = batch_size
        if not isinstance(problems := kwargs.get("problems", ""), str | os.PathLike | ProblemSet):
            reading = {name: kwargs[name] for name in ("split", "answer_type", "unreadable") if name in kwargs}
            kwargs["problems"] = load_problems(problems, **reading)  # convert rows only once
        super().__init__([lambda: CodeMathEnv(**kwargs)] * num_envs, copy=False, autoreset_mode=autoreset_mode)
        self._resumable: SimpleQueue[int] = SimpleQueue()
        self._stages: dict[int, Stages] = {}
        self._results: dict[int, StepResult] = {}

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Begin an episode in every environment, or in those that ``options["reset_mask"]`` selects.

        Args:
            seed: A list with one seed per environment, or an integer: environment i is seeded with ``seed + i``.
            options: Those of `CodeMathEnv.reset`, the same for all environments, and "reset_mask", a boolean array of
                shape (num_envs,).

        Returns:
            The prompts and the infos.

        Raises:
            EpisodeError: A step is in flight.
            OptionError, ProblemError: See `CodeMathEnv.reset`.
        """
        if self._stages or self._results:
            raise EpisodeError(f"Expect no step in flight, got {self.in_flight}. Call recv() first.")
        observations, infos = super().reset(seed=seed, options=dict(options) if options else None)
        return tuple(observations), infos

    def step(self, actions: Sequence[str], env_ids: Iterable[int] | None = None) -> Batch:
        """Step every environment and wait for all results.

        Args:
            actions: One string per environment.
            env_ids: With indices of environments, this is `send` followed by `recv`.

        Returns:
            Observations, rewards (num_envs,), terminations (num_envs,), truncations (num_envs,), and infos.

        Raises:
            ActionError: An action is not a string.
            OptionError: The number of actions is not `num_envs`.
            EpisodeError: An environment has no episode in progress and does not reset itself, or a step is in flight.
        """
        if env_ids is not None:
            self.send(actions, env_ids)
            return self.recv()
        all_ids = range(self.num_envs)
        self.send(actions, all_ids)
        while len(self._results) < self.num_envs:
            self._resume(self._resumable.get())
        results = [self._results.pop(index) for index in all_ids]
        infos: dict[str, Any] = {}
        for index, result in enumerate(results):
            infos = self._add_info(infos, result[4], index)
        return *_columns(results), infos

    def send(self, actions: Sequence[str], env_ids: Iterable[int]) -> None:
        """Begin a step in some environments and return at once; `recv` returns the results.

        Args:
            actions: One string for each of `env_ids`.
            env_ids: Indices of environments that have no step in flight.

        Raises:
            ActionError, OptionError, EpisodeError: As in `step`, or an index is unknown or repeated. No step has begun.
        """
        ids = self._check_ids(env_ids)
        several = isinstance(actions, Sized) and not isinstance(actions, str)
        if not several or len(actions) != len(ids):
            got = len(actions) if several else type(actions).__name__
            raise OptionError(f"Expect one action for each of {len(ids)} environments, got {got}.")
        for action in actions:
            if not isinstance(action, str):
                raise ActionError(f"Expect an action to be a string, got {type(action).__name__}.")
        waiting = [index for index in ids if not self._will_reset(index) and not self.envs[index].in_progress]
        if waiting:
            raise EpisodeError(
                f"Expect an episode in progress in every environment, got none in {_few(waiting)}. Call reset(), with "
                "options={'reset_mask': ...} to reset only some, or send_reset()."
            )
        for index, action in zip(ids, actions, strict=True):
            if self._will_reset(index):
                self._begin_episode(index, None, None)
            else:
                self._stages[index] = self.envs[index].begin_step(action)
                self._resume(index)

    def send_reset(
        self,
        env_ids: Iterable[int],
        seeds: Sequence[int | None] | None = None,
        options: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Begin episodes in some environments; `recv` returns their first observations with reward 0.

        Args:
            env_ids: Indices of environments that have no step in flight.
            seeds: One seed for each of `env_ids`.
            options: Reset options for each of `env_ids`.

        Raises:
            OptionError, ProblemError, EpisodeError: As in `send` and `CodeMathEnv.reset`. Environments before the
                failing one have begun their episode.
        """
        ids = self._check_ids(env_ids)
        for name, values in (("seeds", seeds), ("options", options)):
            if values is not None and len(values) != len(ids):
                raise OptionError(f"Expect as many `{name}` as environments, {len(ids)}, got {len(values)}.")
        for index, seed, option in zip(ids, seeds or [None] * len(ids), options or [None] * len(ids), strict=True):
            self._begin_episode(index, seed, option)

    def async_reset(self) -> None:
        """Begin an episode in every environment; `recv` returns their first observations. See `send_reset`."""
        self.send_reset(range(self.num_envs))

    def recv(self, *, wait: bool = True) -> Batch:
        """Return the results of the environments whose step or reset is done: at most `batch_size`.

        Args:
            wait: Whether to wait until `batch_size` are ready, or all that are in flight; otherwise there may be none.

        Returns:
            As `step`, for the n environments that are ready. ``infos["env_id"]``, an int64 array of shape (n,), holds
            their indices; every other value of `infos` is an array of shape (n,) in the same order: of numbers or
            bools, or else of objects, with None where an environment has no such key.

        Raises:
            EpisodeError: `wait` is set and nothing was sent, or the environment is closed.
        """
        self._check_open()
        if wait and not self._stages and not self._results:
            raise EpisodeError("Expect an action in flight, got none. Call send() first.")
        expected = min(self.batch_size or 1, self.in_flight) if wait else 0
        while True:
            try:
                self._resume(self._resumable.get(block=len(self._results) < expected))
            except Empty:
                break
        ids = sorted(list(self._results)[: self.batch_size])  # in the order in which they became ready
        results = [self._results.pop(index) for index in ids]
        names = dict.fromkeys(name for result in results for name in result[4])
        infos: dict[str, Any] = {name: _array([result[4].get(name) for result in results]) for name in names}
        infos["env_id"] = np.array(ids, dtype=np.int64)
        return *_columns(results), infos

    @property
    def in_flight(self) -> int:
        """Number of environments whose result `recv` has not returned yet."""
        return len(self._stages) + len(self._results)

    def close_extras(self, **kwargs: Any) -> None:
        """Discard what is in flight and close every environment."""
        for stages in self._stages.values():
            stages.close()
        self._stages.clear()
        self._results.clear()
        super().close_extras(**kwargs)

    def _check_open(self) -> None:
        if self.closed:
            raise EpisodeError("Expect an open environment, got one that is closed. Make a new one.")

    def _check_ids(self, env_ids: Iterable[int]) -> list[int]:
        self._check_open()
        if not isinstance(env_ids, Iterable):
            raise OptionError(f"Expect `env_ids` to be a sequence of integers, got {env_ids!r}.")
        ids = [check_integer("env_ids", index) for index in env_ids]
        unknown = [index for index in ids if not 0 <= index < self.num_envs]
        if unknown:
            raise OptionError(f"Expect `env_ids` to be from 0 to {self.num_envs - 1}, got {_few(unknown)}.")
        if len(set(ids)) < len(ids):
            raise OptionError(f"Expect `env_ids` to be distinct, got {_few(ids)}.")
        busy = [index for index in ids if index in self._stages or index in self._results]
        if busy:
            raise EpisodeError(f"Expect environments without a step in flight, got {_few(busy)}. Call recv() first.")
        return ids

    def _will_reset(self, index: int) -> bool:
        return bool(self._autoreset_envs[index]) and self.autoreset_mode is AutoresetMode.NEXT_STEP

    def _begin_episode(self, index: int, seed: int | None, options: Mapping[str, Any] | None) -> None:
        observation, info = self.envs[index].reset(seed=seed, options=options)
        self._keep(index, (observation, 0.0, False, False, info))

    def _resume(self, index: int) -> None:
        """Run the step of an environment until it must wait for a future, or ends."""
        try:
            awaited = next(self._stages[index])
        except StopIteration as end:
            del self._stages[index]
            self._end_step(index, end.value)
        except BaseException:
            del self._stages[index]
            raise
        else:
            awaited.add_done_callback(lambda _: self._resumable.put(index))

    def _end_step(self, index: int, result: StepResult) -> None:
        observation, reward, terminated, truncated, info = result
        if (terminated or truncated) and self.autoreset_mode is AutoresetMode.SAME_STEP:
            observation, new_info = self.envs[index].reset()
            info = {**new_info, "final_obs": result[0], "final_info": info}
        self._keep(index, (observation, reward, terminated, truncated, info))

    def _keep(self, index: int, result: StepResult) -> None:
        self._results[index] = result
        self._env_obs[index] = result[0]
        over = (result[2] or result[3]) and self.autoreset_mode is not AutoresetMode.SAME_STEP
        self._autoreset_envs[index] = over


def _columns(
    results: Sequence[StepResult],
) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    return (
        tuple(result[0] for result in results),
        np.array([result[1] for result in results], dtype=np.float64),
        np.array([result[2] for result in results], dtype=np.bool_),
        np.array([result[3] for result in results], dtype=np.bool_),
    )


def _array(values: Sequence[Any]) -> NDArray[Any]:
    """Return an array of numbers or bools if all values are of one such type, and of objects otherwise.

    >>> _array([True, False]).dtype, _array([1, 2]).dtype, _array([(1, 2), None]).shape
    (dtype('bool'), dtype('int64'), (2,))
    """
    is_plain = all(isinstance(value, bool | int | float) and type(value) is type(values[0]) for value in values)
    return np.array(values) if is_plain else np.fromiter(values, dtype=object, count=len(values))


def _few(ids: Sequence[int]) -> str:
    """List the first few indices.

    >>> _few(range(9))
    '0, 1, 2, 3, 4, ...'
    """
    return ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
