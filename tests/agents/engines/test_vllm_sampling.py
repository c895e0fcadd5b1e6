"""What the vLLM engine asks for, and what it keeps of an LLM that samples one token past the end; vLLM is scripted."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from agents_fakes import CallScanner, ScannedCallEnv, episodes, played, pool, tiny_qwen2
from engine_contract import CHAT, END, PROMPT, finish

from agents.engines import vllm_engine
from agents.engines.base import Sampling
from agents.engines.vllm_engine import VllmEngine
from agents.rollout.collector import Collector

TURNS = ("ab`\nxy", "c`\nz", "de")  # the end of sequence follows the last turn


class AheadLlm:
    """Writes `TURNS`, one token a step, and begins a step before the last one's tokens are read, as vLLM does on a GPU.

    Unlike vLLM it also hands over what it has sampled for requests that were aborted meanwhile.
    """

    def __init__(self, folder: Path, *, is_async: bool = True) -> None:
        self.model_config = SimpleNamespace(model=str(folder), enable_sleep_mode=False)
        self.vllm_config = SimpleNamespace(
            model_config=self.model_config, scheduler_config=SimpleNamespace(async_scheduling=is_async)
        )
        self.asked: list[Any] = []
        self.prompts: dict[str, list[int]] = {}
        self.sampled = 0
        self._writing: dict[str, Iterator[int]] = {}
        self._begun: dict[str, int] = {}

    def add_request(self, name: str, prompt: dict[str, list[int]], params: Any) -> None:
        turn = CHAT.decode(prompt["prompt_token_ids"]).count("]\n")
        token_ids = [*CHAT.encode_feedback(TURNS[turn]), END, *[7] * 20][: params.max_tokens]
        self.asked.append(params)
        self.prompts[name], self._writing[name] = prompt["prompt_token_ids"], iter(token_ids)

    def abort_request(self, names: Sequence[str]) -> None:
        for name in names:
            self._writing.pop(name, None)

    def step(self) -> list[Any]:
        begun, self._begun = self._begun, {}
        for name, writing in self._writing.items():
            for token_id in writing:
                self._begun[name] = token_id
                self.sampled += 1
                break
        return [_output(name, [token_id]) for name, token_id in begun.items()]


def _output(name: str, token_ids: Sequence[int]) -> Any:
    logprobs = [{token_id: SimpleNamespace(logprob=-0.5)} for token_id in token_ids]
    return SimpleNamespace(request_id=name, outputs=[SimpleNamespace(token_ids=token_ids, logprobs=logprobs)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kinds = SimpleNamespace(RequestOutputKind=SimpleNamespace(DELTA="delta"))
    stub = SimpleNamespace(SamplingParams=SimpleNamespace, sampling_params=kinds)
    monkeypatch.setattr(vllm_engine, "_import_vllm", lambda: stub)
    tiny_qwen2(len(CHAT.tokenizer)).save_pretrained(tmp_path)
    return tmp_path


def engine_on(llm: AheadLlm, **settings: Any) -> VllmEngine:
    return VllmEngine(llm, CHAT, stop_token_ids=[END], max_model_len=96, **settings)


def test_tokens_past_the_end_of_a_block_are_dropped_and_counted(folder: Path) -> None:
    llm = AheadLlm(folder)
    engine = engine_on(llm)
    for number in range(3):
        engine.submit(number, PROMPT, Sampling(max_tokens=20), CallScanner())
    done = finish(engine, 3)
    assert [each.text for each in done.values()] == ["ab`\n"] * 3
    assert [each.dropped_tokens for each in done.values()] == [1] * 3
    assert llm.sampled == sum(len(each.token_ids) + each.dropped_tokens for each in done.values())


def test_the_next_turn_has_no_token_of_the_one_before(folder: Path) -> None:
    llm = AheadLlm(folder)
    with pool(lambda: ScannedCallEnv(calls=2), 4) as envs:
        collected = Collector(envs, engine_on(llm), CHAT).collect(episodes(8), Sampling(max_tokens=60))
    for each in played(collected):
        prompts = [ids for ids in llm.prompts.values() if ids == list(each.token_ids[: len(ids)])]
        assert len(prompts) >= 3
        assert CHAT.decode(each.token_ids[each.prompt_length :]).startswith("ab`\n[1]\nc`\n[2]\nde")
    assert collected is not None
    sampled = sum(sum(mask) for mask in (each.action_mask for each in collected.trajectories))
    assert collected.metrics["sampling/dropped_tokens"] == llm.sampled - sampled > 0


def test_nothing_is_sampled_past_a_length_limit(folder: Path) -> None:
    llm = AheadLlm(folder)
    engine = engine_on(llm)
    engine.submit(0, PROMPT, Sampling(max_tokens=2), CallScanner())
    assert (finish(engine, 1)[0].dropped_tokens, llm.sampled) == (0, 2)


def test_tokens_of_one_step_that_lie_past_the_end_are_dropped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = AheadLlm(folder, is_async=False)
    engine = engine_on(llm)
    engine.submit(0, PROMPT, Sampling(max_tokens=20), CallScanner())
    ids = CHAT.encode_feedback(TURNS[0])
    monkeypatch.setattr(llm, "step", lambda: [_output(next(iter(llm.prompts)), ids)])
    (done,) = engine.poll()
    assert (done.text, done.dropped_tokens) == ("ab`\n", len(ids) - len(done.token_ids))


@pytest.mark.parametrize(("has_seeds", "seed"), [(True, 5), (False, None)])
def test_requests_have_seeds_unless_all_draw_from_one_stream(has_seeds: bool, seed: int | None, folder: Path) -> None:
    llm = AheadLlm(folder)
    engine_on(llm, has_seeds=has_seeds).submit(0, PROMPT, Sampling(seed=5))
    assert llm.asked[0].seed == seed


def test_the_cache_bounds_the_engine_on_a_gpu_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = AheadLlm(folder)
    llm.vllm_config.cache_config = SimpleNamespace(num_gpu_blocks=10, block_size=16)
    assert engine_on(llm).cache_tokens is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert engine_on(llm).cache_tokens == 160
    llm.vllm_config.cache_config.kv_cache_size_tokens = 150
    assert engine_on(llm).cache_tokens == 150
