"""Measure what a Ray cluster costs and what it is worth, on two nodes of this machine.

$ python benchmarks/cluster.py
$ python benchmarks/cluster.py --parts efficiency slow

- efficiency: seconds that engines sample, by those that a request takes, with engines that sleep.
- speed: episodes per second of a tiny model in this process, with one engine elsewhere, and with two.
- faults: seconds from a fault to the end of the request that it hits. Every request must end with the trajectories of
  an undisturbed one.
- sync: bytes that arrive in each node's object store, and seconds, for weights that are stored once and for weights
  that are sent to each engine.
- slow: seconds of a request beside an engine of half the speed, with fixed shares and with the queue.

Engines that sleep take no processor time, so that their ratios hold on a busy machine; those of the tiny model do not.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents import presets
from agents.cluster.actor import Recipe, open_model
from agents.cluster.fleet import Fleet
from agents.cluster.source import ClusterSource
from agents.cluster.weights import ObjectStore, SentWeights
from agents.config.cluster import ClusterArguments, ClusterConfig
from agents.core.tables import table
from agents.core.types import EpisodeSpec, seed_of
from agents.engines.base import Sampling, Weights
from agents.models.find import resolve_model
from agents.models.load import load_model
from agents.rollout.envs import EnvPool, open_split
from agents.rollout.episode import TurnRules
from agents.rollout.source import Player, Source
from benchmarks.cluster_load import STEPS, CopyForEach, Deadly, open_noting, open_quiet, open_sleeping

ROOT = Path(__file__).parents[1]
Part = Literal["efficiency", "speed", "faults", "sync", "slow"]
Rows = list[list[str]]
_START_S = 600.0  # in which processes start on a busy machine


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure."""

    parts: tuple[Part, ...] = ("efficiency", "speed", "faults", "sync", "slow")
    """Which parts."""
    repeats: int = 3
    """Repetitions, in turn; medians are printed."""
    group: int = 4
    """Episodes of a group."""
    rows: int = 8
    """Episodes that an engine samples at once."""
    workers: tuple[int, ...] = (0, 1, 2, 4, 8)
    """Numbers of sleeping engines; 0: one in this process."""
    episode_s: float = 2.0
    """Seconds that a sleeping engine takes for an episode."""
    rounds: int = 8
    """Episodes one after the other in each row of a sleeping engine."""
    problems: int = 32
    """Groups of the tiny model."""
    tokens: int = 96
    """Tokens of its episodes."""
    patience_s: float = 30.0
    """After which a stopped engine is replaced."""
    megabytes: int = 128
    """Of weights."""
    engines: int = 4
    """That receive weights, on two nodes."""


@dataclass
class Nodes:
    """Two nodes of a cluster on this machine."""

    cluster: Any
    node: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 8, "object_store_memory": 10**9})

    def kill_second(self) -> None:
        """Kill the second node."""
        self.cluster.remove_node(next(iter(self.cluster.worker_nodes)), allow_graceful=False)

    def restore(self) -> None:
        """Let another node join if the second one is lost."""
        if not self.cluster.worker_nodes:
            self.cluster.add_node(**self.node)


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """Start two nodes, and connect to them."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    import ray
    from ray.cluster_utils import Cluster

    nodes = Nodes(Cluster())
    try:
        nodes.cluster.add_node(**nodes.node, include_dashboard=False)
        nodes.cluster.add_node(**nodes.node)
        ray.init(address=nodes.cluster.address, logging_level=logging.WARNING, log_to_driver=False)
        yield nodes
    finally:
        ray.shutdown()
        nodes.cluster.shutdown()


def main(config: Config) -> None:
    """Measure, and print a table for each part."""
    load, *_ = os.getloadavg()
    print(f"{os.cpu_count()} cores, load average {load:.1f}\n")
    with two_nodes() as nodes:
        parts: dict[Part, Callable[[Config], tuple[list[str], Rows]]] = {
            "efficiency": efficiency,
            "speed": speed,
            "faults": partial(faults, nodes=nodes),
            "sync": sync,
            "slow": slow,
        }
        for part in config.parts:
            print(table(*parts[part](config)), "\n", sep="", flush=True)


# ------------------------------------------------------------------------------------------------- engines that sleep


def efficiency(config: Config) -> tuple[list[str], Rows]:
    """Compare the seconds of requests with those that their engines must sample."""
    rows, ideal_s = [], config.rounds * config.episode_s
    for count in config.workers:
        asked = specs(max(1, count) * config.rows * config.rounds, config.group)
        with sleeping(config, engines=count) as play:
            seconds = [play(asked) for _ in range(config.repeats)]
        rows.append([in_words(count), f"{ideal_s:.2f}", f"{median(seconds):.2f}", f"{ideal_s / median(seconds):.3f}"])
    return ["engines", "ideal seconds", "seconds", "efficiency"], rows


def slow(config: Config) -> tuple[list[str], Rows]:
    """Compare fixed shares with the queue beside an engine that takes twice the time."""
    asked = specs(2 * config.rows * config.rounds, config.group)
    ideal_s = config.rounds * config.episode_s / 0.75  # one and a half engines do the work of two
    capacities = {"fixed shares": len(asked), "the queue": config.rows}  # a large one takes all groups at once
    seconds: dict[str, list[float]] = {name: [] for name in capacities}
    with ExitStack() as opened:
        plays = {
            name: opened.enter_context(sleeping(config, engines=2, factors={0: 2.0}, capacity=capacity))
            for name, capacity in capacities.items()
        }
        for _ in range(config.repeats):
            for name, play in plays.items():
                seconds[name].append(play(asked))
    rows = [[name, f"{median(each):.2f}", f"{ideal_s / median(each):.3f}"] for name, each in seconds.items()]
    return ["beside an engine of half the speed", "seconds", "of the ideal speed"], rows


@contextmanager
def sleeping(
    config: Config, *, engines: int, factors: dict[int, float] | None = None, capacity: int | None = None
) -> Iterator[Callable[[Sequence[EpisodeSpec]], float]]:
    """Open engines that sleep; yields what plays a request on them and returns its seconds."""
    recipe = Recipe(
        cluster=ClusterArguments(engines=engines, patience_s=_START_S),
        open=partial(open_sleeping, config.episode_s / STEPS, factors or {}),
        num_rows=capacity or config.rows,
        num_envs=config.rows,
        max_model_len=512,
    )
    with closing(open_quiet(config.rows)) as envs, closing(open_source(recipe)) as source:
        player = source.player(envs)
        timed(player, specs(max(1, engines) * config.rows, config.group), tokens=config.tokens)  # opens environments

        def play(asked: Sequence[EpisodeSpec]) -> float:
            return timed(player, asked, tokens=config.tokens)[0]

        yield play


# ------------------------------------------------------------------------------------------------------ a tiny model


def speed(config: Config) -> tuple[list[str], Rows]:
    """Compare engines elsewhere with one in this process."""
    asked = specs(config.problems * config.group, config.group)
    seconds: dict[int, list[float]] = {count: [] for count in (0, 1, 2)}
    digests: dict[int, set[str]] = {count: set() for count in seconds}
    with tiny_envs(config) as envs, ExitStack() as opened:
        players: dict[int, Player] = {}
        for count in seconds:
            source = opened.enter_context(closing(open_source(tiny(config, engines=count))))
            players[count] = source.player(envs)
        for player in players.values():
            timed(player, asked[: 2 * config.rows], tokens=config.tokens)  # opens environments and sandboxes
        for _ in range(config.repeats):
            for count, player in players.items():
                spent, digest = timed(player, asked, tokens=config.tokens)
                seconds[count].append(spent)
                digests[count].add(digest)
    rows = [
        [
            in_words(count),
            f"{len(asked) / median(each):.1f}",
            f"{median(seconds[0]) / median(each):.2f}",
            ", ".join(sorted(digests[count])),
        ]
        for count, each in seconds.items()
    ]
    return ["engines", "episodes/s", "to this process", "digest"], rows


def faults(config: Config, nodes: Nodes) -> tuple[list[str], Rows]:
    """Measure how long a request takes after a fault.

    Raises:
        RuntimeError: One ends with other trajectories than an undisturbed one, or no engine was lost.
    """
    asked = specs(config.problems * config.group, config.group)
    weights = load_model(resolve_model("tiny", log=lambda _: None), "float32").state_dict()
    with TemporaryDirectory() as folder, tiny_envs(config) as envs, ExitStack() as opened:
        recipe = tiny(config, engines=2)
        recipe = replace(recipe, open=partial(open_noting, Path(folder), recipe.open))
        lines: list[str] = []
        source = opened.enter_context(closing(ClusterSource(recipe, log=lines.append)))
        source.load_weights(1, Weights.of(weights))
        player = source.player(envs)

        def send(signal_: signal.Signals) -> None:
            os.kill(int((Path(folder) / "0").read_text()), signal_)

        wait_until_idle(source._fleet, 2)
        timed(player, asked, tokens=config.tokens)  # opens environments and sandboxes
        undisturbed_s, expected = timed(player, asked, tokens=config.tokens)
        rows = [["none: from the start of the request", f"{undisturbed_s:.1f}", ""]]
        while_sampling: dict[str, Callable[[], None]] = {
            "a node lost": nodes.kill_second,  # first, while there is an engine on each
            "an engine killed while it samples": lambda: send(signal.SIGKILL),
            f"an engine stopped, with a patience of {config.patience_s:g} s": lambda: send(signal.SIGSTOP),
        }
        before: dict[str, Callable[[], None]] = {
            "an engine killed between two requests": lambda: send(signal.SIGKILL),
            "an engine killed while it loads weights": lambda: source._fleet.bring(
                Deadly(sent=ObjectStore().send(1, Weights.of(weights)), mark=Path(folder) / "mark")
            ),
        }
        for name, fault in (while_sampling | before).items():
            begin: list[float] = []
            lines.clear()

            def act(_: object = None, fault: Callable[[], None] = fault, begin: list[float] = begin) -> None:
                if not begin:
                    begin.append(time.perf_counter())
                    fault()

            if name in before:
                source._fleet.bring(ObjectStore().send(2, Weights.of(weights)))
                wait_until_idle(source._fleet, 2)
                act()
            _, digest = timed(player, asked, tokens=config.tokens, on_end=act)
            ended = time.perf_counter()
            nodes.restore()
            wait_until_idle(source._fleet, 2)
            if digest != expected or not any("is lost" in line for line in lines):
                raise RuntimeError(f"Expect a lost engine and the trajectories of an undisturbed request: {name}.")
            rows.append([name, f"{ended - begin[0]:.1f}", f"{time.perf_counter() - begin[0]:.1f}"])
    return ["fault", "seconds to the end of the request", "seconds until both engines work"], rows


def tiny(config: Config, *, engines: int) -> Recipe:
    """Return how to open engines of the tiny model, with random initialisation."""
    run = presets["tiny"]()
    rollout = replace(run.rollout, num_problems=config.problems, num_generations=config.group, max_num_seqs=config.rows)
    cluster = ClusterConfig(engines=engines, patience_s=config.patience_s, max_restarts=100)
    run = replace(run, rollout=rollout.sized(on_gpu=False, processes=1), cluster=cluster)
    return Recipe.of(run, partial(open_model, run, "float32", TurnRules()))


@contextmanager
def tiny_envs(config: Config) -> Iterator[EnvPool]:
    """Open the environment of the tiny model."""
    with closing(open_split(presets["tiny"]().env, config.rows, split="train")) as envs:
        yield envs


# ------------------------------------------------------------------------------------------------------------ weights


def sync(config: Config) -> tuple[list[str], Rows]:
    """Compare weights that are stored once with weights that are sent to each engine."""
    layers = {str(n): torch.randn(2**18) for n in range(config.megabytes)}  # of a megabyte each
    arrays = {name: layer.numpy() for name, layer in layers.items()}
    ways: dict[str, Callable[[int], SentWeights]] = {
        "stored once": lambda version: ObjectStore().send(version, Weights.of(layers)),
        "a copy for each engine": lambda version: CopyForEach(version=version, arrays=arrays),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    stored: dict[str, list[list[int]]] = {name: [] for name in ways}
    recipe = Recipe(
        cluster=ClusterArguments(engines=config.engines, patience_s=_START_S),
        open=partial(open_sleeping, 0.0, {}),
        num_rows=1,
        num_envs=1,
        max_model_len=512,
    )
    version = 0
    with closing(Fleet(recipe, log=print)) as fleet:
        wait_until_idle(fleet, config.engines)
        for _ in range(config.repeats):
            for name, send in ways.items():
                version += 1
                before, begin = stored_bytes(), time.perf_counter()
                fleet.bring(send(version))
                wait_until_idle(fleet, config.engines)
                seconds[name].append(time.perf_counter() - begin)
                stored[name].append([after - each for after, each in zip(stored_bytes(), before, strict=True)])
    rows = [
        [
            name,
            *(f"{median(column) / 2**20:.0f}" for column in zip(*stored[name], strict=True)),
            f"{median(seconds[name]):.2f}",
        ]
        for name in ways
    ]
    return [f"{config.megabytes} MB to {config.engines} engines", "MB, trainer's node", "other node", "seconds"], rows


def stored_bytes() -> list[int]:
    """Return how many bytes each node's object store has taken so far; that of this process comes first."""
    import ray
    from ray._private.internal_api import node_stats  # Ray tells nobody else

    here = ray.get_runtime_context().get_node_id()
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"] != here)
    return [
        int(node_stats(node["NodeManagerAddress"], node["NodeManagerPort"]).store_stats.cumulative_created_bytes)
        for node in nodes
    ]


# ------------------------------------------------------------------------------------------------------------- common


def in_words(engines: int) -> str:
    """Return a number of engines."""
    return str(engines) if engines else "in this process"


def specs(count: int, group: int) -> list[EpisodeSpec]:
    """Return a request."""
    return [
        EpisodeSpec(
            group_id=number // group,
            env_seed=number // group,
            sampling_seed=seed_of(number),
            options={},
            sample=number % group,
        )
        for number in range(count)
    ]


def timed(
    player: Player, asked: Sequence[EpisodeSpec], *, tokens: int, on_end: Callable[[object], None] = lambda _: None
) -> tuple[float, str]:
    """Play a request; return its seconds, and a digest of its trajectories.

    Raises:
        RuntimeError: A trajectory is missing.
    """
    begin = time.perf_counter()
    collected = player.collect(asked, Sampling(max_tokens=tokens), on_end=on_end)
    spent = time.perf_counter() - begin
    if collected is None or len(collected.trajectories) != len(asked):
        raise RuntimeError("Expect a trajectory of each episode.")
    content = [(t.group_id, t.sample, t.token_ids, t.logprobs, t.reward) for t in collected.trajectories]
    return spent, hashlib.sha256(repr(content).encode()).hexdigest()[:8]


def open_source(recipe: Recipe) -> Source:
    """Return an engine in this process, or those of a cluster, once all of them work."""
    if not recipe.cluster.engines:
        return recipe.open(0)
    source = ClusterSource(recipe, log=print)
    wait_until_idle(source._fleet, recipe.cluster.engines)
    return source


def wait_until_idle(fleet: Fleet, count: int) -> None:
    """Wait until that many engines have the weights and nothing to do."""
    while len(fleet.idle) < count:
        fleet.wait()


if __name__ == "__main__":
    main(tyro.cli(Config))
