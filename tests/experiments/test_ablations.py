"""The ablations that break a rule: a stop string in place of exact blocks, and feedback that is trained on."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agents_fakes import FakeEngine, byte_tokenizer, completion, episodes, logprob_of, scripted, tokenizer, trajectory
from runs import trainer

from agents.core.chat import Chat
from agents.core.types import Collected, Trajectory
from agents.engines.base import Sampling
from agents.rollout.collector import Collector
from agents.rollout.envs import open_pool
from agents.rollout.episode import TurnRules
from agents.tracking.progress import Progress
from experiments.ablations import FeedbackRules, StopString, StopStringRules, encode_again, stop_end

WORDY = Chat(tokenizer(), "raw")
END = int(WORDY.tokenizer.eos_token_id)
BLOCK = "```python\nprint(1)\n```\nSo"


def play(rules: TurnRules, *turns: str) -> Trajectory:
    """Collect one episode of CodeMath, whose turns are written so."""
    engine = FakeEngine(WORDY, scripted(*turns), max_model_len=2000)
    envs = open_pool("cir_env:CodeMath-v0", 1, problems="products", prompt="question", observation="feedback")
    with closing(envs):
        collected = Collector(envs, engine, WORDY, rules=rules).collect(episodes(2), Sampling(max_tokens=500))
    assert collected is not None
    return collected.trajectories[0]


def sampled(made: Trajectory) -> list[int]:
    return [token_id for token_id, acts in zip(made.token_ids, made.action_mask, strict=True) if acts]


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_the_scanner_finds_the_string_however_the_text_is_cut(size: int) -> None:
    scanner, found = StopString(), None
    for begin in range(0, len(BLOCK), size):
        found = scanner.feed(BLOCK[begin : begin + size])
    assert found == stop_end(BLOCK) == len(BLOCK) - 3


def test_a_turn_is_cut_behind_the_string_and_encoded_again_and_all_of_it_is_trained_on() -> None:
    exact, text = (play(rules, BLOCK, "so 1") for rules in (TurnRules(), StopStringRules()))
    ids = WORDY.encode_feedback
    assert sampled(text) == [*ids(BLOCK.removesuffix("\nSo")), *ids("so 1"), END]
    assert sampled(exact) == [*ids("```python\n"), *ids("print(1)\n"), *ids("so 1"), END]
    assert [turn.info["execution_status"] for turn in (exact.turns[0], text.turns[0])] == ["ok", "ok"]
    assert (exact.boundary_cuts, text.boundary_cuts) == (1, 1)


def test_a_fence_inside_the_code_ends_the_turn_where_exact_matching_goes_on() -> None:
    code = "```python\nprint('```', 2 * 21)\n```\n"
    exact, text = (play(rules, code, "so 42") for rules in (TurnRules(), StopStringRules()))
    assert [len(made.turns) for made in (exact, text)] == [2, 1]
    assert "42" in exact.turns[0].feedback
    assert text.turns[0].text == "```python\nprint('```"
    assert text.turns[0].finish_reason == "boundary"


def test_tokens_that_the_tokenizer_would_not_choose_are_replaced_and_counted() -> None:
    ids = [int(i) for letter in "yes" for i in WORDY.encode_feedback(letter)]
    assert len(ids) > len(WORDY.encode_feedback("yes")) == 1
    kept = encode_again(completion(WORDY, ids, "stop"), 3, WORDY.encode_feedback, ended=True)
    assert list(kept.token_ids) == [*WORDY.encode_feedback("yes"), END]
    assert kept.logprobs == (logprob_of(ids[0]), logprob_of(ids[1]))
    assert (kept.action_mask, kept.cuts) == ((True, True), 1)


@pytest.mark.parametrize("ended", [True, False])
def test_an_end_of_sequence_stays_only_at_the_end_and_what_is_the_same_is_not_counted(ended: bool) -> None:
    ids: Sequence[int] = WORDY.encode_feedback("yes")
    kept = encode_again(completion(WORDY, ids, "stop"), 3, WORDY.encode_feedback, ended=ended)
    assert (list(kept.token_ids), kept.cuts) == ([*ids, *[END] * ended], 0)


def test_an_encoding_that_is_longer_has_no_log_probabilities_behind_the_sampled_ones() -> None:
    done = completion(WORDY, WORDY.encode_feedback("yes"), "boundary")
    kept = encode_again(done, 3, Chat(byte_tokenizer(), "raw").encode_feedback, ended=False)
    assert (kept.logprobs[1:], len(kept.token_ids)) == ((0.0, 0.0), 3)


def test_feedback_is_trained_on_and_no_prompt() -> None:
    made = FeedbackRules().trained(trajectory("P P s f s"))
    assert made.action_mask == (False, False, True, True, True)
    assert set(made.policy_versions) == {max(trajectory("P P s f s").policy_versions)}


def test_training_on_feedback_changes_the_update(tmp_path: Path) -> None:
    found = []
    for name, rules in (("off", TurnRules()), ("on", FeedbackRules())):
        with trainer(tmp_path / name, rules=rules, max_steps=1) as made:
            tokens = made.chat.encode_feedback("ab12")
            episode = {"token_ids": tuple(tokens), "action_mask": (False, True, False, True), "prompt_length": 1}
            rest = {"logprobs": (0.0, -1.0, 0.0, -1.0), "policy_versions": (-1, 0, -1, 0)}
            played = [trajectory("P s f s", **episode, **rest, reward=reward) for reward in (1.0, -1.0)]
            updated = made._update(Collected(trajectories=tuple(played), metrics={}), Progress(1, 0, log=print))
            assert updated is not None
            found.append(updated)
    off, on = found
    assert off["entropy"] != on["entropy"]
    assert off["grad_norm"] != on["grad_norm"]


def test_the_rules_hold_for_training_and_validation(tmp_path: Path) -> None:
    seen = []

    class Seen(StopStringRules):
        def scanner(self, scanner: Any) -> Any:
            seen.append(1)
            return super().scanner(scanner)

    with trainer(tmp_path, rules=Seen(), max_steps=0) as made:
        made.train()
        validated = len(seen)
        made.sampler.take(0, sync=dict, send=lambda: lambda: None, on_end=lambda _: None)
    assert len(seen) > validated > 0
