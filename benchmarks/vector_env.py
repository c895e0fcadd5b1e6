"""Measure CodeMathVectorEnv against Gymnasium's vector environments and a pool of threads, in one interleaved run.

$ python benchmarks/vector_env.py --output vector_env.json
$ python benchmarks/vector_env.py --seconds 2 --episodes 1000
$ python benchmarks/vector_env.py --num-envs 8 --seconds 3 --episodes 100 --loads nap print --rounds 3

Loads: `print` (each action holds a small block), `tail` (1% of the blocks sleep), `nap` (every block sleeps for 50 ms),
and `text` (no block: what the environment itself costs). "ours, more slots" has a slot of the sandbox for each
environment instead of one per core. Then the memory of many idle episodes in one process.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

import cir_env  # noqa: F401
from agents.core.files import write_json
from agents.core.tables import table
from cir_env.vector import CodeMathVectorEnv

PRINT = "```python\nprint(6 * 7)\n```\n"
ANSWER = "\\boxed{42}"
Actions = Iterator[str]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    num_envs: int = 64
    """Environments of each contender."""
    seconds: float = 10.0
    """Length of each measurement."""
    rounds: int = 1
    """How often all contenders take turns; the medians count."""
    loads: tuple[str, ...] = ("print", "tail", "nap", "text")
    """Which loads."""
    sleep_s: float = 5.0
    """How long the blocks of the slow tail sleep."""
    episodes: int = 10_000
    """Idle episodes whose memory is measured."""
    output: Path | None = None
    """Where to write the metrics as JSON."""


def loads(config: Config) -> dict[str, Callable[[], Actions]]:
    """Return what yields actions without end, by name."""
    slow = _sleep(config.sleep_s)

    def tail() -> Actions:
        order = random.Random(0)
        while True:
            yield slow if order.random() < 0.01 else PRINT

    known: dict[str, Callable[[], Actions]] = {
        "print": lambda: itertools.repeat(PRINT),
        "tail": tail,
        "nap": lambda: itertools.repeat(_sleep(0.05)),
        "text": lambda: itertools.repeat(ANSWER),
    }
    return {name: known[name] for name in config.loads}


def _sleep(seconds: float) -> str:
    return f"```python\nimport time\ntime.sleep({seconds})\n```\n"


def arguments(config: Config) -> dict[str, Any]:
    """Return the arguments of every environment: episodes that do not end by their budget, and a patient sandbox."""
    return {"interaction_budget": 10**9, "observation": "feedback", "time_limit_s": max(5.0, config.sleep_s + 1)}


def in_batches(envs: Any, actions: Actions, seconds: float) -> float:
    """Step all environments together; return steps a second."""
    envs.reset(seed=0)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        envs.step(tuple(itertools.islice(actions, envs.num_envs)))
        count += envs.num_envs
    return count / (time.perf_counter() - start)


def by_send_and_recv(envs: CodeMathVectorEnv, actions: Actions, seconds: float) -> float:
    """Step whichever environment is ready; return steps a second."""
    envs.reset(seed=0)
    start, count = time.perf_counter(), 0
    envs.send(list(itertools.islice(actions, envs.num_envs)), range(envs.num_envs))
    while time.perf_counter() - start < seconds:
        ready = envs.recv()[4]["env_id"]
        count += len(ready)
        envs.send(list(itertools.islice(actions, len(ready))), ready)
    rate = count / (time.perf_counter() - start)
    while envs.in_flight:
        envs.recv()
    return rate


def by_threads(config: Config, actions: Actions) -> float:
    """Step single environments from a pool of threads, whichever is ready; return steps a second."""
    envs = [gymnasium.make("CodeMath-v0", **arguments(config)) for _ in range(config.num_envs)]

    def step(env: gymnasium.Env[str, str], action: str) -> gymnasium.Env[str, str]:
        *_, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
        return env

    with ThreadPoolExecutor(config.num_envs) as pool:
        for number, env in enumerate(envs):
            env.reset(seed=number)
        start, count = time.perf_counter(), 0
        flying: set[Future[gymnasium.Env[str, str]]] = {pool.submit(step, env, next(actions)) for env in envs}
        while time.perf_counter() - start < config.seconds:
            ready, flying = wait(flying, return_when=FIRST_COMPLETED)
            count += len(ready)
            flying |= {pool.submit(step, future.result(), next(actions)) for future in ready}
        rate = count / (time.perf_counter() - start)
    for env in envs:
        env.close()
    return rate


def rates(config: Config) -> dict[str, dict[str, float]]:
    """Return steps a second of each contender under each load: the median of the rounds."""
    rounds = [_round(config) for _ in range(config.rounds)]
    return {
        name: {load: statistics.median(found[name][load] for found in rounds) for load in of_loads}
        for name, of_loads in rounds[0].items()
    }


def _round(config: Config) -> dict[str, dict[str, float]]:
    metrics: dict[str, dict[str, float]] = {}
    for load, actions in loads(config).items():
        for mode, name in ((None, "ours, step"), ("sync", "SyncVectorEnv"), ("async", "AsyncVectorEnv")):
            vector = {"context": "forkserver"} if mode == "async" else {}
            options = arguments(config) | ({"vector_kwargs": vector} if vector else {})
            with closing(gymnasium.make_vec("CodeMath-v0", config.num_envs, mode, **options)) as envs:
                envs.reset(seed=0)
                envs.step((PRINT,) * config.num_envs)  # type: ignore[arg-type]
                metrics.setdefault(name, {})[load] = in_batches(envs, actions(), config.seconds)
        for name, sandbox in (("ours, send and recv", "local"), ("ours, more slots", f"local?slots={config.num_envs}")):
            with closing(CodeMathVectorEnv(config.num_envs, sandbox=sandbox, **arguments(config))) as ours:
                ours.reset(seed=0)
                ours.step((PRINT,) * config.num_envs)
                metrics.setdefault(name, {})[load] = by_send_and_recv(ours, actions(), config.seconds)
        metrics.setdefault("threads", {})[load] = by_threads(config, actions())
    return metrics


def memory(config: Config) -> dict[str, float]:
    """Return what an idle episode takes in KB, and the seconds that it takes to make and reset all of them."""
    gymnasium.make("CodeMath-v0").reset(seed=0)
    tracemalloc.start()
    start = time.perf_counter()
    envs = CodeMathVectorEnv(config.episodes)
    envs.reset(seed=0)
    seconds = time.perf_counter() - start
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    envs.send([ANSWER] * config.episodes, range(config.episodes))
    ready = 0
    start = time.perf_counter()
    while ready < config.episodes:
        ready += len(envs.recv()[0])
    answering = time.perf_counter() - start
    envs.close()
    return {"kb_per_episode": size / config.episodes / 1024, "make_and_reset_s": seconds, "answer_all_s": answering}


def main(config: Config) -> None:
    """Measure, print a table, and write the metrics."""
    metrics = rates(config)
    names = list(loads(config))
    rows = [[name, *(f"{found[load]:.0f}" for load in names)] for name, found in metrics.items()]
    print(f"\nSteps a second, {config.num_envs} environments, {len(os.sched_getaffinity(0))} cores\n")
    print(table(["contender", *names], rows))
    for contender in ("ours, send and recv", "ours, more slots"):
        for name in ("SyncVectorEnv", "AsyncVectorEnv", "threads"):
            ratios = ", ".join(f"{metrics[contender][n] / metrics[name][n]:.2f} ({n})" for n in names)
            print(f"{contender} against {name}: {ratios}")
    idle = memory(config)
    print(f"\n{config.episodes} idle episodes: {idle['kb_per_episode']:.1f} KB each, ", end="")
    print(f"{idle['make_and_reset_s']:.1f} s to make, {idle['answer_all_s']:.1f} s to answer all")
    if config.output is not None:
        write_json(config.output, {"steps_per_s": metrics, "idle": idle})


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
