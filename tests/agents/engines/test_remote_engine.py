"""A served engine samples the same tokens as a local one."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from agents_fakes import (
    CallScanner,
    FakeEngine,
    ScannedCallEnv,
    episodes,
    played,
    pool,
    tiny_qwen2,
    transformers_engine,
)
from engine_contract import CHAT, LAWS, PROMPT, Law, complete, complete_all, finish
from serving import Halting, Make, V, clients, connect, served

from agents.core.errors import EngineError, EngineFault
from agents.core.types import Trajectory
from agents.engines.base import Sampling, Weights
from agents.engines.remote import KEY, RemoteEngine
from agents.learning.batching import collate
from agents.learning.policy import Policy
from agents.rollout.collector import Collector, collect
from agents.rollout.source import LocalSource
from agents.training.weight_sync import sync_weights

# All but the last count polls, but a served engine samples on between them; the last one reads what its scanner was
# fed, which is a copy on the other side. What they state is tested below.
NOT_AS_WRITTEN = {
    "a_released_request_is_cancelled",
    "a_running_request_is_not_submitted_again",
    "a_running_request_is_not_sampled_from_partially_loaded_weights",
    "every_token_names_the_weights_that_sampled_it",
    "sampling_ends_where_the_scanner_says",
}


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")


@pytest.fixture
def make() -> Iterator[Make]:
    with clients() as make_one:
        yield make_one


@pytest.mark.parametrize(
    "law", [law for law in LAWS if law.__name__ not in NOT_AS_WRITTEN], ids=lambda law: law.__name__
)
@pytest.mark.slow
def test_a_served_engine_keeps_the_contract(law: Law, make: Make) -> None:
    law(make)


def test_an_unsent_request_is_not_submitted_again(make: Make) -> None:
    engine = make()
    engine.submit(7, PROMPT, Sampling(max_tokens=3))
    with pytest.raises(EngineError, match=r"^Expect a request that is not running, got 7 again\.$"):
        engine.submit(7, [1], Sampling())
    assert set(finish(engine, 1)) == {7}


def test_a_released_request_returns_nothing_and_frees_its_row(make: Make) -> None:
    inner = transformers_engine(tiny_qwen2(V), CHAT, max_num_seqs=2)
    engine = make(inner)
    for request_id in range(4):
        engine.submit(request_id, PROMPT, Sampling(seed=request_id, max_tokens=40))
    early = {each.request_id for each in engine.poll()}
    engine.release(0)  # runs
    engine.release(3)  # waits
    rest = {1, 2} - early
    assert set(finish(engine, len(rest))) == rest
    assert not engine.busy
    engine.sleep()  # nothing may run
    assert not inner.busy
    assert 0 not in inner._rows


def test_sampling_ends_where_the_scanner_says(make: Make) -> None:
    scanners = [CallScanner() for _ in range(30)]
    done = complete_all(make, 30, 100, scanners).values()
    own = complete_all(lambda **sizes: transformers_engine(tiny_qwen2(V), CHAT, **sizes), 30, 100, scanners).values()
    assert sorted(each.token_ids for each in done) == sorted(each.token_ids for each in own)
    assert all(("`\n" in each.text) == (each.finish_reason == "boundary") for each in done)
    assert any(each.finish_reason == "boundary" for each in done)


def test_tokens_sampled_before_a_transfer_keep_their_version(make: Make) -> None:
    inner = Halting(CHAT, lambda *_: "abcdef")
    engine = make(inner)
    engine.submit(0, PROMPT, Sampling(max_tokens=12))
    while not inner.halted:
        assert engine.poll() == []
    engine.load_weights(3, Weights.of({}))
    assert engine.version == 3
    assert finish(engine, 1)[0].policy_versions == (0, 0, 0, 3, 3, 3, 3)


def test_tied_weights_are_sent_once_and_arrive_under_each_name(make: Make) -> None:
    inner, got = FakeEngine(CHAT), dict[str, torch.Tensor]()
    inner.load_weights = lambda version, weights: got.update(weights.tensors)  # type: ignore[method-assign]
    tied = torch.ones(3)
    make(inner).load_weights(1, Weights.of({"a": tied, "b": tied, "c": torch.zeros(2, 2)}))
    assert {name: tensor.tolist() for name, tensor in got.items()} == {
        "a": [1, 1, 1],
        "b": [1, 1, 1],
        "c": [[0, 0], [0, 0]],
    }
    assert got["a"] is got["b"]


def test_an_engine_whose_sleep_frees_its_weights_says_so(make: Make) -> None:
    inner = FakeEngine(CHAT)
    inner.sleep = lambda: setattr(inner, "has_weights", False)  # type: ignore[method-assign]
    engine = make(inner)
    assert engine.has_weights
    engine.sleep()
    assert not engine.has_weights
    engine.load_weights(1, Weights.of({}))
    assert engine.has_weights


def test_it_keeps_sampling_between_two_polls(make: Make) -> None:
    inner = FakeEngine(CHAT, lambda *_: "abcdef")
    engine = make(inner)
    engine.submit(0, PROMPT, Sampling(max_tokens=12))
    engine.submit(1, PROMPT, Sampling(max_tokens=1))
    finish(engine, 1)
    while inner.busy:  # without a word from the client
        pass
    assert [each.request_id for each in engine.poll()] == [0]


# --------------------------------------------------------------------------------------------------------- exactness


def difference(made: Sequence[Trajectory], policy: Policy) -> float:
    """The largest difference between the engine's and the trainer's log-probability of a sampled token."""
    batch = collate(made)
    output = policy.evaluate(batch, 5)
    return (output.logprobs - batch.sampling_logprobs)[batch.action_mask].abs().max().item()


@pytest.mark.slow
def test_over_whole_trajectories_the_trainers_logprobs_equal_the_served_engines(make: Make) -> None:
    model = tiny_qwen2(V)
    with pool(lambda: ScannedCallEnv(calls=3, delay_s=0.002), 6) as envs:
        served_ones = collect(envs, make(), CHAT, episodes(14), Sampling(max_tokens=70))
        own = collect(envs, transformers_engine(model, CHAT), CHAT, episodes(14), Sampling(max_tokens=70))
    assert difference(served_ones, Policy(model)) < 1e-4
    assert max(len(each.turns) for each in served_ones) >= 3
    assert [each.token_ids for each in served_ones] == [each.token_ids for each in own]


@pytest.mark.slow
def test_logprobs_agree_with_pauses_and_new_weights(make: Make) -> None:
    policy, engine = Policy(tiny_qwen2(V)), make()
    with pool(lambda: ScannedCallEnv(calls=3), 14) as envs:
        collector = Collector(envs, engine, CHAT)
        made = played(collector.collect(episodes(14), Sampling(max_tokens=70), max_new_tokens=9))
        assert len(made) < 14
        while len(made) < 14:
            sync_weights(
                policy,
                LocalSource(engine, CHAT),
                dtype=torch.float32,
                version=engine.version + 1,
                prompt=PROMPT,
                tolerance=1e-3,
            )
            made += played(collector.collect([], Sampling(max_tokens=70), max_new_tokens=9))
    assert difference(made, policy) < 1e-4
    assert max(version for each in made for version in each.policy_versions) == engine.version > 1


def test_logprobs_agree_after_another_models_weights(make: Make) -> None:
    new, engine = Policy(tiny_qwen2(V, seed=5)), make()
    complete(engine)
    metrics = sync_weights(
        new, LocalSource(engine, CHAT), dtype=torch.float32, version=1, prompt=PROMPT, tolerance=1e-3
    )
    with pool(num_envs=6) as envs:
        made = collect(envs, engine, CHAT, episodes(10), Sampling(max_tokens=60))
    assert metrics["sampling/probe_difference"] < 1e-4
    assert difference(made, new) < 1e-4
    assert {v for each in made for v in each.policy_versions} == {-1, 1}


def test_weights_that_did_not_arrive_are_detected(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, inner = Policy(tiny_qwen2(V, seed=5)), transformers_engine(tiny_qwen2(V), CHAT)
    monkeypatch.setattr(inner, "load_weights", lambda version, weights: setattr(inner, "version", version))
    with pytest.raises(EngineFault, match="the transfer failed or was incomplete"):
        sync_weights(
            policy, LocalSource(make(inner), CHAT), dtype=torch.float32, version=1, prompt=PROMPT, tolerance=1e-3
        )


# ------------------------------------------------------------------------------------------------- other settings


def test_the_clients_max_model_len_applies_to_a_larger_engine() -> None:
    with served(transformers_engine(tiny_qwen2(V), CHAT, max_model_len=96)) as address:
        client = connect(address, len(PROMPT) + 3)
        assert len(complete(client, max_tokens=99, seed=3).token_ids) == 3
        client.close()


@pytest.mark.parametrize("wanted", [{"max_model_len": 97}, {"dtype": "bfloat16"}], ids=str)
def test_an_engine_with_other_settings_is_rejected(wanted: dict[str, Any]) -> None:
    wanted = {"dtype": "float32", "max_model_len": 96} | wanted
    with (
        served(transformers_engine(tiny_qwen2(V), CHAT)) as address,
        pytest.raises(EngineError, match=f"--dtype {wanted['dtype']} --max-model-len {wanted['max_model_len']}\\.$"),
    ):
        RemoteEngine(address, **wanted)


def test_weights_of_another_model_are_rejected_in_one_line(make: Make) -> None:
    engine = make()
    with pytest.raises(
        EngineError, match=r"^Expect the weights of .*of shape \[74, 64\], not \[74, 32\].*: start the engine with that"
    ) as e:
        engine.load_weights(1, Weights.of(tiny_qwen2(V, hidden_size=64).state_dict()))
    assert "\n" not in str(e.value)


def test_a_failing_environment_leaves_a_served_engine_usable(make: Make) -> None:
    engine = make()
    with pool(lambda: ScannedCallEnv(fail_at=2, fail_on=1), 5) as envs:
        with pytest.raises(OSError, match="the environment broke"):
            collect(envs, engine, CHAT, episodes(12), Sampling(max_tokens=60))
        asked = [replace(each, options={"problem_index": 0}) for each in episodes(6)]
        made = collect(envs, engine, CHAT, asked, Sampling(max_tokens=60))
    assert difference(made, Policy(tiny_qwen2(V))) < 1e-4
