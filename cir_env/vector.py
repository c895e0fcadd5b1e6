"""Many episodes in one process, whose executions and gradings overlap."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from queue import Empty, SimpleQueue
from typing import Any, Literal

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray

from cir_env.env import CodeMathEnv, Stages, StepResult
from cir_env.errors import ActionError, EpisodeError, OptionError, check_integer

Batch = tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]
"""Observations, rewards, terminations, truncations, infos."""


class CodeMathVectorEnv(SyncVectorEnv):
    """``num_envs`` copies of `CodeMathEnv`, whose blocks run and whose answers are graded side by side.

    ``gymnasium.make_vec("CodeMath-v0", num_envs=N)`` makes one. `reset` and `step` are Gymnasium's: observations,
    rewards, flags and infos are those of `gymnasium.vector.SyncVectorEnv` over the same environments, in all three
    autoreset modes; only the time differs, since what the episodes of a batch wait for is waited for together.

    Beside them stands EnvPool's asynchronous convention, in which no episode waits for another: `send` hands actions to
    some of the environments and returns at once, `recv` returns those that are ready, first come first::

        observations, infos = envs.reset(seed=0)
        envs.send(policy(observations), range(envs.num_envs))
        while True:
            observations, rewards, terminations, truncations, infos = envs.recv()
            envs.send(policy(observations), infos["env_id"])

    One thread at a time may use it; it starts none of its own.

    Args:
        num_envs: How many.
        autoreset_mode: When an environment whose episode is over begins the next: at the next action ("NextStep"; that
            action is ignored), within the same step ("SameStep"; the end is in `final_obs` and `final_info`), or when
            `reset` with a `reset_mask`, or `send_reset`, says so ("Disabled").
        kwargs: As for `CodeMathEnv`, the same for all.

    Raises:
        OptionError: `num_envs` is below 1, or as `CodeMathEnv` does.
    """

    envs: list[CodeMathEnv]  # type: ignore[assignment]
    _env_obs: list[Any]

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | Literal["NextStep", "SameStep", "Disabled"] = AutoresetMode.NEXT_STEP,
        **kwargs: Any,
    ) -> None:
        check_integer("num_envs", num_envs, 1)
        super().__init__([lambda: CodeMathEnv(**kwargs)] * num_envs, copy=False, autoreset_mode=autoreset_mode)
        self._moving: SimpleQueue[int] = SimpleQueue()
        self._stages: dict[int, Stages] = {}
        self._results: dict[int, StepResult] = {}

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Begin an episode in every environment, or in those of ``options["reset_mask"]``.

        Args:
            seed: One for each environment, or the first of as many numbers in a row.
            options: As for `CodeMathEnv`, the same for all; and "reset_mask", a boolean array of shape (num_envs,).

        Raises:
            EpisodeError: A step is in flight.
        """
        if self._stages or self._results:
            raise EpisodeError(f"Expect no step in flight, got {self.in_flight}. Call recv() first.")
        observations, infos = super().reset(seed=seed, options=dict(options) if options else None)
        return tuple(observations), infos

    def step(self, actions: Sequence[str]) -> Batch:
        """Continue every episode, and wait for all.

        Args:
            actions: One string for each environment.

        Returns:
            Observations, rewards (num_envs,), terminations (num_envs,), truncations (num_envs,), and infos.

        Raises:
            ActionError: An action is not a string.
            OptionError: There are more or fewer actions than environments.
            EpisodeError: An episode is over and nothing resets it, `reset` was never called, or a step is in flight.
        """
        everyone = range(self.num_envs)
        self.send(actions, everyone)
        while len(self._results) < self.num_envs:
            self._move_on(self._moving.get())
        results = [self._results.pop(index) for index in everyone]
        infos: dict[str, Any] = {}
        for index, result in enumerate(results):
            infos = self._add_info(infos, result[4], index)
        return *_columns(results), infos

    def send(self, actions: Sequence[str], env_ids: Iterable[int]) -> None:
        """Hand actions to some environments and return at once; `recv` returns what comes of them.

        Args:
            actions: One string for each of `env_ids`.
            env_ids: Numbers of environments, from 0, that owe no result.

        Raises:
            ActionError, OptionError, EpisodeError: As in `step`, or a number is unknown or there twice. Then no action
                was handed over.
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
                "options={'reset_mask': ...} for some of them, or send_reset()."
            )
        for index, action in zip(ids, actions, strict=True):
            if self._will_reset(index):
                self._begin_episode(index, None, None)
            else:
                self._stages[index] = self.envs[index].begin_step(action)
                self._move_on(index)

    def send_reset(
        self,
        env_ids: Iterable[int],
        seeds: Sequence[int | None] | None = None,
        options: Sequence[Mapping[str, Any] | None] | None = None,
    ) -> None:
        """Begin episodes in some environments; `recv` returns their first observations, with reward 0.

        Args:
            env_ids: Numbers of environments that owe no result.
            seeds: One for each of `env_ids`.
            options: Reset options for each of `env_ids`.

        Raises:
            OptionError, ProblemError, EpisodeError: As in `send`, or as `CodeMathEnv.reset` does. The environments
                before the one at fault have begun.
        """
        ids = self._check_ids(env_ids)
        for name, values in (("seeds", seeds), ("options", options)):
            if values is not None and len(values) != len(ids):
                raise OptionError(f"Expect as many `{name}` as environments, {len(ids)}, got {len(values)}.")
        for index, seed, option in zip(ids, seeds or [None] * len(ids), options or [None] * len(ids), strict=True):
            self._begin_episode(index, seed, option)

    def recv(self, *, wait: bool = True) -> Batch:
        """Return the environments whose step or reset is done: at least one with `wait`, perhaps none without.

        Returns:
            As `step`, but for the n environments that are ready alone. ``infos["env_id"]``, an integer array of shape
            (n,), says which; every other value of `infos` is a list of length n in the same order, with None where an
            environment has no such information.

        Raises:
            EpisodeError: Nothing was sent and `wait` is asked for, or the environment is closed.
        """
        self._check_open()
        if wait and not self._stages and not self._results:
            raise EpisodeError("Expect an action in flight, got none. Call send() first.")
        while True:
            try:
                self._move_on(self._moving.get(block=wait and not self._results))
            except Empty:
                break
        ids = sorted(self._results)
        results = [self._results.pop(index) for index in ids]
        names = dict.fromkeys(name for result in results for name in result[4])
        infos: dict[str, Any] = {name: [result[4].get(name) for result in results] for name in names}
        infos["env_id"] = np.array(ids, dtype=np.int64)
        return *_columns(results), infos

    @property
    def in_flight(self) -> int:
        """How many environments owe a result."""
        return len(self._stages) + len(self._results)

    def close_extras(self, **kwargs: Any) -> None:
        """Forget what is in flight and close every environment."""
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
            raise OptionError(f"Expect `env_ids` to be several numbers, got {env_ids!r}.")
        ids = [check_integer("env_ids", index) for index in env_ids]
        unknown = [index for index in ids if not 0 <= index < self.num_envs]
        if unknown:
            raise OptionError(f"Expect `env_ids` from 0 to {self.num_envs - 1}, got {_few(unknown)}.")
        if len(set(ids)) < len(ids):
            raise OptionError(f"Expect each of `env_ids` once, got {_few(ids)}.")
        owing = [index for index in ids if index in self._stages or index in self._results]
        if owing:
            raise EpisodeError(f"Expect environments that owe no result, got {_few(owing)}. Call recv() first.")
        return ids

    def _will_reset(self, index: int) -> bool:
        return bool(self._autoreset_envs[index]) and self.autoreset_mode is AutoresetMode.NEXT_STEP

    def _begin_episode(self, index: int, seed: int | None, options: Mapping[str, Any] | None) -> None:
        observation, info = self.envs[index].reset(seed=seed, options=options)
        self._keep(index, (observation, 0.0, False, False, info))

    def _move_on(self, index: int) -> None:
        """Run an environment's step up to what it has to wait for, or to its end."""
        try:
            awaited = next(self._stages[index])
        except StopIteration as end:
            del self._stages[index]
            self._end_step(index, end.value)
        except BaseException:
            del self._stages[index]
            raise
        else:
            awaited.add_done_callback(lambda _: self._moving.put(index))

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


def _few(ids: Sequence[int]) -> str:
    """Name the first of many numbers."""
    return ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
