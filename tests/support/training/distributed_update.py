"""Updates of a tiny policy, by as many processes as torchrun starts; the first one writes what came of them.

torchrun --nproc-per-node 2 tests/support/training/distributed_update.py FOLDER [RUNS]

RUNS is a JSON list of arguments of train.py, for runs that follow: starting the processes takes longer than a run.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from agents_fakes import (
    EngineWithWeights,
    FakeEngine,
    pool,
    random_batch,
    small_chat,
    tiny_llama,
    tiny_qwen2,
    tiny_qwen3_moe,
)
from dispatch import Gathered
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import train
from agents.config.training import LoraConfig, PPOConfig, RolloutConfig, TrainConfig
from agents.core import distributed
from agents.core.distributed import whole, whole_together
from agents.core.errors import EngineFault
from agents.core.types import Advantages, Collected, Completion
from agents.engines.base import Sampling, Weights
from agents.learning.advantages import correction, estimate_advantages
from agents.learning.policy import Policy, shard
from agents.learning.ppo import PPO
from agents.models.lora import add_adapters, save_adapters
from agents.rollout.sampler import Sampler
from agents.rollout.source import LocalSource
from agents.training.weight_sync import sync_weights, weights_of

V = 40


CASES: dict[str, dict[str, Any]] = {
    "all weights": {},
    "a critic of its own": {"advantage": "gae", "critic": "separate"},
    "adapters": {"lora": 4},
    "experts": {"model": "qwen3_moe"},
    "adapters of experts": {"model": "qwen3_moe", "lora": 4},
    "replicas": {"replicas": 2},
    "fewer rows than processes": {"rows": 1, "advantage": "reinforce_plus_plus_baseline"},
}


def update(settings: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Return weights and log-probabilities after two updates, and the figures of the second."""
    lora, rows = settings.get("lora", 0), settings.get("rows", 7)
    make = tiny_qwen3_moe if "model" in settings else tiny_qwen2
    changes = {k: v for k, v in settings.items() if k not in ("lora", "rows", "model", "replicas")}
    model = make(V).double()
    if "model" in settings:
        model.set_experts_implementation("eager")  # the other kernels have no float64
    if lora:
        torch.manual_seed(0)
        add_adapters(model, LoraConfig(rank=lora))
    config = PPOConfig(**({"learning_rate": 1e-2, "micro_batch_tokens": 60} | changes))
    critic = tiny_qwen2(V, seed=1).double() if config.critic == "separate" else None
    policy = Policy(model, value_head=config.advantage == "gae", critic=critic).double()
    shard(policy, replicas=min(settings.get("replicas", 1), distributed.size()))
    agent = PPO(policy, config)
    batch = random_batch(V, rows=rows)
    figures: dict[str, float] = {}
    for _ in range(2):
        old = policy.evaluate(batch, config.micro_batch_tokens)
        noise = 0.2 * torch.randn(old.logprobs.shape, generator=torch.Generator().manual_seed(2)) * batch.action_mask
        old = replace(old, logprobs=old.logprobs + noise)
        aims = estimate_advantages(batch, old, config, correction(batch, old, config), agent.estimate)
        figures = agent.update(batch, old, aims, agent.minibatches(len(batch), torch.Generator().manual_seed(3)))
    tensors = {name: tensor.clone() for name, tensor in weights_of(policy.model).tensors}
    tensors |= {name: whole(p.detach()) for name, p in policy.named_parameters() if not name.startswith("model.")}
    return tensors | {"logprobs": old.logprobs}, figures


def gradient(autocast: torch.dtype | None) -> tuple[torch.Tensor, dict[str, float], int]:
    """Return the gradient of a minibatch, its metrics, and the bytes that were gathered for it."""
    policy = Policy(tiny_qwen2(V), value_head=True, autocast=autocast)
    shard(policy)
    agent, batch = PPO(policy, PPOConfig(micro_batch_tokens=60)), random_batch(V, rows=7)
    old = policy.evaluate(batch, 60)
    targets = Advantages(advantages=batch.action_mask.float(), returns=batch.action_mask.float())
    with Gathered() as gathered:
        summed = agent.accumulate(batch, old, targets)
    assert summed is not None
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    gradients = [whole(p.grad) for p in policy.parameters() if p.grad is not None]
    return torch.cat([each.flatten() for each in gradients]), summed[1], gathered.bytes


class Own(EngineWithWeights):
    """Draws by numbers of its own in each process, and in the second one is deaf if it is told to be."""

    is_deaf = False

    def submit(self, request_id: int, token_ids: Any, sampling: Sampling, *arguments: Any, **more: Any) -> None:
        super().submit(request_id, token_ids, replace(sampling, seed=sampling.seed + 99 * distributed.rank()))

    def load_weights(self, version: int, weights: Weights) -> None:
        given = dict(weights.tensors)
        super().load_weights(version, Weights.of(self.weights if self.is_deaf and distributed.rank() == 1 else given))


def probe(*, is_deaf: bool) -> str:
    """Say what comes of giving each process's engine the policy's weights."""
    chat = small_chat()
    size = len(chat.tokenizer)
    engine = Own(tiny_qwen2(size, seed=1), chat, stop_token_ids=[0], max_num_seqs=4, max_model_len=96)
    engine.is_deaf = is_deaf
    policy = Policy(tiny_qwen2(size))
    shard(policy)
    try:
        sync_weights(
            policy, LocalSource(engine, small_chat()), dtype=torch.float32, version=1, prompt=[1, 2, 3], tolerance=1e-3
        )
    except EngineFault as fault:
        return str(fault)
    return "passed"


def gathers() -> dict[str, Any]:
    """What reading a model's weights in bfloat16 costs: the bytes that each collective call puts together."""
    gather = torch.distributed.all_gather_into_tensor
    made: dict[str, Any] = {}
    for name, make, rank in (("plain", tiny_llama, 0), ("tied", tiny_qwen2, 0), ("adapters", tiny_llama, 2)):
        policy = Policy(make(V))
        if rank:
            add_adapters(policy.model, LoraConfig(rank=rank))
        shard(policy)
        calls: list[int] = []

        def counted(received: torch.Tensor, mine: torch.Tensor, calls: list[int] = calls, **more: Any) -> Any:
            calls.append(received.nbytes)
            return gather(received, mine, **more)

        torch.distributed.all_gather_into_tensor = counted
        read = dict(weights_of(policy.model, torch.bfloat16).tensors)
        torch.distributed.all_gather_into_tensor = gather
        trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
        made[name] = {"calls": calls, "tensors": len(read), "trained": trained}
    return made


def pieces() -> list[list[Any]]:
    """Tensors with rows that two processes cannot share evenly, sharded and put together again."""
    sizes = ((15, (3,)), (2, (2,)), (3, ()))
    layer = torch.nn.ParameterList(torch.arange(float(count)).view(-1, *row) for count, row in sizes)
    fully_shard(layer, mesh=init_device_mesh("cpu", (distributed.size(),)))
    return [tensor.tolist() for tensor in whole_together([p.detach() for p in layer])]


def take(sampler: Sampler, step: int) -> Collected | None:
    """The trajectories of a step, from an engine that has its weights."""
    return sampler.take(step, sync=dict, send=lambda: lambda: None, on_end=lambda _: None)


def straggler() -> dict[str, float]:
    """The metrics of a step whose second process samples slowly."""
    rollout = RolloutConfig(num_problems=4, num_generations=2, max_completion_length=60, max_model_len=96)
    engine = FakeEngine(small_chat())
    poll = engine.poll

    def slow() -> list[Completion]:
        time.sleep(0.02 + 0.08 * distributed.rank())
        return poll()

    engine.poll = slow  # type: ignore[method-assign]
    with pool(num_envs=4) as envs:
        sampler = Sampler(envs, LocalSource(engine, small_chat()), TrainConfig(rollout=rollout))
        begin = time.perf_counter()
        collected = take(sampler, 0)
        whole = time.perf_counter() - begin
        sampler.close()
    assert collected is not None
    tokens = sum(sum(each.action_mask) for each in collected.trajectories)
    return {**collected.metrics, "whole": whole, "tokens": float(tokens)}


def extra_problems() -> list[tuple[list[int], float]]:
    """For some steps the problems that are trained on and the mean reward.

    They are the first two of six with different rewards, then the first one of six.
    """
    return [step for needed in (2, 1) for step in _extra_problems(needed)]


def _extra_problems(needed: int) -> list[tuple[list[int], float]]:
    sizes = {"num_generations": 2, "max_completion_length": 60, "max_model_len": 96}
    rollout = RolloutConfig(num_problems=needed, num_extra_problems=6 - needed, **sizes)
    engine = FakeEngine(small_chat(), lambda request_id, turn, seed: "a" if seed % 2 else "x")
    with pool(num_envs=4) as envs:
        sampler = Sampler(envs, LocalSource(engine, small_chat()), TrainConfig(rollout=rollout))
        steps = [take(sampler, step) for step in range(6)]
        sampler.close()
    return [([t.group_id for t in step.trajectories], step.metrics["reward"]) for step in steps if step is not None]


def unwritable(folder: Path) -> str:
    """Say what comes of adapters that the first process cannot write."""
    (folder / "adapter").touch()
    model = tiny_qwen2(V)
    add_adapters(model, LoraConfig(rank=2))
    try:
        save_adapters(model, LoraConfig(rank=2), folder / "adapter")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "written"


def main(folder: Path) -> None:
    """Run all cases."""
    straggled = distributed.gather([straggler()])
    chosen = extra_problems()
    gathered = gathers() | {"pieces": pieces()}
    said = distributed.gather([[probe(is_deaf=False), probe(is_deaf=True), unwritable(folder)]])
    outcomes = {name: update(settings) for name, settings in CASES.items()}
    gradients = {str(dtype): gradient(dtype) for dtype in (None, torch.bfloat16)}
    if distributed.rank() == 0:
        torch.save(outcomes, folder / "outcomes.pt")
        torch.save(gradients, folder / "gradients.pt")
        (folder / "said.json").write_text(json.dumps(said))
        (folder / "straggled.json").write_text(json.dumps(straggled))
        (folder / "chosen.json").write_text(json.dumps(chosen))
        (folder / "gathered.json").write_text(json.dumps(gathered))


if __name__ == "__main__":
    distributed.start(torch.device("cpu"))
    main(Path(sys.argv[1]))
    stop, distributed.stop = distributed.stop, lambda: None  # one process group for all
    for arguments in json.loads("".join(sys.argv[2:]) or "[]"):
        sys.argv = ["train.py", *arguments]  # what the model card shows
        if code := train.main(arguments):
            sys.exit(code)
    stop()
