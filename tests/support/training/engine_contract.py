"""The contract of all engines.

A law takes a function that creates an engine, ``make(max_num_seqs=..., max_model_len=...)``, whose tokenizer is that of
`agents_fakes.small_chat`. A test file runs all of them::

    @pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
    def test_the_engine_keeps_the_contract(law: Law) -> None:
        law(make_my_engine)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from agents_fakes import CallScanner, small_chat

from agents.core.errors import EngineError, EngineFault
from agents.core.types import Completion
from agents.engines.base import Engine, Sampling, Weights

CHAT = small_chat()
END = CHAT.tokenizer.eos_token_id
PROMPT = tuple(CHAT.encode_feedback("hello: "))

MakeEngine = Callable[..., Engine]
Law = Callable[[MakeEngine], None]
LAWS: list[Law] = []


def law(check: Law) -> Law:
    LAWS.append(check)
    return check


def finish(engine: Engine, count: int) -> dict[int, Completion]:
    """Poll until ``count`` completions have ended; return them by request."""
    done: dict[int, Completion] = {}
    for _ in range(2000):
        for each in engine.poll():
            assert each.request_id not in done
            done[each.request_id] = each
        if len(done) == count:
            return done
    raise AssertionError(f"Only {len(done)} of {count} requests ended.")


def complete(
    engine: Engine, *, max_tokens: int = 12, context: Iterable[int] = PROMPT, request_id: int = 0, **sampling: Any
) -> Completion:
    """Sample one completion and release its request."""
    engine.submit(request_id, list(context), Sampling(max_tokens=max_tokens, **sampling))
    done = finish(engine, 1)[request_id]
    engine.release(request_id)
    return done


def complete_all(
    make: MakeEngine, count: int, max_tokens: int, scanners: Sequence[CallScanner] | None = None
) -> dict[int, Completion]:
    """Sample several completions concurrently, each with its number as seed."""
    engine = make(max_num_seqs=count, max_model_len=len(PROMPT) + max_tokens)
    for seed in range(count):
        scanner = None if scanners is None else scanners[seed]
        engine.submit(seed, PROMPT, Sampling(seed=seed, max_tokens=max_tokens), scanner)
    return finish(engine, count)


def check_filters(engine: Engine) -> None:
    """Check that filters leave the likeliest tokens with renormalized probabilities, in the request that has them."""
    greedy = complete(engine, temperature=0, max_tokens=8).token_ids
    free = complete(engine, seed=3, max_tokens=8).token_ids
    for one in ({"top_k": 1}, {"min_p": 1.0}):
        done = complete(engine, max_tokens=8, **one)
        assert done.token_ids == greedy
        assert max(map(abs, done.logprobs)) < 1e-4
    assert complete(engine, seed=3, max_tokens=8).token_ids == free
    seen: dict[int, float] = {}
    for seed in range(60):
        first = complete(engine, seed=seed, top_k=3, max_tokens=1)
        seen[first.token_ids[0]] = first.logprobs[0]
    assert len(seen) == 3
    assert abs(sum(map(math.exp, seen.values())) - 1) < 1e-3


def refusal(engine: Engine, request_id: int, token_ids: list[int]) -> str:
    with pytest.raises(EngineError) as caught:
        engine.submit(request_id, token_ids, Sampling())
    return str(caught.value)


@law
def an_idle_engine_returns_nothing(make: MakeEngine) -> None:
    assert make().poll() == []


@law
def a_completion_describes_every_token(make: MakeEngine) -> None:
    for seed, done in complete_all(make, 12, 12).items():
        assert done.request_id == seed
        assert 1 <= len(done.token_ids) == len(done.logprobs) == len(done.text_ends) <= 12
        assert all(logprob <= 0 for logprob in done.logprobs)
        assert list(done.text_ends) == sorted(done.text_ends)
        assert done.text_ends[-1] == len(done.text)


@law
def the_text_is_that_of_the_tokens_without_the_end_of_sequence(make: MakeEngine) -> None:
    for done in complete_all(make, 12, 40).values():
        sampled = [token_id for token_id in done.token_ids if token_id != END]
        assert done.text == CHAT.tokenizer.decode(sampled)


@law
def the_end_of_sequence_is_last_and_has_no_text(make: MakeEngine) -> None:
    stopped = 0
    for done in complete_all(make, 50, 150).values():
        assert (END in done.token_ids) == (done.finish_reason == "stop")
        assert END not in done.token_ids[:-1]
        if done.finish_reason == "stop" and len(done.token_ids) > 1:
            stopped += 1
            assert done.text_ends[-2] == len(done.text)
    assert stopped


@law
def max_tokens_is_the_most_that_is_sampled(make: MakeEngine) -> None:
    engine = make()
    for max_tokens in (1, 2, 5):
        done = complete(engine, max_tokens=max_tokens, seed=3)
        assert len(done.token_ids) <= max_tokens
        assert done.finish_reason == ("stop" if END in done.token_ids else "length")


@law
def max_model_len_bounds_context_and_completion(make: MakeEngine) -> None:
    done = complete(make(max_model_len=len(PROMPT) + 3), max_tokens=99, seed=3)
    assert len(done.token_ids) == 3
    assert done.finish_reason == "length"


@law
def the_last_free_place_is_used(make: MakeEngine) -> None:
    done = complete(make(max_model_len=len(PROMPT) + 1), max_tokens=99)
    assert len(done.token_ids) == 1


@law
def a_context_that_leaves_no_room_is_rejected(make: MakeEngine) -> None:
    engine = make(max_model_len=5)
    for length in (5, 6):
        message = refusal(engine, 0, [1] * length)
        assert message == f"Expect a context of 1 to 4 tokens, got {length}: raise max_model_len."
    assert engine.poll() == []


@law
def an_empty_context_is_rejected(make: MakeEngine) -> None:
    assert refusal(make(max_model_len=5), 0, []).startswith("Expect a context of 1 to 4 tokens, got 0")


@law
def a_running_request_is_not_submitted_again(make: MakeEngine) -> None:
    engine = make(max_num_seqs=1)
    for request_id in (7, 8):  # the second one waits for a row
        engine.submit(request_id, PROMPT, Sampling(max_tokens=3))
    for request_id in (7, 8):
        assert refusal(engine, request_id, [1]) == f"Expect a request that is not running, got {request_id} again."
    engine.poll()
    assert refusal(engine, 7, [1]) == "Expect a request that is not running, got 7 again."


@law
def the_same_seed_gives_the_same_tokens_in_any_order_and_company(make: MakeEngine) -> None:
    outcomes = []
    for order, rows in ((range(6), 6), (reversed(range(6)), 4), ((3, 0, 5, 1, 4, 2), 1)):
        engine = make(max_num_seqs=rows)
        for request_id in order:
            engine.submit(request_id, PROMPT, Sampling(seed=request_id, max_tokens=10))
        done: dict[int, tuple[int, ...]] = {}
        while len(done) < 6:
            for each in engine.poll():
                done[each.request_id] = each.token_ids
                engine.release(each.request_id)
        outcomes.append(done)
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len(set(outcomes[0].values())) > 3


@law
def requests_beyond_the_rows_wait(make: MakeEngine) -> None:
    engine = make(max_num_seqs=2)
    for request_id in range(5):
        engine.submit(request_id, PROMPT, Sampling(seed=request_id, max_tokens=6))
    done = finish(engine, 5)  # none of them was released
    assert {number: each.token_ids for number, each in done.items()} == {
        number: complete(make(), seed=number, max_tokens=6).token_ids for number in range(5)
    }


@law
def an_evicted_request_continues_unchanged(make: MakeEngine) -> None:
    alone, crowded = make(max_num_seqs=1), make(max_num_seqs=1)
    turns: list[list[tuple[int, ...]]] = []
    for engine, others in ((alone, 0), (crowded, 3)):
        context = list(PROMPT)
        turns.append([])
        for turn in range(3):
            engine.submit(0, context, Sampling(seed=turn, max_tokens=4))
            done = finish(engine, 1)[0]
            turns[-1].append(done.token_ids)
            context += [*done.token_ids, *CHAT.encode_feedback("[1]\n")]
            for other in range(1, others + 1):
                complete(engine, seed=other, request_id=other)
    assert turns[0] == turns[1]


@law
def it_is_busy_until_every_request_has_ended(make: MakeEngine) -> None:
    engine = make(max_num_seqs=1)
    assert not engine.busy
    for request_id in (0, 1):
        engine.submit(request_id, list(PROMPT), Sampling(max_tokens=3))
    assert engine.busy
    finish(engine, 2)
    assert not engine.busy


@law
def a_released_request_is_cancelled(make: MakeEngine) -> None:
    engine = make(max_num_seqs=2)
    for request_id in range(4):
        engine.submit(request_id, PROMPT, Sampling(seed=request_id, max_tokens=5))
    engine.poll()
    engine.release(0)  # runs
    engine.release(3)  # waits
    assert set(finish(engine, 2)) == {1, 2}
    for request_id in (1, 2):
        engine.release(request_id)
    assert [engine.poll() for _ in range(20)] == [[]] * 20


@law
def a_cancelled_number_can_be_used_again(make: MakeEngine) -> None:
    engine = make()
    expected = complete(make(), seed=4)
    engine.submit(0, [*PROMPT, *PROMPT], Sampling(seed=1, max_tokens=12))
    engine.poll()
    engine.release(0)
    assert complete(engine, seed=4).token_ids == expected.token_ids


@law
def releasing_an_unknown_request_does_nothing(make: MakeEngine) -> None:
    engine = make()
    engine.release(99)
    assert len(complete(engine, max_tokens=1).token_ids) == 1


@law
def a_request_returns_with_more_context(make: MakeEngine) -> None:
    engine = make(max_num_seqs=1)
    context = list(PROMPT)
    for turn in range(3):
        engine.submit(0, context, Sampling(seed=turn, max_tokens=4))
        done = finish(engine, 1)[0]
        assert 1 <= len(done.token_ids) <= 4
        context += [*done.token_ids, *CHAT.encode_feedback("[1]\n")]


@law
def sampling_ends_where_the_scanner_says(make: MakeEngine) -> None:
    scanners = [CallScanner() for _ in range(30)]
    seen = 0
    for seed, done in complete_all(make, 30, 100, scanners).items():
        scanner = scanners[seed]
        assert ("`\n" in done.text) == (done.finish_reason == "boundary")
        assert done.text.startswith(scanner.text)
        if done.finish_reason == "boundary":
            seen += 1
            assert scanner.text == done.text
            assert "`\n" not in done.text[: done.text_ends[-2] if len(done.text_ends) > 1 else 0]
    assert seen


@law
def other_requests_continue_when_one_ends(make: MakeEngine) -> None:
    engine = make(max_num_seqs=3)
    for request_id, max_tokens in enumerate((1, 8, 3)):
        engine.submit(request_id, PROMPT, Sampling(seed=5, max_tokens=max_tokens))
    done = finish(engine, 3)
    ids = [done[request_id].token_ids for request_id in range(3)]
    assert ids[1][: len(ids[2])] == ids[2]
    assert ids[1][:1] == ids[0]


@law
def a_completion_continues_its_first_part(make: MakeEngine) -> None:
    engine, scanners = make(max_num_seqs=30, max_model_len=len(PROMPT) + 40), [CallScanner() for _ in range(30)]
    for seed in range(30):
        engine.submit(seed, PROMPT, Sampling(seed=seed, max_tokens=4), scanners[seed])
    first = {number: done for number, done in finish(engine, 30).items() if done.finish_reason == "length"}
    for number, done in first.items():
        engine.release(number)
        engine.submit(number, PROMPT, Sampling(seed=99 + number, max_tokens=30), CallScanner(), begun=done)
    assert len(first) > 5
    ends = set()
    for number, done in finish(engine, len(first)).items():
        assert done.token_ids[:4] == first[number].token_ids
        assert done.logprobs[:4] == first[number].logprobs
        assert 4 < len(done.token_ids) == len(done.logprobs) == len(done.text_ends) <= 34
        assert done.text == CHAT.tokenizer.decode([each for each in done.token_ids if each != END])
        assert ("`\n" in done.text) == (done.finish_reason == "boundary")
        ends.add(done.finish_reason)
    assert len(ends) > 1


@law
def a_first_part_that_leaves_no_room_is_rejected(make: MakeEngine) -> None:
    engine = make(max_model_len=len(PROMPT) + 4)
    engine.submit(0, PROMPT, Sampling(seed=3, max_tokens=4))
    done = finish(engine, 1)[0]
    assert done.finish_reason == "length"
    with pytest.raises(EngineError, match="raise max_model_len"):
        engine.submit(0, PROMPT, Sampling(), begun=done)


@law
def every_token_names_the_weights_that_sampled_it(make: MakeEngine) -> None:
    engine = make()
    assert (engine.version, set(complete(engine).policy_versions)) == (0, {0})
    engine.submit(0, PROMPT, Sampling(max_tokens=12, seed=1))
    for _ in range(len(PROMPT) + 3):
        assert engine.poll() == []
    engine.load_weights(3, Weights.of(weights_of(engine)))
    assert engine.version == 3
    versions = list(finish(engine, 1)[0].policy_versions)
    assert versions == sorted(versions)
    assert set(versions) == {0, 3}


@law
def after_a_failed_load_nothing_is_sampled_until_complete_weights_are_loaded(make: MakeEngine) -> None:
    engine = make()
    weights = weights_of(engine)
    if not weights:
        return  # has none that could not fit
    load_misfits(engine, weights)
    assert engine.version == 0
    with pytest.raises(EngineError, match="last load failed"):
        engine.submit(0, PROMPT, Sampling())
    engine.load_weights(2, Weights.of(weights))
    assert set(complete(engine).policy_versions) == {2}


@law
def a_running_request_is_not_sampled_from_partially_loaded_weights(make: MakeEngine) -> None:
    engine = make()
    weights = weights_of(engine)
    if not weights:
        return  # has none that could not fit
    engine.submit(0, PROMPT, Sampling(max_tokens=9))
    load_misfits(engine, weights)
    with pytest.raises(EngineFault, match="last load failed"):
        engine.poll()
    engine.load_weights(2, Weights.of(weights))
    assert set(finish(engine, 1)[0].policy_versions) == {2}


@law
def a_sleeping_engine_wakes_with_new_weights(make: MakeEngine) -> None:
    engine = make()
    before = complete(engine)
    engine.sleep()
    engine.load_weights(1, Weights.of(weights_of(engine)))
    assert complete(engine).token_ids == before.token_ids


@law
def a_closed_engine_returns_nothing(make: MakeEngine) -> None:
    engine = make()
    engine.submit(0, PROMPT, Sampling())
    engine.close()
    assert engine.poll() == []


def load_misfits(engine: Engine, weights: dict[str, torch.Tensor]) -> None:
    """Load weights of which one is too small, which the engine rejects."""
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    with pytest.raises(EngineError, match=r"^Expect the weights of "):
        engine.load_weights(1, Weights.of(weights | {name: weights[name][:-1]}))


def weights_of(engine: Engine) -> dict[str, torch.Tensor]:
    """A state dict that the engine can load: its initial one."""
    weights: dict[str, torch.Tensor] = getattr(engine, "weights", {})
    return weights
