"""Count what an update and a weight sync ask of the machine, which does not depend on how busy it is.

$ python benchmarks/counts.py
$ python benchmarks/counts.py --engine vllm --model HuggingFaceTB/SmolLM2-135M-Instruct
torchrun --nproc-per-node 2 benchmarks/counts.py

Of a whole update (`agents.learning.step.update`), of `PPO.update` in it, of the engine's `load_weights` in a sync, and
of that in another sync of the same version:

- passes: forward passes of the model, that is, micro-batches and, with several processes, those of others;
- operators: what PyTorch dispatches below autograd; on a GPU also the kernels;
- reads: numbers and tensors that Python reads from the device, for which it waits on a GPU. On a CPU, where everything
  lies in one place, these are all that Python reads, also of tensors that would not be on the GPU;
- masked: selections by a mask, whose size Python must know, for which it waits as well;
- gathers, MB: tensors that are put together from all processes, and their size; in a single process there are none.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch.autograd import DeviceType
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1]))  # some other package may be called `agents`

from agents.config.training import PPOConfig
from agents.core import distributed
from agents.core.chat import Chat
from agents.core.files import write_json
from agents.core.tables import table
from agents.engines import open_engine
from agents.learning.policy import Policy, shard
from agents.learning.ppo import PPO
from agents.learning.step import update
from agents.models.devices import pick_device, pick_dtype
from agents.models.find import resolve_model
from agents.models.load import load_model, load_tokenizer
from agents.rollout.source import LocalSource
from agents.training.weight_sync import WeightSync
from benchmarks.trainer_load import make_load

COLUMNS = ("passes", "operators", "kernels", "reads", "masked", "gathers", "gathered_mb")
READS = (torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist)
GATHERS = {"all_gather_into_tensor", "all_gather_into_tensor_coalesced", "_allgather_base_", "allgather_"}
MAX_MODEL_LEN = 512


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to count."""

    model: str = "tiny"
    """Folder, hub name, or tiny."""
    engine: str = "transformers"
    """Gets the weights."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    groups: int = 4
    """Problems, each with 4 sequences of 56 to 456 tokens."""
    micro_batch_tokens: int = 512
    """Tokens of one forward and backward pass."""
    output: Path | None = None
    """Where to write the counts as JSON."""


class Operators(TorchDispatchMode):
    """Counts operators by what they ask of the machine."""

    def __init__(self, device: torch.device, counts: Counter[str]) -> None:
        super().__init__()
        self._device, self._counts = device.type, counts

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and count it; those of a sharded tensor are counted for its shard."""
        if DTensor in types:
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self._counts["operators"] += 1
        self._counts["reads"] += self._reads(name, args, result)
        self._counts["masked"] += name in ("nonzero", "masked_select") or (
            name.startswith("index") and any(_is_mask(index) for index in _flat(args[1:2]))
        )
        if name in GATHERS:
            whole = list(_flat([args[0] if func.namespace == "c10d" else result]))
            self._counts["gathers"] += 1
            self._counts["gathered_mb"] += sum(each.nbytes for each in whole) / 2**20
        return result

    def _reads(self, name: str, args: Sequence[Any], result: Any) -> bool:
        if name == "_local_scalar_dense":
            return bool(args[0].device.type == self._device)
        if name not in ("_to_copy", "copy_"):
            return False
        source = args[1] if name == "copy_" else args[0]
        return bool(source.device.type == self._device != result.device.type)


class Reads(TorchFunctionMode):
    """Counts what is a copy from the device on a GPU, and nothing on a CPU."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch."""
        self._counts["reads"] += func in READS
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


@contextmanager
def counting(model: torch.nn.Module, device: torch.device) -> Iterator[Counter[str]]:
    """Count what runs meanwhile."""
    counts: Counter[str] = Counter()

    def pass_begins(*_: Any) -> None:
        counts["passes"] += 1

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(pass_begins).remove)
        kernels = None
        if device.type == "cuda":
            kernels = stack.enter_context(profile(activities=[ProfilerActivity.CUDA]))
        else:
            stack.enter_context(Reads(counts))
        stack.enter_context(Operators(device, counts))
        yield counts
    if kernels is not None:
        counts["kernels"] = sum(event.device_type == DeviceType.CUDA for event in kernels.events() or ())


def main(config: Config) -> dict[str, dict[str, float]]:
    """Count, print a table in the first process, write the counts and return them."""
    device = distributed.start(pick_device(config.device))
    path = resolve_model(config.model, log=lambda _: None)
    chat, dtype = Chat(load_tokenizer(path)), pick_dtype("auto", device)
    model = load_model(path)
    torch.nn.Module.to(model, device)
    policy = Policy(model, autocast=None if dtype == "float32" else torch.bfloat16)
    shard(policy)
    ppo = PPO(policy, PPOConfig(micro_batch_tokens=config.micro_batch_tokens))
    load = make_load(model.config.vocab_size, groups=config.groups, shortest=16, longest=256, seed=0)
    found: dict[str, dict[str, float]] = {}

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            with counting(model.base_model, device) as counts:
                result = call(*arguments, **named)
            found[name] = {column: counts[column] for column in COLUMNS}
            return result

        return wrapped

    sizes = {"max_num_seqs": 8, "max_model_len": MAX_MODEL_LEN}
    with closing(open_engine(config.engine, path, chat, dtype=dtype, device=device, **sizes)) as engine:
        ppo.update = counted("PPO.update", ppo.update)  # type: ignore[method-assign]
        for step in range(2):  # the first one makes AdamW's state
            in_loss = [True] * len(load.trajectories)
            counted("update", update)(ppo, load.trajectories, in_loss, seed=0, step=step)
        sync, load_weights = (
            WeightSync(policy, LocalSource(engine, chat), chat, dtype, prompt_length=64),
            engine.load_weights,
        )
        for name in ("sync", "sync of the same version"):
            engine.load_weights = counted(name, load_weights)  # type: ignore[method-assign]
            sync(1)
    if distributed.rank() == 0:
        print(report(found))
        if config.output is not None:
            write_json(config.output, found)
    distributed.stop()
    return found


def report(found: Mapping[str, Mapping[str, float]]) -> str:
    """Return the counts as a table, and those of an update also for each pass."""
    rows = {name: dict(counts) for name, counts in found.items()}
    for name, counts in found.items():
        if counts["passes"] > 1:
            rows[f"{name}, a pass"] = {column: value / counts["passes"] for column, value in counts.items()}
    cells = [[name, *(f"{counts[column]:,.4g}" for column in COLUMNS)] for name, counts in rows.items()]
    return table(["", *COLUMNS], cells)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
