"""Builds the initial policy (warming up a randomly initialised model), a KL penalty's reference, and what samples."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import torch
from torch.distributed.tensor import DTensor

from agents.config.training import RunArguments, TrainConfig
from agents.core import distributed
from agents.core.errors import expect
from agents.learning.optimizer import STATE_BYTES
from agents.learning.policy import Policy, place
from agents.learning.warm_up import in_fence, warm_up
from agents.models.devices import has_fast_bfloat16
from agents.models.load import load_model, no_progress_bars
from agents.models.lora import add_adapters
from agents.models.sharded import empty_model
from agents.models.support import check_length
from agents.rollout.envs import accepted
from agents.rollout.source import LocalSource, most_in_flight, open_run_engine
from agents.tracking.callbacks import Callback, SampleLog
from agents.tracking.model_card import ModelCardWriter
from agents.tracking.summary import ClosingSummary
from agents.training.checkpoint import keep_model
from agents.training.hub import HubUpload
from agents.training.weight_sync import BUCKET_BYTES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from agents.core.chat import Chat, Tools
    from agents.rollout.episode import TurnRules
    from agents.rollout.source import Source

_WARM_UP_PROBLEMS = 2000
REFERENCE = "reference"
"""The folder, beside the checkpoints, of the model from which a KL penalty measures the distance."""
START = "warmed_up"
"""The folder of the model that the warm-up has made."""


def build_policy(
    config: TrainConfig, path: Path, chat: Chat, device: torch.device, *, is_new: bool, log: Callable[[str], Any]
) -> Policy:
    """Return the policy of a run, on its device, sharded if there are several processes.

    Only a warm-up needs the whole model in one process.

    Args:
        config: The run.
        path: The folder of the model, or of a checkpoint of all its weights.
        chat: Encodes prompts and feedback.
        device: Where to.
        is_new: The run begins here: warm up, and keep the reference if a penalty needs one.
        log: Takes lines for the user.

    Raises:
        ConfigError: Episodes may be longer than the model's positions allow.
        ModelError: The model cannot be trained.
    """
    start = config.output_dir / START
    if is_new and config.warm_up_steps:
        distributed.succeed_together(lambda: _warm_up(path, start, config, chat, device, log), on_first=True)
        path = start
    needs_values = config.ppo.advantage == "gae"
    policy = open_policy(
        config,
        path,
        device,
        longest=config.rollout.max_model_len,
        log=log,
        temperature=config.rollout.temperature,
        value_head=needs_values,
        critic=load_on(path, device, log=log) if needs_values and config.ppo.critic == "separate" else None,
        entropy_gradient=config.ppo.entropy_coefficient > 0,
    )
    if is_new and config.ppo.kl_coefficient:
        keep_model(policy, config.output_dir / REFERENCE)
    if path == start:
        distributed.succeed_together(lambda: shutil.rmtree(start), on_first=True)
    return policy


def open_policy(
    config: RunArguments, path: Path, device: torch.device, *, longest: int, log: Callable[[str], Any], **others: Any
) -> Policy:
    """Return the policy with a folder's weights, with adapters if the run has some, sharded over the processes.

    Args:
        config: The run.
        path: The folder of the model, or of a checkpoint of all its weights.
        device: Where to.
        longest: Tokens of the longest row.
        log: Takes lines for the user.
        others: Further arguments of :class:`~agents.learning.policy.Policy`.

    Raises:
        ConfigError: Rows may be longer than the model's positions allow.
        ModelError: The model cannot be trained.
    """
    model = load_on(path, device, log=log)
    _check_positions(model, longest, log)
    if config.lora.rank:
        torch.manual_seed(config.seed)
        add_adapters(model, config.lora)
    policy = Policy(
        model,
        autocast=_autocast_dtype(config, device),
        gradient_checkpointing=config.gradient_checkpointing,
        compile_layers=config.compile,
        **others,
    )
    place(policy, path, device, replicas=config.num_replicas)
    return policy


def load_reference(config: TrainConfig, device: torch.device, *, log: Callable[[str], Any]) -> Policy:
    """Return the policy that a run began with; it is kept beside the checkpoints."""
    path = config.output_dir / REFERENCE
    model = load_on(path, device, log=log).requires_grad_(False)
    policy = Policy(model, temperature=config.rollout.temperature, autocast=_autocast_dtype(config, device))
    place(policy, path, device, replicas=config.num_replicas)
    return policy


def build_source(
    config: TrainConfig,
    path: Path,
    chat: Chat,
    policy: Policy,
    rules: TurnRules,
    *,
    dtype: str,
    device: torch.device,
    log: Callable[[str], Any],
) -> Source:
    """Return what samples for this process: its own engine, or those of a cluster.

    Raises:
        ConfigError: Ray is missing.
        EngineError, EngineFault: The engine cannot be opened, or there is no room for it beside the policy.
    """
    if config.cluster.engines:
        from agents.cluster.actor import Recipe, open_model
        from agents.cluster.broadcast import Broadcast
        from agents.cluster.source import open_source

        broadcast = None
        if config.cluster.weight_transfer == "nccl":
            broadcast = Broadcast(path, config.cluster, dtype=dtype, device=device, log=log)
        recipe = Recipe.of(config, partial(open_model, config, dtype, rules))
        return open_source(recipe, broadcast=broadcast, log=log)
    engine = open_run_engine(
        config,
        path,
        chat,
        dtype=dtype,
        device=device,
        number=distributed.rank(),
        reserved_bytes=reserved_bytes(policy, STATE_BYTES[config.ppo.optimizer]),
        tensor_parallel_size=config.rollout.tensor_parallel_size,
        log=log,
    )
    place: dict[str, Any] = {"rules": rules, "in_flight": most_in_flight(config.rollout, engine)}
    if config.cluster.env_actors:
        from agents.cluster.envs import EnvActorsSource

        return EnvActorsSource(engine, chat, count=config.rollout.pool_size, cluster=config.cluster, **place)
    return LocalSource(engine, chat, **place)


def reserved_bytes(policy: Policy, state_bytes: int) -> int:
    """Return the bytes that training takes while the engine is awake, beyond what it holds before the first step.

    They are the optimizer's ``state_bytes`` for each of this process's parameters, and the weights that are on their
    way to the engine.
    """
    mine = (p.to_local() if isinstance(p, DTensor) else p for p in policy.parameters() if p.requires_grad)
    largest = max(p.numel() for p in policy.model.parameters())
    return state_bytes * sum(p.numel() for p in mine) + 2 * max(BUCKET_BYTES, 4 * largest)


def with_own_callbacks(callbacks: Sequence[Callback], config: TrainConfig) -> tuple[Callback, ...]:
    """Return a run's callbacks between those of our own: samples, model card and summary first, the hub last."""
    if distributed.rank() > 0:
        return ()
    ours = SampleLog(config), ModelCardWriter(), ClosingSummary()
    return (*ours, *callbacks, *([HubUpload(config)] if config.push_to_hub else []))


def check_processes(config: TrainConfig, device: torch.device, *, log: Callable[[str], Any]) -> None:
    """Refuse a run that the processes cannot share, and name GPUs that would idle.

    Raises:
        ConfigError: Problems cannot be shared evenly among the processes, or a split engine would not get its weights.
    """
    split, count = config.rollout.tensor_parallel_size, distributed.size()
    transfer = config.cluster.weight_transfer
    expect(
        transfer == "store" or device.type == "cuda",
        "cluster.weight_transfer",
        f"store unless trainers have GPUs (here {device.type})",
        transfer,
    )
    expect(
        split == 1 or (count == 1 and device.type == "cuda" and not config.cluster.engines),
        "rollout.tensor_parallel_size",
        f"of 1 unless a single process trains, on a GPU, and sends weights to others (here {count}, on {device.type}); "
        "on a cluster cluster.engine_gpus splits an engine",
        split,
    )
    for name in () if config.cluster.engines else ("num_problems", "num_extra_problems"):
        value = getattr(config.rollout, name)
        expect(value % count == 0, f"rollout.{name}", f"a multiple of the {count} processes", value)
    if split == 1 and (idle := distributed.idle_gpus(device)):
        log(f"One GPU works and {idle} do not: torchrun --nproc-per-node {idle + 1} train.py ... uses all.")


def _autocast_dtype(config: RunArguments, device: torch.device) -> torch.dtype | None:
    """Return the dtype of a run's matrix products, if it is not that of its weights."""
    return torch.bfloat16 if config.autocast and has_fast_bfloat16(device) else None


def load_on(path: Path, device: torch.device, *, log: Callable[[str], Any]) -> PreTrainedModel:
    """Return the model of a folder in float32, on a device; for several processes without weights, for `place`."""
    if distributed.size() > 1:
        if (empty := empty_model(path)) is not None:
            return empty
        log(f"Each process loads all of {path}: its weights are not in safetensors files as `save_pretrained` writes.")
    model = load_model(path, "float32")
    torch.nn.Module.to(model, device)
    return model


def _check_positions(model: PreTrainedModel, max_model_len: int, log: Callable[[str], Any]) -> None:
    """Warn of rows that are longer than a model was made for.

    Raises:
        ConfigError: They are longer than its positions allow.
    """
    check_length(model, max_model_len)
    made_for = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if made_for is not None and max_model_len > made_for:
        log(f"Warning: episodes may have {max_model_len} tokens, though the model was made for {made_for}.")


def _warm_up(  # noqa: PLR0917 - it is a part of `build_policy`
    path: Path, start: Path, config: TrainConfig, chat: Chat, device: torch.device, log: Callable[[str], Any]
) -> None:
    """Teach a model its first steps on the training problems; an episode that ends at once tells the answer.

    Args:
        path: The model's folder.
        start: Where the model with which training begins is written to.
        config: The run.
        chat: Encodes prompts.
        device: Of the warm-up.
        log: Takes lines for the user.
    """
    model = torch.nn.Module.to(load_model(path, "float32"), device)
    env = gymnasium.make(config.env.id, **accepted(config.env, config.env.kwargs(split="train")))
    count = len(env.get_wrapper_attr("problems")) if env.has_wrapper_attr("problems") else _WARM_UP_PROBLEMS
    write_code = env.get_wrapper_attr("write_code") if env.has_wrapper_attr("write_code") else in_fence
    pairs: list[tuple[str, str]] = []
    tools: Tools = ()
    for index in range(min(_WARM_UP_PROBLEMS, count)):
        prompt, info = env.reset(seed=index, options={"problem_index": index})
        tools = info.get("tools") or ()
        *_, info = env.step("")
        pairs.append((prompt, str(info["answer"])))
    env.close()
    scripts: dict[str, Any] = {"tools": tools, "write_code": write_code}
    report = warm_up(model, chat, pairs, seed=config.seed, steps=config.warm_up_steps, log=log, **scripts)
    log(f"Warmed up in {report.seconds:.0f} s.")
    with no_progress_bars():
        model.save_pretrained(start)
