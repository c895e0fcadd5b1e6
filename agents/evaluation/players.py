"""What plays the samples of a run: a model of a folder in an engine, or one behind an API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.cluster.actor import Recipe
from agents.cluster.source import ClusterSource
from agents.config.evaluation import EvalConfig
from agents.config.served import served_name
from agents.config.shared import CHAT_TEMPLATE_KWARGS, Dtype
from agents.core.errors import EngineFault, expect
from agents.engines.chat_api import ChatServer, Traits
from agents.evaluation.manifest import weights_revision
from agents.evaluation.run_folder import RunFiles, read_manifest
from agents.models.devices import pick_device, pick_dtype
from agents.models.find import resolve_model
from agents.rollout.chat_episodes import play_chats
from agents.rollout.evaluate import evaluate
from agents.rollout.source import LocalSource, open_chat

if TYPE_CHECKING:
    import torch

    from agents.core.chat import Chat
    from agents.engines.base import Engine, Sampling
    from agents.rollout.envs import EnvPool
    from agents.rollout.source import Source

Load = Callable[[EvalConfig, Path], "tuple[Engine, Chat]"]
Decode = Callable[[Sequence[int]], str]
Play = Callable[..., object]
"""Called as `agents.rollout.evaluate.evaluate` is, without a source; ``on_end`` may also get a `Usage`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Player:
    """A model to evaluate."""

    about: Mapping[str, Any]
    """What the manifest says of it."""
    num_envs: int
    """Episodes in flight."""
    opened: Callable[[], AbstractContextManager[tuple[Play, Decode | None]]]
    """Loads the model, or connects to its API; an API decodes no token ids."""


def find_player(
    config: EvalConfig, model: str, *, load: Load | None = None, log: Callable[[str], Any] = print
) -> Player:
    """Return what plays with a model; it is not loaded yet.

    An API is asked what it can do, unless a run that can be resumed says so.

    Args:
        config: The evaluation.
        model: The model's name.
        load: Loads the model of a folder; by default :func:`load_engine`.
        log: Receives lines for the user.

    Raises:
        ConfigError: The API does not take the chat template's variables, or a filter.
        ModelError: There is no such model.
        EngineError: There is no such API, or it rejects the key or the model.
        EngineFault: An API fails.
    """
    name = served_name(model)
    if name is None:
        path = resolve_model(model, log=log)
        about = {"name": model, "revision": weights_revision(path), "dtype": config.dtype}
        load = load or load_engine
        if config.cluster.engines:
            opened = partial(_open_cluster, config, model, load, log)
            return Player(about=about, num_envs=1, opened=opened)  # a copy that says which problems there are
        opened = partial(_open_engine, partial(load, config, path))
        return Player(about=about, num_envs=config.max_num_seqs, opened=opened)
    server = ChatServer(config, name, template_kwargs=json.loads(config.chat_template_kwargs))
    traits = _earlier_traits(config, model) or server.connect()
    if config.turns != "auto":
        traits = replace(traits, turns=config.turns)
    kwargs = config.chat_template_kwargs
    is_heard = traits.extra_parameters or kwargs == CHAT_TEMPLATE_KWARGS
    expect(is_heard, "chat_template_kwargs", "unset, since the API does not take them", kwargs)
    for option in ("top_k", "min_p"):
        value = getattr(config, option)
        expect(traits.extra_parameters or value == 0, option, "unset, since the API does not take it", value)
    about = {"name": model, "revision": "unknown", "base_url": config.base_url, **asdict(traits)}
    return Player(about=about, num_envs=config.concurrency, opened=partial(_open_server, server, traits))


def _earlier_traits(config: EvalConfig, model: str) -> Traits | None:
    """Return what the API could do when an arm's run began that can be resumed."""
    names = [field.name for field in fields(Traits)]
    for arm in config.arms:
        files = RunFiles.of(config, model, arm)
        if files.num_samples() and files.manifest.exists():
            about = read_manifest(files.manifest)["run"]["model"]
            if all(name in about for name in names):
                return Traits(**{name: about[name] for name in names})
    return None


@contextmanager
def _open_engine(load: Callable[[], tuple[Engine, Chat]]) -> Iterator[tuple[Play, Decode]]:
    engine, chat = load()
    with closing(LocalSource(engine, chat)) as source:
        yield _playing(source), chat.decode


@contextmanager
def _open_cluster(
    config: EvalConfig, model: str, load: Load, log: Callable[[str], Any]
) -> Iterator[tuple[Play, Decode]]:
    recipe = Recipe(
        cluster=config.cluster,
        open=partial(_open_elsewhere, config, model, load),
        num_rows=config.max_num_seqs,
        num_envs=config.max_num_seqs,
        max_model_len=config.max_model_len,
    )
    chat = open_chat(config, resolve_model(model, log=log))
    with closing(ClusterSource(recipe, log=log)) as source:
        yield _playing(source), chat.decode


def _open_elsewhere(config: EvalConfig, model: str, load: Load, number: int) -> LocalSource:
    """Open an engine of a cluster, in its process."""
    return LocalSource(*load(config, resolve_model(model)))


def _playing(source: Source) -> Play:
    """Return what plays an evaluation with a source."""

    def play(envs: EnvPool, sampling: Sampling, **which: Any) -> object:
        return evaluate(envs, source, sampling, **which)

    return play


@contextmanager
def _open_server(server: ChatServer, traits: Traits) -> Iterator[tuple[Play, None]]:
    server.connect(traits)

    failed = 0

    def play(envs: EnvPool, sampling: Sampling, **which: Any) -> None:
        nonlocal failed
        failed += play_chats(envs, server, sampling, **which)

    yield play, None
    if failed:
        raise EngineFault(
            f"Expect an answer to each request, got none for {failed} samples: {server.last_failure}. All others are "
            "kept; the same command plays these again."
        )


def engine_dtype(config: EvalConfig, *, log: Callable[[str], Any]) -> Dtype:
    """Return the dtype of the engines' weights; warns about slow bfloat16, as far as this machine knows."""
    if config.cluster.engine_gpus:  # which this machine may lack
        return "bfloat16" if config.dtype == "auto" else config.dtype
    return pick_dtype(config.dtype, _engine_device(config), log=log)


def _engine_device(config: EvalConfig) -> torch.device:
    return pick_device("cpu" if config.cluster.engines and not config.cluster.engine_gpus else "auto")


def load_engine(config: EvalConfig, path: Path) -> tuple[Engine, Chat]:
    """Load the model of a folder into an engine; return it with its chat.

    Raises:
        ModelError: The model cannot be loaded, or its tokenizer cannot be used for chats.
    """
    from agents.engines import open_engine

    device = _engine_device(config)
    print(f"Loading {path} on {device} in {config.dtype}.", flush=True)
    chat = open_chat(config, path)
    engine = open_engine(
        config.engine,
        path,
        chat,
        dtype=config.dtype,
        device=device,
        max_num_seqs=config.max_num_seqs,
        max_model_len=config.max_model_len,
        gpu_memory_utilization=config.vllm_gpu_memory_utilization,
        tensor_parallel_size=config.gpus_of_engine,
    )
    return engine, chat
