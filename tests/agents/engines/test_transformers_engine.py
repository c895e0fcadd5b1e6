"""The transformers engine samples the tokens of the trainer's model, whatever else is running."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from agents_fakes import (
    EOS,
    MODELS,
    CallEnv,
    CallScanner,
    EngineWithWeights,
    FakeEngine,
    ScannedCallEnv,
    episodes,
    pool,
    stretched,
    tiny_deepseek,
    tiny_llama,
    tiny_mixtral,
    tiny_qwen2,
    tiny_qwen3_moe,
    tokenizer,
    transformers_engine,
    twin,
)
from engine_contract import CHAT, END, LAWS, PROMPT, Law, check_filters, complete, complete_all, finish
from fakes import FakeSandbox
from fakes import make as make_code_math
from tokenizer_families import FAMILIES as TOKENIZERS
from transformers import LlamaForCausalLM, PreTrainedModel

from agents.core.chat import Chat
from agents.core.errors import ConfigError, ModelError
from agents.core.types import Trajectory
from agents.engines.base import Sampling, Weights
from agents.engines.transformers_engine import TransformersEngine, _draw, _filtered
from agents.learning.batching import collate
from agents.learning.policy import Policy
from agents.rollout.collector import collect
from cir_env.sandbox import ExecutionResult, Limits, Status

V = len(CHAT.tokenizer)
BROKEN = {
    name: ["<0xC3>", "<0xE2>"] if "<0xC3>" in make().get_vocab() else ["Ã", "â"] for name, make in TOKENIZERS.items()
}
"""Tokens of bytes that begin a character, for each family of tokenizers."""

both_models = pytest.mark.parametrize("make_model", list(MODELS.values()), ids=list(MODELS))
MakeModel = Callable[..., PreTrainedModel]

ENGINES: dict[str, Callable[..., Any]] = {
    "fake": lambda **arguments: FakeEngine(CHAT, **arguments),
    "qwen2": lambda **arguments: transformers_engine(tiny_qwen2(V), CHAT, **arguments),
    "llama": lambda **arguments: transformers_engine(tiny_llama(V), CHAT, **arguments),
}


def test_a_waiting_request_takes_the_longest_idle_row() -> None:
    engine = transformers_engine(tiny_qwen2(V), CHAT, max_num_seqs=2)
    for request_id in (0, 1):
        engine.submit(request_id, PROMPT, Sampling(max_tokens=2 + 3 * request_id))
    finish(engine, 2)
    engine.submit(2, PROMPT, Sampling(max_tokens=2))
    finish(engine, 1)
    assert set(engine._rows) == {1, 2}


def test_a_returning_request_finds_its_cache_while_there_is_room() -> None:
    engine = transformers_engine(tiny_qwen2(V), CHAT, max_num_seqs=1, max_model_len=50)
    prompts = {number: [number] * 18 for number in range(4)}
    for number, prompt in prompts.items():
        engine.submit(number, prompt, Sampling(max_tokens=3))
        finish(engine, 1)
    assert {number: cached[:18] for number, (cached, *_) in engine._aside.items()} == {
        number: prompts[number]
        for number in (1, 2)  # two of them fit beside the row; the oldest went
    }
    engine.submit(2, [*prompts[2], 5, 6, 7], Sampling(max_tokens=3))
    engine.poll()
    assert 2 not in engine._aside
    assert len(engine._cached[0]) == 19  # the prompt was there, and one token was fed
    engine.release(1)
    engine.load_weights(1, Weights.of(tiny_qwen2(V).state_dict()))
    assert engine._aside == {}


def test_a_request_keeps_its_row_if_no_other_waits() -> None:
    engine = transformers_engine(tiny_qwen2(V), CHAT, max_num_seqs=1)
    complete_turns = [PROMPT]
    for turn in range(3):
        engine.submit(0, complete_turns[-1], Sampling(max_tokens=4, seed=turn))
        done = finish(engine, 1)[0]
        cached = engine._cached[0]
        assert cached == [*complete_turns[-1], *done.token_ids][: len(cached)]
        assert len(cached) >= len(complete_turns[-1]) + len(done.token_ids) - 1
        complete_turns.append((*complete_turns[-1], *done.token_ids))


def test_sleep_drops_the_cache_of_idle_requests() -> None:
    model = tiny_qwen2(V)
    engine = transformers_engine(model, CHAT, max_num_seqs=1)
    engine.submit(0, PROMPT, Sampling(max_tokens=3))
    finish(engine, 1)
    engine.sleep()
    engine.load_weights(1, Weights.of(model.state_dict()))
    for request_id in (1, 0):
        engine.submit(request_id, PROMPT, Sampling(max_tokens=3))
        finish(engine, 1)
    assert set(engine._aside) == {1}


@pytest.mark.parametrize("max_model_len", [96, 127, 128, 200, 320])
def test_a_rows_numbers_do_not_depend_on_how_long_its_neighbours_are(max_model_len: int) -> None:
    outcomes = []
    for length in (5, max_model_len - 3):
        engine = transformers_engine(tiny_llama(V), CHAT, max_num_seqs=2, max_model_len=max_model_len)
        engine.submit(0, PROMPT, Sampling(seed=1, max_tokens=20))
        engine.submit(1, [7] * length, Sampling(seed=2, max_tokens=2))
        outcomes.append(finish(engine, 2)[0].logprobs)
    assert outcomes[0] == outcomes[1]


class WatchedEngine(TransformersEngine):
    """Allows passes with any even number of rows, and records their numbers."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.sizes: list[int] = []
        super().__init__(*arguments, **keywords)
        self.sizes.clear()  # of the check that the engine fits the model

    def _equal_sizes(self) -> list[int]:
        return list(range(2, len(self._cached) + 1, 2))

    def _pass(self, tokens: list[int], *arguments: list[int]) -> torch.Tensor:
        self.sizes.append(len(tokens))
        return super()._pass(tokens, *arguments)


def test_few_running_requests_share_a_small_pass_and_keep_their_cache() -> None:
    model, count = tiny_llama(V), 8
    watched = WatchedEngine(twin(model), CHAT, stop_token_ids=(), max_num_seqs=count, max_model_len=96)
    plain = TransformersEngine(twin(model), CHAT, stop_token_ids=(), max_num_seqs=count, max_model_len=96)
    contexts = {n: [*PROMPT, n] for n in range(count)}
    for turn in range(3):
        found = []
        for engine in (watched, plain):
            for n, context in contexts.items():
                engine.submit(n, context, Sampling(seed=count * turn + n, max_tokens=2 + 2 * ((n + 3 * turn) % count)))
            found.append(finish(engine, count))
        for n, completion in found[0].items():
            assert completion.token_ids == found[1][n].token_ids
            assert completion.logprobs == pytest.approx(found[1][n].logprobs, abs=1e-5)
            contexts[n] += [*completion.token_ids, 5]
            assert watched._cached[watched._rows[n]] == contexts[n][:-2]
    assert set(watched.sizes) == {2, 4, 6, 8}
    assert watched.sizes[0] == 8
    for n in contexts:
        watched.release(n)
    assert sorted(watched._free) == list(range(count))


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_passes_in_float32_may_have_few_rows() -> None:
    engine = transformers_engine(tiny_llama(V), CHAT, max_num_seqs=32)
    assert engine._equal_sizes() == [4, 8, 12, 16, 20, 24, 28, 32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("hidden_size", [pytest.param(32, marks=pytest.mark.thorough), 256])
@pytest.mark.slow
@pytest.mark.usefixtures("threads")
def test_a_rows_numbers_do_not_depend_on_the_number_of_other_rows(dtype: torch.dtype, hidden_size: int) -> None:
    model = tiny_llama(V, hidden_size=hidden_size).to(dtype)
    outcomes = []
    for others in (0, 3, 15):
        engine = transformers_engine(model, CHAT, max_num_seqs=16)
        for n in range(others + 1):
            engine.submit(n, [*PROMPT, n], Sampling(seed=n, max_tokens=30 if n == others else 5 + n))
        outcomes.append(finish(engine, others + 1)[others])
    for n, outcome in zip((0, 3, 15), outcomes, strict=True):
        engine = transformers_engine(model, CHAT, max_num_seqs=16)
        engine.submit(n, [*PROMPT, n], Sampling(seed=n, max_tokens=30))
        assert finish(engine, 1)[n].logprobs == outcome.logprobs


def test_a_sleeping_engine_holds_no_cache_and_wakes_with_new_weights() -> None:
    model = tiny_qwen2(V)
    engine = transformers_engine(model, CHAT)
    before = complete(engine).token_ids
    engine.sleep()
    assert engine._cache._store == []
    engine.load_weights(1, Weights.of(model.state_dict()))
    assert complete(engine).token_ids == before


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("kind", ENGINES)
def test_the_engine_keeps_the_contract(kind: str, law: Law) -> None:
    law(ENGINES[kind])


# --------------------------------------------------------------------------------------------------------- exactness


def difference(made: Sequence[Trajectory], model: PreTrainedModel, temperature: float = 1.0) -> float:
    """The largest difference between the engine's and the trainer's log-probability of a sampled token."""
    batch = collate(made)
    output = Policy(model, temperature=temperature).evaluate(batch, 5)
    return (output.logprobs - batch.sampling_logprobs)[batch.action_mask].abs().max().item()


@pytest.mark.parametrize(
    ("make_model", "make_env", "rows", "num_envs", "count"),
    [(tiny_qwen2, ScannedCallEnv, 1, 3, 5), (tiny_qwen2, ScannedCallEnv, 3, 6, 14), (tiny_llama, CallEnv, 5, 4, 9)],
)
@pytest.mark.slow
def test_over_whole_trajectories_the_trainers_logprobs_equal_the_engines(
    make_model: MakeModel, make_env: Callable[..., CallEnv], rows: int, num_envs: int, count: int
) -> None:
    model = make_model(V)
    engine = transformers_engine(model, CHAT, max_num_seqs=rows)
    with pool(lambda: make_env(calls=3, delay_s=0.002), num_envs) as envs:
        made = collect(envs, engine, CHAT, episodes(count), Sampling(max_tokens=70))
    assert difference(made, model) < 1e-4
    assert max(len(each.turns) for each in made) >= 3
    if count == 14:
        assert sum(each.boundary_cuts for each in made) > 0


@pytest.mark.parametrize(
    "family", [pytest.param(each, marks=pytest.mark.thorough) if n % 3 else each for n, each in enumerate(TOKENIZERS)]
)
@pytest.mark.slow
def test_logprobs_agree_with_every_family_of_tokenizers_and_a_padded_vocabulary(family: str) -> None:
    made = TOKENIZERS[family]()
    chat, size = Chat(made, "raw"), len(made)
    model = tiny_llama(size + 7)
    ends = chat.encode_feedback("`\n")
    model.lm_head.weight.data[[*ends, *made.convert_tokens_to_ids(BROKEN[family])]] *= 4  # sampled often
    with pool(lambda: ScannedCallEnv(calls=3)) as envs:
        trajectories = collect(envs, transformers_engine(model, chat), chat, episodes(24), Sampling(max_tokens=80))
    assert difference(trajectories, model) < 1e-4
    assert max(len(each.turns) for each in trajectories) >= 2
    assert any("\ufffd" in each.text for each in trajectories)
    assert any(token_id >= size for each in trajectories for token_id in each.token_ids)
    feedback = str(chat.encode_feedback("[1]\n")).strip("[]")
    assert all(feedback in str(each.token_ids) for each in trajectories if len(each.turns) > 1)


def test_logprobs_agree_at_another_temperature() -> None:
    model = tiny_qwen2(V)
    with pool() as envs:
        engine = transformers_engine(model, CHAT)
        made = collect(envs, engine, CHAT, episodes(6), Sampling(temperature=0.7, max_tokens=40))
    assert difference(made, model, temperature=0.7) < 1e-4
    assert difference(made, model) > 1e-2


@pytest.mark.slow
def test_logprobs_agree_with_long_feedback() -> None:
    class Wordy(ScannedCallEnv):
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
            observation, reward, terminated, truncated, info = super().step(action)
            return observation * 12, reward, terminated, truncated, info

    model = tiny_llama(V)
    with pool(Wordy) as envs:
        engine = transformers_engine(model, CHAT, max_model_len=300)
        made = collect(envs, engine, CHAT, episodes(10), Sampling(max_tokens=250))
    assert difference(made, model) < 1e-4
    assert any(len(turn.feedback) > 40 for each in made for turn in each.turns)


@pytest.mark.slow
def test_logprobs_agree_with_shared_prompts_and_long_caches() -> None:
    class Told(ScannedCallEnv):
        problems = tuple("tell us and " * 12 + f"Q{n}: " for n in range(8))

    model = tiny_qwen2(V)
    engine = transformers_engine(model, CHAT, max_num_seqs=3, max_model_len=320)
    with pool(Told) as envs:
        made = [
            *collect(envs, engine, CHAT, episodes(8), Sampling(max_tokens=60)),
            *collect(envs, engine, CHAT, episodes(5, group_size=1), Sampling(max_tokens=60)),
        ]
    assert difference(made, model) < 1e-4
    assert max(len(each.token_ids) for each in made) > 128


FAMILIES: dict[str, MakeModel] = {
    "a window in all layers": partial(tiny_qwen2, use_sliding_window=True, sliding_window=16, max_window_layers=0),
    "a window in one layer": partial(tiny_qwen2, use_sliding_window=True, sliding_window=16, max_window_layers=1),
    "Qwen3-MoE": tiny_qwen3_moe,
    "Mixtral": tiny_mixtral,
    "DeepSeek-V3": tiny_deepseek,
}


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.slow
def test_logprobs_agree_with_windows_experts_and_latent_attention(make: MakeModel) -> None:
    model = make(V)
    with pool(lambda: ScannedCallEnv(calls=3)) as envs:
        engine = transformers_engine(model, CHAT)
        made = collect(envs, engine, CHAT, episodes(6), Sampling(max_tokens=70))
    assert difference(made, model) < 1e-4
    assert max(len(each.token_ids) for each in made) > 64


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_an_engine_for_longer_rows_than_positions_allow_is_rejected(kind: str) -> None:
    model = stretched(V, kind, made_for=96)
    transformers_engine(model, CHAT, max_model_len=96)
    with pytest.raises(
        ConfigError, match=rf"^Expect `max_model_len` of at most 96 for `{kind}` positions, .*, got 97\.$"
    ):
        transformers_engine(model, CHAT, max_model_len=97)


class Doubled(LlamaForCausalLM):
    """Transforms its logits in code, without a word in its configuration."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        output = super().forward(*arguments, **keywords)
        output.logits = 2 * output.logits
        return output


def test_an_engine_that_would_change_logprobs_is_rejected() -> None:
    wrong = (
        r"^Expect a model for the engine transformers, got Doubled, whose log-probabilities it would change by .*\.$"
    )
    with pytest.raises(ModelError, match=wrong):
        TransformersEngine(Doubled(tiny_llama(V).config), CHAT, stop_token_ids=())


def test_logprobs_agree_after_new_weights_during_sampling() -> None:
    first, second = tiny_qwen2(V, seed=1), tiny_qwen2(V, seed=2)
    engine = transformers_engine(first, CHAT)
    engine.submit(0, PROMPT, Sampling(max_tokens=4))
    done = finish(engine, 1)[0]
    engine.load_weights(1, Weights.of(second.state_dict()))
    context = [*PROMPT, *done.token_ids]
    engine.submit(0, context, Sampling(max_tokens=6))
    done = finish(engine, 1)[0]
    assert reported(second, context, done.token_ids) == pytest.approx(done.logprobs, abs=1e-4)


def taught(texts: Sequence[str], chat: Chat) -> PreTrainedModel:
    """A model that mostly samples one of the texts."""
    model = tiny_qwen2(len(chat.tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(22):
        for ids in map(chat.encode_feedback, texts):
            model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


class PrintsOne(FakeSandbox):
    """Executes nothing, since a model's code is untrusted."""

    def execute(self, code: str, limits: Limits | None, namespace: dict[str, Any]) -> ExecutionResult:
        return ExecutionResult(status=Status.OK, stdout="1\n", error="", cpu_seconds=0.0)


@pytest.mark.slow
def test_logprobs_agree_with_executed_python_blocks() -> None:
    chat = Chat(tokenizer(), "raw")
    block, feedback = "```python\nprint(1)\n```\n", "```output\n1\n```\n"
    model = taught(
        [f"Q: {block}{feedback}yes{EOS}", f"Q: a{block}So", f"Q: a{block}{feedback}{block}{feedback}[4]{EOS}"], chat
    )
    engine = transformers_engine(model, chat, max_num_seqs=3, max_model_len=160)
    arguments: dict[str, Any] = {"prompt": lambda _: "Q: ", "observation": "feedback", "sandbox": PrintsOne()}
    with pool(lambda: make_code_math(**arguments), 5) as envs:
        made = collect(envs, engine, chat, episodes(10), Sampling(max_tokens=150))
    assert difference(made, model) < 1e-4
    assert sum(turn.feedback == feedback for each in made for turn in each.turns) > 8
    assert sum(each.boundary_cuts for each in made) > 0


def reported(model: PreTrainedModel, context: Sequence[int], token_ids: Sequence[int]) -> list[float]:
    """The plain model's log-probabilities of the tokens."""
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *token_ids]])).logits[0, len(context) - 1 : -1]
    return [logits[n].log_softmax(-1)[token_id].item() for n, token_id in enumerate(token_ids)]


@both_models
def test_a_completions_logprobs_are_those_of_the_plain_model(make_model: MakeModel) -> None:
    model = make_model(V)
    done = complete(transformers_engine(model, CHAT), max_tokens=30)
    assert reported(model, PROMPT, done.token_ids) == pytest.approx(done.logprobs, abs=1e-4)


@pytest.mark.parametrize("length", [2, 24, 25, 26, 60])
def test_a_prompt_of_any_length_is_computed_in_the_same_way(length: int) -> None:
    model, context = tiny_llama(V), [3 + n % 40 for n in range(length)]
    done = complete(transformers_engine(model, CHAT), context=context, max_tokens=5)
    assert reported(model, context, done.token_ids) == pytest.approx(done.logprobs, abs=1e-4)


def test_a_request_with_a_changed_context_is_recomputed() -> None:
    model = tiny_qwen2(V)
    engine = transformers_engine(model, CHAT)
    for context in ([*PROMPT, 5, 6, 7], [*PROMPT, 9], [8, *PROMPT], [*PROMPT]):
        engine.submit(0, context, Sampling(max_tokens=3))
        done = finish(engine, 1)[0]
        assert reported(model, context, done.token_ids) == pytest.approx(done.logprobs, abs=1e-4)


def prefills(engine: TransformersEngine, contexts: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Shapes of the passes with several tokens of a row that a started engine makes for new requests."""
    complete(engine, max_tokens=1)
    shapes: list[tuple[int, ...]] = []
    engine._model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    for request_id, context in enumerate(contexts):
        engine.submit(request_id, context, Sampling(seed=request_id, max_tokens=2))
    finish(engine, len(contexts))
    return [shape for shape in shapes if shape[1] > 1]


@pytest.mark.parametrize(("length", "expected"), [(66, [(1, 64)]), (100, [(1, 64)] * 2), (129, [(1, 64)] * 2)])
def test_a_shared_prompt_is_prefilled_once(length: int, expected: list[tuple[int, int]]) -> None:
    engine = transformers_engine(tiny_qwen2(V), CHAT, max_num_seqs=5, max_model_len=160)
    assert prefills(engine, [[3 + n % 40 for n in range(length)]] * 4) == expected


def test_chunks_of_one_length_are_prefilled_together_and_shared_ones_once() -> None:
    engine = transformers_engine(tiny_qwen2(V), CHAT, max_num_seqs=8, max_model_len=160)
    shared = [3 + n % 40 for n in range(70)]
    contexts = [[*shared, *[50 + number] * 40] for number in range(6)] + [[*shared, *[57] * 50]]
    assert prefills(engine, contexts) == [(1, 64), (4, 64), (2, 64), (1, 64)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.usefixtures("threads")
def test_a_context_prefilled_beside_others_has_the_same_bits(dtype: torch.dtype) -> None:
    model = tiny_llama(V, hidden_size=256).to(dtype)
    contexts = [[3 + (n * step) % 40 for n in range(length)] for step, length in enumerate([60, 60, 60, 130, 130], 1)]
    engine = transformers_engine(model, CHAT, max_num_seqs=5, max_model_len=160)
    for number, context in enumerate(contexts):
        engine.submit(number, context, Sampling(seed=number, max_tokens=8))
    together = finish(engine, len(contexts))
    for number, context in enumerate(contexts):
        alone = transformers_engine(model, CHAT, max_num_seqs=5, max_model_len=160)
        alone.submit(number, context, Sampling(seed=number, max_tokens=8))
        assert finish(alone, 1)[number] == together[number]


class OddTogether(EngineWithWeights):
    """Its kernels compute other bits for several rows."""

    def _prefill(self, rows: list[int], *arguments: Any) -> None:
        super()._prefill(rows, *arguments)
        if len(rows) > 1:
            self._cache.put(rows[-1], [(keys * 1.01, values) for keys, values in self._cache.lift(rows[-1], 32)])


def test_contexts_are_prefilled_alone_where_others_would_change_their_bits() -> None:
    engine = OddTogether(tiny_qwen2(V), CHAT, stop_token_ids=(), max_num_seqs=4, max_model_len=96)
    assert prefills(engine, [[3 + number] * 40 for number in range(4)]) == [(1, 64)] * 4


@pytest.mark.slow
@pytest.mark.parametrize("length", [20, 64, 65, 89, 90, 110])
def test_previous_content_of_a_row_changes_no_bit_of_a_new_context(length: int) -> None:
    context = [3 + n % 40 for n in range(length)]
    alone = transformers_engine(tiny_llama(V), CHAT, max_num_seqs=3, max_model_len=128)
    alone.submit(0, context, Sampling(seed=1, max_tokens=6))
    expected = finish(alone, 1)[0]
    for same in (0, 5, 25, 64, 70, 90, 100):
        used = transformers_engine(tiny_llama(V), CHAT, max_num_seqs=3, max_model_len=128)
        for request_id in (1, 2, 3):
            other = [*context[:same], *[50 + (n + request_id) % 7 for n in range(100 - same)]]
            used.submit(request_id, other, Sampling(seed=request_id, max_tokens=2 * request_id))
        finish(used, 3)
        for request_id in (1, 3):
            used.release(request_id)
        used.submit(0, context, Sampling(seed=1, max_tokens=6))
        assert finish(used, 1)[0] == expected


def test_in_bfloat16_they_are_close() -> None:
    model = tiny_qwen2(V)
    engine = TransformersEngine(twin(model).bfloat16(), CHAT, stop_token_ids={END}, max_num_seqs=3, max_model_len=96)
    with pool() as envs:
        made = collect(envs, engine, CHAT, episodes(6), Sampling(max_tokens=40))
    assert 0 < difference(made, model) < 0.5


# ---------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.slow
def test_tokens_are_drawn_from_the_models_distribution() -> None:
    model = tiny_qwen2(V)
    engine = transformers_engine(model, CHAT, max_num_seqs=50)
    draws: Counter[int] = Counter()
    for round_ in range(60):
        for request_id in range(50):
            engine.submit(request_id, PROMPT, Sampling(seed=50 * round_ + request_id, max_tokens=1))
        draws.update(done.token_ids[0] for done in finish(engine, 50).values())
        for request_id in range(50):
            engine.release(request_id)
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT])).logits[0, -1].softmax(-1)
    share = torch.tensor([draws[token_id] / 3000 for token_id in range(V)])
    assert (share - expected).abs().sum() / 2 < 0.08  # total variation; 3,000 fair draws give about 0.05


def test_at_temperature_zero_the_likeliest_token_is_taken() -> None:
    model = tiny_llama(V)
    engine = transformers_engine(model, CHAT)
    engine.submit(0, PROMPT, Sampling(temperature=0, max_tokens=8))
    done = finish(engine, 1)[0]
    context = list(PROMPT)
    for token_id in done.token_ids:
        with torch.no_grad():
            assert model(torch.tensor([context])).logits[0, -1].argmax().item() == token_id
        context.append(token_id)
    assert reported(model, PROMPT, done.token_ids) == pytest.approx(done.logprobs, abs=1e-4)


def test_greedy_and_sampled_requests_run_side_by_side() -> None:
    engine = transformers_engine(tiny_qwen2(V), CHAT)
    alone = complete(engine, seed=3).token_ids
    engine.submit(0, PROMPT, Sampling(temperature=0, max_tokens=12))
    engine.submit(1, PROMPT, Sampling(seed=3, max_tokens=12))
    engine.submit(2, PROMPT, Sampling(temperature=0, seed=9, max_tokens=12))
    done = finish(engine, 3)
    assert done[0].token_ids == done[2].token_ids
    assert done[1].token_ids == alone


def test_drawing_from_some_rows_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = []
    for rows in (1, 3, 100):
        monkeypatch.setattr("agents.engines.transformers_engine._DRAWN", rows * V)
        engine = transformers_engine(tiny_qwen2(V), CHAT, max_num_seqs=5)
        for number in range(5):
            engine.submit(number, PROMPT, Sampling(seed=number, top_p=1 - number / 8, max_tokens=6))
        outcomes.append(finish(engine, 5))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.8])
def test_only_the_nucleus_is_drawn_and_its_probabilities_sum_to_one(top_p: float) -> None:
    model = tiny_qwen2(V)
    engine = transformers_engine(model, CHAT, max_num_seqs=50)
    seen: dict[int, float] = {}
    for round_ in range(8):
        for request_id in range(50):
            engine.submit(request_id, PROMPT, Sampling(seed=50 * round_ + request_id, top_p=top_p, max_tokens=1))
        for request_id, done in finish(engine, 50).items():
            seen[done.token_ids[0]] = done.logprobs[0]
            engine.release(request_id)
    with torch.no_grad():
        probabilities = model(torch.tensor([PROMPT])).logits[0, -1].softmax(-1)
    ordered = probabilities.sort(descending=True)
    size = int((ordered.values.cumsum(0) < top_p).sum()) + 1
    nucleus = set(ordered.indices[:size].tolist())
    assert set(seen) <= nucleus
    mass = probabilities[list(nucleus)].sum().log().item()
    for token_id, logprob in seen.items():
        assert logprob == pytest.approx(probabilities[token_id].log().item() - mass, abs=1e-4)


def test_rows_with_a_narrow_a_wide_and_no_nucleus_are_filtered_as_each_alone() -> None:
    spread = torch.tensor([[8.0], [0.5], [2.0]])
    logprobs = (torch.randn(3, 9000, generator=torch.Generator().manual_seed(0)) * spread).log_softmax(-1)
    samplings = [Sampling(top_p=0.9), Sampling(top_p=0.9), Sampling()]
    filtered = _filtered(logprobs, samplings)
    narrow, wide, whole = filtered.isfinite()
    assert narrow.sum() < 100
    assert wide.sum() > 4096
    assert whole.all()
    assert filtered[2].equal(logprobs[2])
    for row, kept in ((0, narrow), (1, wide)):
        assert logprobs[row][kept].min() > logprobs[row][~kept].max()
        mass = logprobs[row][kept].double().exp()
        assert mass.sum() - mass.min() < 0.9 <= mass.sum() + 1e-6
        assert filtered[row].equal(_filtered(logprobs[row : row + 1], samplings[row : row + 1])[0])


@pytest.mark.slow
def test_filters_leave_the_likeliest_tokens() -> None:
    check_filters(transformers_engine(tiny_qwen2(V), CHAT))


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({"top_k": 2}, [0.4, 0.3]),
        ({"top_k": 9}, [0.4, 0.3, 0.15, 0.15]),
        ({"top_k": 3}, [0.4, 0.3, 0.15, 0.15]),  # the last two tie
        ({"min_p": 0.5}, [0.4, 0.3]),
        ({"min_p": 0.5, "top_k": 1}, [0.4]),
        ({"top_k": 2, "top_p": 0.5}, [0.4]),  # of what top_k keeps, 0.4 is 57%
        ({"min_p": 0.1, "top_p": 0.5}, [0.4, 0.3]),
    ],
)
def test_filters_apply_in_their_order_and_to_their_request_only(sampling: dict[str, float], kept: list[float]) -> None:
    logits = torch.tensor([0.15, 0.4, 0.15, 0.3]).log()[None]
    places = [(number + 0.5) / 400 for number in range(400)]
    samplings = [Sampling(**sampling)] * 400 + [Sampling()]  # type: ignore[arg-type]
    tokens, logprobs = _draw(logits.expand(401, -1), samplings, [*places, 0.0])
    assert sorted({round(math.exp(p) * sum(kept), 3) for p in logprobs[:400]}, reverse=True) == sorted(
        {*kept}, reverse=True
    )
    assert len({*tokens[:400]}) == len(kept)
    assert (tokens[400], logprobs[400]) == (0, pytest.approx(math.log(0.15), abs=1e-5))


def test_the_largest_uniform_number_draws_an_allowed_token() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -40.0]])
    for top_p in (1.0, 0.5):
        (token_id,), (logprob,) = _draw(logits, [Sampling(top_p=top_p)], [1 - 2**-53])
        assert token_id < 3
        assert logprob > -5


# ----------------------------------------------------------------------------------------- stopping, rows and weights


def test_any_of_the_stop_tokens_ends_a_completion() -> None:
    stops = {END, *range(10, 20)}
    engine = TransformersEngine(tiny_qwen2(V), CHAT, stop_token_ids=stops, max_num_seqs=2, max_model_len=200)
    for seed in range(10):
        done = complete(engine, seed=seed, max_tokens=150)
        assert done.finish_reason == "stop"
        assert [token_id in stops for token_id in done.token_ids] == [False] * (len(done.token_ids) - 1) + [True]
        assert EOS not in done.text


def test_the_scanner_is_fed_all_text_but_a_character_that_lacks_its_last_byte() -> None:
    class Never(CallScanner):
        def feed(self, piece: str) -> int | None:
            super().feed(piece)
            return None

    scanners = [Never() for _ in range(10)]
    for seed, done in complete_all(ENGINES["qwen2"], 10, 100, scanners).items():
        scanner = scanners[seed]
        assert done.text.startswith(scanner.text)
        assert done.text[len(scanner.text) :] in ("", "\ufffd")


def test_no_pass_is_wasted_on_a_stopped_row() -> None:
    engine = transformers_engine(tiny_qwen2(V), CHAT, max_num_seqs=2)
    engine.submit(0, PROMPT, Sampling(max_tokens=3))
    finish(engine, 1)
    assert engine.poll() == []
    assert engine._running == {}


def test_new_weights_change_what_is_sampled() -> None:
    old, new = tiny_qwen2(V, seed=1), tiny_qwen2(V, seed=2)
    engine = transformers_engine(old, CHAT)
    before = complete(engine, max_tokens=20)
    engine.load_weights(1, Weights.of(new.state_dict()))
    after = complete(engine, max_tokens=20)
    assert before.token_ids != after.token_ids
    assert after.token_ids == complete(transformers_engine(new, CHAT), max_tokens=20).token_ids


def test_the_engine_has_its_own_copy_of_the_weights() -> None:
    model = tiny_qwen2(V)
    engine = transformers_engine(model, CHAT)
    before = complete(engine).token_ids
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    assert complete(engine).token_ids == before


def test_after_all_episodes_every_row_is_free() -> None:
    engine = transformers_engine(tiny_qwen2(V), CHAT, max_num_seqs=3)
    with pool(num_envs=5) as envs:
        collect(envs, engine, CHAT, episodes(9), Sampling(max_tokens=30))
    assert len(engine._free) == 3
    assert engine._rows == {}


def test_after_an_error_every_row_is_free_and_the_next_trajectories_are_exact() -> None:
    model = tiny_qwen2(V)
    engine = transformers_engine(model, CHAT, max_num_seqs=3)
    with pool(lambda: ScannedCallEnv(fail_at=2, fail_on=1), 5) as envs:
        with pytest.raises(OSError, match="the environment broke"):
            collect(envs, engine, CHAT, episodes(12), Sampling(max_tokens=60))
        assert len(engine._free) == 3
        asked = [replace(each, options={"problem_index": 0}) for each in episodes(6)]
        made = collect(envs, engine, CHAT, asked, Sampling(max_tokens=60))
    assert difference(made, model) < 1e-4
