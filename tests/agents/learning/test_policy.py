"""The policy: its outputs for each token, on every path that computes them."""

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from agents_fakes import (
    MODELS,
    random_batch,
    stretched,
    tiny_deepseek,
    tiny_llama,
    tiny_mixtral,
    tiny_qwen2,
    tiny_qwen3_moe,
    twin,
)
from transformers import GptOssConfig, GptOssForCausalLM, PreTrainedModel, StableLmConfig, StableLmForCausalLM

from agents.core.errors import ModelError
from agents.core.types import Batch, PolicyOutput
from agents.learning.policy import Policy

V = 40
SHORT, LONG = 4, 20  # prompt lengths: too short to be shared by all rows, and long enough

both_models = pytest.mark.parametrize("make", list(MODELS.values()), ids=list(MODELS))


def naive(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The sum of the sampled tokens' log-probabilities, by the loss of transformers, row by row, without padding."""
    total = torch.zeros(())
    for ids, there, acts in zip(batch.token_ids, batch.attention_mask, batch.action_mask, strict=True):
        labels = ids.masked_fill(~acts, -100)[there][None]
        loss = model(input_ids=ids[there][None], labels=labels).loss
        total = total - loss * acts.sum()
    return total


def gradients(model: PreTrainedModel, objective: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(objective, list(model.parameters())))


def close(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(one, other, strict=True))


def computed(model: PreTrainedModel, run: Callable[[], object]) -> int:
    """How many tokens the model's passes compute."""
    counts: list[int] = []
    hook = model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    run()
    hook.remove()
    return sum(counts)


@both_models
def test_the_logprob_of_a_token_is_stored_at_its_own_index(make: Callable[..., PreTrainedModel]) -> None:
    model = make(V)
    batch = random_batch(V, rows=1, prompt=SHORT, length=8, padding=False)
    batch = replace(batch, action_mask=torch.arange(8)[None] >= SHORT)
    logprobs = Policy(model)(batch).logprobs
    for t in range(SHORT, 8):
        only = replace(batch, action_mask=torch.arange(8)[None] == t)
        assert logprobs[0, t].item() == pytest.approx(naive(model, only).item(), abs=1e-5)
    assert logprobs[0, :SHORT].tolist() == [0.0] * SHORT


@both_models
@pytest.mark.parametrize("prompt", [SHORT, LONG])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_path_gives_the_logprobs_and_gradients_of_the_plain_model(
    make: Callable[..., PreTrainedModel], prompt: int, checkpointing: bool
) -> None:
    model, batch = make(V), random_batch(V, prompt=prompt)
    expected = naive(model, batch)
    policy = Policy(twin(model), gradient_checkpointing=checkpointing).train()
    total = policy(batch).logprobs.sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert close(gradients(policy.model, total), gradients(model, expected))


@both_models
def test_the_shared_prefix_gives_each_token_the_same_logprob(make: Callable[..., PreTrainedModel]) -> None:
    model, batch = make(V), random_batch(V, rows=4, prompt=LONG)
    together = Policy(model)(batch).logprobs
    apart = torch.cat([Policy(model)(batch.rows(torch.tensor([row]))).logprobs for row in range(4)])
    assert torch.allclose(together, apart, atol=1e-5)


def test_many_tokens_give_the_same_output_as_few(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_qwen2(V), random_batch(V, rows=9, length=120)
    monkeypatch.setattr("agents.learning.policy._LOGITS_BYTES", {"cpu": 4 * V * 50})
    assert batch.action_mask.sum() > 256
    expected = naive(model, batch)
    policy = Policy(twin(model))
    total = policy(batch).logprobs.sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert close(gradients(policy.model, total / 100), gradients(model, expected / 100))


def test_a_batch_without_actions_has_a_loss_of_zero() -> None:
    batch = random_batch(V)
    output = Policy(tiny_qwen2(V), value_head=True)(replace(batch, action_mask=torch.zeros_like(batch.action_mask)))
    assert output.logprobs.shape == batch.token_ids.shape
    assert output.logprobs.abs().sum() == 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_neither_padding_nor_shared_prefixes_are_computed_again(checkpointing: bool) -> None:
    model = tiny_qwen2(V)
    batch = random_batch(V, rows=5, prompt=LONG, length=30)
    own = int(batch.attention_mask.sum()) - 4 * LONG
    policy = Policy(model, gradient_checkpointing=checkpointing)
    assert computed(model, lambda: policy(batch)) == own


@pytest.mark.parametrize("changes", [{}, {"max_window_layers": 1}], ids=["all layers", "the second layer"])
@pytest.mark.parametrize("prompt", [SHORT, LONG])
def test_rows_attend_no_further_back_than_the_models_window(prompt: int, changes: dict[str, int]) -> None:
    model = tiny_qwen2(V, use_sliding_window=True, sliding_window=16, **({"max_window_layers": 0} | changes))
    full = tiny_qwen2(V, use_sliding_window=False)
    batch = random_batch(V, prompt=prompt, length=40)
    expected = naive(model, batch)
    policy = Policy(twin(model))
    total = policy(batch).logprobs.sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert close(gradients(policy.model, total), gradients(model, expected))
    assert naive(full, batch).item() != pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("make", [tiny_qwen3_moe, tiny_mixtral, tiny_deepseek])
def test_experts_and_latent_attention_give_the_logprobs_and_gradients_of_the_plain_model(
    make: Callable[..., PreTrainedModel],
) -> None:
    model, batch = make(V), random_batch(V)
    expected = naive(model, batch)
    policy = Policy(twin(model)).train()
    total = policy(batch).logprobs.sum()
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    trained = [(p, q) for p, q in zip(policy.model.parameters(), model.parameters(), strict=True) if p.requires_grad]
    ours, plain = zip(*trained, strict=True)
    found, wanted = (torch.autograd.grad(t, ps, allow_unused=True) for t, ps in ((total, ours), (expected, plain)))
    assert [g is None for g in found] == [g is None for g in wanted]
    assert close([g for g in found if g is not None], [g for g in wanted if g is not None])


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rows_longer_than_positions_allow_are_rejected(kind: str) -> None:
    policy = Policy(stretched(V, kind, made_for=40))
    expected = naive(stretched(V, kind, made_for=40), batch := random_batch(V, length=40, padding=False))
    assert policy(batch).logprobs.sum().item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ValueError, match=rf"^Expect rows of at most 40 tokens for `{kind}` positions, which depend on"):
        policy(random_batch(V, length=41, padding=False))


def test_a_model_that_transforms_its_logits_is_rejected() -> None:
    model = tiny_qwen2(V)
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ModelError, match=r"got Qwen2ForCausalLM with `final_logit_softcapping`\.$"):
        Policy(model)


def test_a_model_that_does_not_pass_the_layout_to_its_layers_is_rejected() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4}
    model = StableLmForCausalLM(StableLmConfig(vocab_size=V, initializer_range=0.2, **sizes))
    with pytest.raises(ModelError, match=r"^Expect a model that passes arguments on to its attention, got StableLm"):
        Policy(model)


def test_a_model_with_attention_sinks_is_rejected() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    model = GptOssForCausalLM(
        GptOssConfig(
            vocab_size=V,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=2,
            num_experts_per_tok=1,
            **sizes,
        )
    )
    with pytest.raises(
        ModelError, match=r"^Expect attention with unmodified scores, got `s_aux` in GptOssForCausalLM\.$"
    ):
        Policy(model)


def test_checkpointing_recomputes_activations() -> None:
    model = tiny_qwen2(V)
    policy = Policy(model, gradient_checkpointing=True).train()
    passes: list[None] = []
    model.get_submodule("model.layers.0.self_attn").register_forward_hook(lambda *_: passes.append(None))
    policy(random_batch(V)).logprobs.sum().backward()
    assert len(passes) == 2


def test_rows_that_share_everything_are_fine() -> None:
    model = tiny_qwen2(V)
    batch = random_batch(V, rows=1, prompt=LONG).rows(torch.tensor([0, 0, 0]))
    logprobs = Policy(model)(batch).logprobs
    assert logprobs.sum().item() == pytest.approx(naive(model, batch).item(), rel=1e-5)


def test_an_action_within_the_common_prefix_is_still_an_action() -> None:
    model, batch = tiny_qwen2(V), random_batch(V, rows=2, prompt=LONG, padding=False)
    acts = batch.action_mask.clone()
    acts[1, LONG - 2] = True  # both rows hold the same token there, but only one of them sampled it
    batch = replace(batch, action_mask=acts)
    logprobs = Policy(model)(batch).logprobs
    assert logprobs[1, LONG - 2] < 0
    assert logprobs[0, LONG - 2] == 0
    assert logprobs.sum().item() == pytest.approx(naive(model, batch).item(), rel=1e-5)


def test_padding_changes_nothing() -> None:
    policy, batch = Policy(tiny_qwen2(V)), random_batch(V)
    other = replace(batch, token_ids=torch.where(batch.attention_mask, batch.token_ids, 7))
    wide = replace(
        batch,
        **{
            name: torch.nn.functional.pad(getattr(batch, name), (0, 9))
            for name in ("token_ids", "attention_mask", "action_mask", "sampling_logprobs")
        },
    )
    expected = policy(batch).logprobs
    assert torch.allclose(policy(other).logprobs, expected, atol=1e-5)
    assert torch.allclose(policy(wide).logprobs[:, :-9], expected, atol=1e-5)


def test_a_logprob_depends_on_neither_later_tokens_nor_the_token_itself() -> None:
    policy, batch = Policy(tiny_qwen2(V)), random_batch(V, rows=1, prompt=LONG, padding=False)
    batch = replace(batch, action_mask=torch.arange(batch.token_ids.shape[1])[None] == LONG)
    later = batch.token_ids.clone()
    later[:, LONG + 1 :] = 1
    changed = policy(replace(batch, token_ids=later)).logprobs
    assert torch.allclose(changed, policy(batch).logprobs, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_probabilities_over_the_vocabulary_sum_to_one_at_any_temperature(temperature: float) -> None:
    policy, batch = Policy(tiny_qwen2(V), temperature=temperature), random_batch(V, rows=1, prompt=LONG)
    acts = torch.zeros_like(batch.action_mask)
    acts[:, LONG] = True
    tokens = batch.token_ids.repeat(V, 1)
    tokens[:, LONG] = torch.arange(V)
    every = replace(batch.rows(torch.zeros(V, dtype=torch.long)), token_ids=tokens, action_mask=acts.repeat(V, 1))
    output = policy(every)
    logprobs = output.logprobs[:, LONG]
    assert logprobs.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert output.entropy[0, LONG].item() == pytest.approx(-(logprobs.exp() * logprobs).sum().item(), rel=1e-4)


def test_a_lower_temperature_sharpens_the_distribution() -> None:
    model, batch = tiny_qwen2(V), random_batch(V)
    entropies = [Policy(model, temperature=t)(batch).entropy.sum().item() for t in (0.5, 1.0, 2.0)]
    assert entropies == sorted(entropies)
    assert len(set(entropies)) == 3


def test_everything_is_zero_where_nothing_was_sampled() -> None:
    batch = random_batch(V)
    output = Policy(tiny_qwen2(V), value_head=True)(batch)
    assert output.values is not None
    for tensor in (output.logprobs, output.entropy, output.values):
        assert tensor.shape == batch.token_ids.shape
        assert tensor.dtype == torch.float32
        assert tensor[~batch.action_mask].abs().sum() == 0


def test_the_entropy_carries_no_gradient() -> None:
    assert not Policy(tiny_qwen2(V))(random_batch(V)).entropy.requires_grad


def test_there_are_no_values_without_a_value_head() -> None:
    assert Policy(tiny_qwen2(V))(random_batch(V)).values is None


def test_the_value_head_starts_at_zero_and_learns() -> None:
    policy, batch = Policy(tiny_qwen2(V), value_head=True), random_batch(V)
    values = policy(batch).values
    assert values is not None
    assert values.abs().sum() == 0
    assert policy.value_head is not None
    (gradient,) = torch.autograd.grad(values.sum(), policy.value_head.weight)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("prompt", [SHORT, LONG])
def test_a_value_depends_on_the_tokens_before_its_token_only(prompt: int) -> None:
    policy = Policy(tiny_qwen2(V), value_head=True)
    assert policy.value_head is not None
    torch.nn.init.normal_(policy.value_head.weight)
    batch = random_batch(V, rows=1, prompt=prompt, padding=False)
    changed = batch.token_ids.clone()
    changed[:, prompt] = (changed[:, prompt] + 1) % V
    one, other = (policy(replace(batch, token_ids=ids)).values for ids in (batch.token_ids, changed))
    assert one is not None
    assert other is not None
    assert one[0, prompt].item() == pytest.approx(other[0, prompt].item(), abs=1e-5)
    later = batch.action_mask[0].nonzero()[1:, 0]
    assert (one[0, later] - other[0, later]).abs().min() > 1e-4


@pytest.mark.parametrize("size", [1, 30, 60, 9999])
def test_evaluation_equals_the_forward_pass_for_every_size_of_micro_batches(size: int) -> None:
    policy, batch = Policy(tiny_qwen2(V), value_head=True), random_batch(V)
    expected = policy(batch)
    output = policy.evaluate(batch, size)
    assert not output.logprobs.requires_grad
    assert torch.allclose(output.logprobs, expected.logprobs, atol=1e-5)
    assert torch.allclose(output.entropy, expected.entropy, atol=1e-5)
    assert output.values is not None


def test_evaluation_of_a_policy_without_a_value_head_returns_no_values() -> None:
    assert Policy(tiny_qwen2(V)).evaluate(random_batch(V), 2).values is None


def test_autocast_gives_float32_results_and_keeps_float32_parameters() -> None:
    model, batch = tiny_qwen2(V), random_batch(V)
    exact: PolicyOutput = Policy(model)(batch)
    rough: PolicyOutput = Policy(model, autocast=torch.bfloat16)(batch)
    assert rough.logprobs.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not torch.equal(rough.logprobs, exact.logprobs)
    assert (rough.logprobs - exact.logprobs).abs().max() < 0.3


def test_autocast_keeps_no_second_copy_of_the_weights() -> None:
    policy = Policy(model := tiny_qwen2(V), autocast=torch.bfloat16)
    cached: list[bool] = []
    model.base_model.register_forward_hook(lambda *_: cached.append(torch.is_autocast_cache_enabled()))
    policy(random_batch(V))
    assert cached == [False]


def test_values_are_not_rounded_to_the_dtype_of_the_matrix_products() -> None:
    policy, batch = Policy(tiny_qwen2(V), value_head=True, autocast=torch.bfloat16), random_batch(V)
    assert policy.value_head is not None
    torch.nn.init.constant_(policy.value_head.bias, 1 + 2**-12)
    values = policy(batch).values
    assert values is not None
    assert values[batch.action_mask].unique().tolist() == [1 + 2**-12]


def test_the_output_layer_of_a_critic_is_not_trained_unless_it_embeds_its_tokens() -> None:
    for make, trained in ((tiny_llama, []), (tiny_qwen2, ["critic.model.embed_tokens.weight"])):
        policy = Policy(make(V), value_head=True, critic=make(V))
        head = policy.critic.get_output_embeddings().weight
        assert [name for name, p in policy.named_parameters() if p is head and p.requires_grad] == trained


def test_a_row_that_starts_with_an_action_is_rejected() -> None:
    batch = random_batch(V, rows=2)
    acts = batch.action_mask.clone()
    acts[1, 0] = True
    with pytest.raises(
        ValueError,
        match=r"^Expect a prompt of at least one token in every row, got a row that starts with an action\.$",
    ):
        Policy(tiny_qwen2(V))(replace(batch, action_mask=acts))


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore")  # the compiler emits its own warnings
def test_a_compiled_policy_gives_the_same_output() -> None:
    model, batch = tiny_qwen2(V), random_batch(V, prompt=LONG)
    plain = Policy(twin(model))(batch).logprobs
    policy = Policy(model, compile_layers=True)
    total = policy(batch).logprobs
    assert torch.allclose(total, plain, atol=1e-5)
    assert len(gradients(policy.model, total.sum())) == len(list(model.parameters()))


def test_the_rounding_of_bfloat16_is_no_reason_to_reject_a_model() -> None:
    Policy(tiny_qwen2(V, num_hidden_layers=12, initializer_range=0.3), autocast=torch.bfloat16).check()


@pytest.mark.parametrize("mix", [lambda hidden: hidden.cumsum(1), lambda hidden: hidden + hidden.roll(1, 1)])
def test_tokens_that_meet_outside_attention_are_found_in_bfloat16(mix: Callable[[torch.Tensor], torch.Tensor]) -> None:
    policy = Policy(model := tiny_qwen2(V), autocast=torch.bfloat16)
    model.base_model.layers[0].register_forward_hook(lambda _, __, hidden: mix(hidden))
    with pytest.raises(ModelError, match=r"^Expect a model that mixes tokens only in standard attention"):
        policy.check()
