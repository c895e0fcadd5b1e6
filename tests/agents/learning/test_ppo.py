"""The update: a correct gradient that does not depend on the split into micro-batches."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from agents_fakes import random_batch, tiny_llama, tiny_opt, tiny_qwen2
from transformers import get_scheduler

from agents.config.training import PPOConfig
from agents.core.types import Advantages, Batch, PolicyOutput
from agents.learning.policy import Policy
from agents.learning.ppo import PPO

V = 40


def ppo(*, value_head: bool = False, llama: bool = False, **changes: Any) -> PPO:
    """PPO on a tiny policy, whose value head, if any, does not return 0."""
    policy = Policy(tiny_llama(V) if llama else tiny_qwen2(V), value_head=value_head)
    if policy.value_head is not None:
        torch.nn.init.normal_(policy.value_head.weight, generator=torch.Generator().manual_seed(0))
    return PPO(policy, PPOConfig(**({"learning_rate": 1e-2} | changes)))


def targets(batch: Batch, seed: int = 1) -> Advantages:
    random = torch.Generator().manual_seed(seed)
    made = torch.randn(2, *batch.action_mask.shape, generator=random) * batch.action_mask
    return Advantages(advantages=made[0], returns=made[1])


def gradients(of: PPO) -> list[torch.Tensor]:
    return [p.grad.clone() for p in of.policy.parameters() if p.grad is not None]


def moved(old: PolicyOutput, batch: Batch) -> PolicyOutput:
    """The output of a different old policy, so that some ratios are clipped."""
    random = torch.Generator().manual_seed(2)
    noise = 0.4 * torch.randn(batch.action_mask.shape, generator=random) * batch.action_mask
    return replace(old, logprobs=old.logprobs + noise)


@pytest.mark.parametrize("value_head", [False, True])
@pytest.mark.parametrize("llama", [False, True])
def test_every_size_of_micro_batches_gives_the_same_gradients(value_head: bool, llama: bool) -> None:
    batch = random_batch(V, rows=7)
    found = []
    for size in (1, 40, 80, 9999):
        agent = ppo(value_head=value_head, llama=llama, micro_batch_tokens=size)
        old = moved(agent.policy.evaluate(batch, size), batch)
        count, metrics = agent.accumulate(batch, old, targets(batch))
        assert count == int(batch.action_mask.sum())
        found.append((gradients(agent), metrics))
    names = len(list(ppo(value_head=value_head, llama=llama).policy.parameters()))
    for each, metrics in found:
        assert len(each) == names
        assert metrics == pytest.approx(found[0][1], rel=1e-4)
        assert metrics["clip_ratio/high_mean"] > 0
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(each, found[0][0], strict=True))


def test_in_float64_the_gradients_are_equal_to_the_last_digits() -> None:
    batch = random_batch(V, rows=7)
    found = []
    for size in (1, 40, 80, 9999):
        agent = ppo(micro_batch_tokens=size)
        agent.policy.double()
        old = agent.policy.evaluate(batch, size)
        agent.accumulate(batch, old, targets(batch))
        found.append(gradients(agent))
    for each in found:
        assert all(torch.allclose(a, b, atol=1e-6, rtol=0) for a, b in zip(each, found[0], strict=True))


def test_before_any_update_the_gradient_is_the_policy_gradient_averaged_over_tokens() -> None:
    agent, batch = ppo(micro_batch_tokens=2), random_batch(V)
    aims = targets(batch)
    agent.accumulate(batch, agent.policy.evaluate(batch, 2), aims)
    logprobs = agent.policy(batch).logprobs[batch.action_mask]
    expected = torch.autograd.grad(
        -(logprobs * aims.advantages[batch.action_mask]).mean(), list(agent.policy.parameters())
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients(agent), expected, strict=True))


def test_a_sequence_is_weighted_by_its_number_of_tokens() -> None:
    # Two equal rows, one of which counts only its first token: the mean is over tokens, not over rows.
    batch = random_batch(V, rows=1, padding=False).rows(torch.tensor([0, 0]))
    acts = batch.action_mask.clone()
    acts[1] = torch.arange(acts.shape[1]) == int(acts[0].nonzero()[0])
    batch = replace(batch, action_mask=acts)
    ones = acts.float()
    agent = ppo(micro_batch_tokens=1)
    old = agent.policy.evaluate(batch, 1)
    agent.accumulate(batch, old, Advantages(advantages=ones, returns=ones))
    both = gradients(agent)
    parts = []
    for row in (0, 1):
        part, index = batch.rows(torch.tensor([row])), torch.tensor([row])
        count, _ = agent.accumulate(part, old.rows(index), Advantages(advantages=ones[index], returns=ones[index]))
        parts.append((count, gradients(agent)))
    (many, first), (one, second) = parts
    assert (many, one) == (int(acts[0].sum()), 1)
    for total, a, b in zip(both, first, second, strict=True):
        assert torch.allclose(total * (many + one), a * many + b * one, atol=1e-3)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_no_value_is_read_from_the_device_before_the_end_of_a_minibatch(
    monkeypatch: pytest.MonkeyPatch, gradient_checkpointing: bool
) -> None:
    policy = Policy(tiny_qwen2(V), value_head=True, gradient_checkpointing=gradient_checkpointing)
    agent, batch = PPO(policy, PPOConfig(micro_batch_tokens=40, entropy_coefficient=0.1)), random_batch(V, rows=7)
    old = policy.evaluate(batch, 40)
    aims = replace(targets(batch), reference_logprobs=old.logprobs)
    policy.to("meta")  # computes shapes; reading a value is an error
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)  # it does not know this device
    monkeypatch.setattr("agents.learning.policy._LOGITS_BYTES", {"meta": 4 * V * 8})
    reads: list[object] = []
    monkeypatch.setattr("agents.learning.ppo.add_up_metrics", reads.append)
    monkeypatch.setattr("agents.learning.policy.add_up", lambda tensor: [reads.append(tensor), torch.zeros(())][1])
    agent.accumulate(batch, old, aims)
    policy.evaluate(batch, 40)
    metrics, *outputs = reads
    assert isinstance(metrics, list)
    assert len(metrics) > 1
    assert len(outputs) == 3


def test_values_at_feedback_tokens_have_no_influence() -> None:
    batch = random_batch(V)
    outcomes = []
    for filler in (0.0, -7.5):
        agent = ppo(value_head=True)
        old = agent.policy.evaluate(batch, 8)
        aims = targets(batch)
        old = replace(old, logprobs=torch.where(batch.action_mask, old.logprobs, filler))
        aims = Advantages(advantages=aims.advantages, returns=torch.where(batch.action_mask, aims.returns, filler))
        outcomes.append((agent.accumulate(batch, old, aims), gradients(agent)))
    assert outcomes[0][0] == outcomes[1][0]
    assert all(torch.equal(a, b) for a, b in zip(outcomes[0][1], outcomes[1][1], strict=True))


def test_a_clipped_token_has_no_gradient() -> None:
    agent, batch = ppo(), random_batch(V)
    ones = batch.action_mask.float()
    old = agent.policy.evaluate(batch, 8)
    far = replace(old, logprobs=old.logprobs - ones)  # every ratio is e, above 1.28
    agent.accumulate(batch, far, Advantages(advantages=ones, returns=ones))
    assert all(g.abs().max() == 0 for g in gradients(agent))


def test_gradients_of_the_previous_step_are_dropped() -> None:
    agent, batch = ppo(), random_batch(V)
    old, aims = agent.policy.evaluate(batch, 8), targets(batch)
    agent.accumulate(batch, old, aims)
    first = gradients(agent)
    agent.accumulate(batch, old, aims)
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(agent), strict=True))


def run_update(agent: PPO, batch: Batch, aims: Advantages, *, seed: int = 0) -> dict[str, float]:
    old = agent.policy.evaluate(batch, 8)
    return agent.update(batch, old, aims, agent.minibatches(len(batch), torch.Generator().manual_seed(seed)))


def test_an_update_leaves_no_gradients_in_memory() -> None:
    agent, batch = ppo(), random_batch(V)
    run_update(agent, batch, targets(batch))
    assert gradients(agent) == []


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_dropout_is_off_so_that_an_update_begins_with_ratios_of_exactly_1(gradient_checkpointing: bool) -> None:
    model, batch = tiny_opt(V, dropout=0.1, attention_dropout=0.1, layerdrop=0.1), random_batch(V)
    policy = Policy(model, gradient_checkpointing=gradient_checkpointing)
    metrics = run_update(PPO(policy, PPOConfig(num_minibatches=1)), batch, targets(batch))
    assert metrics["approx_kl"] == 0
    assert metrics["grad_norm"] > 0


def test_gradient_checkpointing_recomputes_the_layers_of_an_update() -> None:
    calls = {}
    for recomputes in (False, True):
        policy = Policy(tiny_qwen2(V), gradient_checkpointing=recomputes)
        count = 0

        def counted(*_: Any) -> None:
            nonlocal count
            count += 1

        policy.model.model.layers[0].self_attn.register_forward_hook(counted)
        agent, batch = PPO(policy, PPOConfig()), random_batch(V)
        old = policy.evaluate(batch, 9999)
        count = 0
        agent.accumulate(batch, old, targets(batch))
        calls[recomputes] = count
    assert calls == {False: 1, True: 2}


def test_an_update_makes_good_tokens_more_likely_and_bad_ones_less_likely() -> None:
    agent, batch = ppo(num_epochs=3), random_batch(V)
    signs = torch.where(torch.arange(len(batch)) % 2 == 0, 1.0, -1.0)[:, None] * batch.action_mask
    before = agent.policy.evaluate(batch, 8).logprobs
    run_update(agent, batch, Advantages(advantages=signs, returns=signs))
    change = (agent.policy.evaluate(batch, 8).logprobs - before).sum(1)
    assert (change[0::2] > 0).all()
    assert (change[1::2] < 0).all()


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_gradient_does_not_depend_on_micro_batches_for_any_loss(aggregation: str, ratio: str) -> None:
    batch, found = random_batch(V, rows=6), []
    for tokens in (9999, 60, 1):
        agent = ppo(
            aggregation=aggregation,
            ratio=ratio,
            micro_batch_tokens=tokens,
            kl_coefficient=0.3,
            entropy_coefficient=0.2,
        )
        agent.policy._entropy_gradient = True
        old = agent.policy.evaluate(batch, 8)
        aims = replace(targets(batch), reference_logprobs=moved(moved(old, batch), batch).logprobs)
        agent.accumulate(batch, moved(old, batch), aims)
        found.append(torch.cat([g.flatten() for g in gradients(agent)]))
    for other in found[1:]:
        assert (other - found[0]).norm() < 1e-5 * found[0].norm()


def test_a_kl_penalty_pulls_the_policy_back() -> None:
    agent, batch = ppo(kl_coefficient=1.0, num_epochs=4), random_batch(V)
    nothing = torch.zeros_like(batch.sampling_logprobs)
    other = Policy(tiny_qwen2(V, seed=3)).evaluate(batch, 8).logprobs
    aims = Advantages(advantages=nothing, returns=nothing, reference_logprobs=other)
    first, *_, last = [run_update(agent, batch, aims)["kl"] for _ in range(4)]
    assert 0 < last < first / 2


def test_an_entropy_bonus_raises_the_entropy() -> None:
    agent, batch = ppo(entropy_coefficient=1.0, num_epochs=4), random_batch(V)
    agent.policy._entropy_gradient = True
    nothing = torch.zeros_like(batch.sampling_logprobs)
    aims = Advantages(advantages=nothing, returns=nothing)
    first, *_, last = [run_update(agent, batch, aims)["entropy"] for _ in range(3)]
    assert last > first + 0.05


@pytest.mark.parametrize(("rows", "minibatches", "epochs", "updates"), [(6, 2, 1, 2), (6, 4, 3, 12), (2, 4, 1, 2)])
def test_each_minibatch_of_each_epoch_takes_one_step(rows: int, minibatches: int, epochs: int, updates: int) -> None:
    agent = ppo(num_minibatches=minibatches, num_epochs=epochs)
    batch = random_batch(V, rows=rows)
    norms: list[float] = []

    def guard(metrics: Mapping[str, float], _: object) -> bool:
        norms.append(metrics["grad_norm"])
        return True

    metrics = agent.update(
        batch,
        agent.policy.evaluate(batch, 8),
        targets(batch),
        agent.minibatches(rows, torch.Generator()),
        guard=guard,
    )
    assert metrics["num_updates"] == len(norms) == updates
    assert metrics["grad_norm"] == pytest.approx(sum(norms) / updates)


@pytest.mark.parametrize(
    ("rows", "minibatches", "sizes"),
    [(10, 4, [3, 3, 2, 2]), (5, 4, [2, 1, 1, 1]), (8, 4, [2, 2, 2, 2]), (7, 2, [4, 3]), (2, 4, [1, 1])],
)
def test_minibatches_have_equal_sizes_up_to_one_row(rows: int, minibatches: int, sizes: list[int]) -> None:
    parts = ppo(num_minibatches=minibatches).minibatches(rows, torch.Generator())
    assert [len(part) for part in parts] == sizes
    assert sorted(torch.cat(parts).tolist()) == list(range(rows))


@pytest.mark.parametrize(("minibatches", "epochs"), [(1, 1), (2, 1), (2, 2)])
def test_the_first_minibatch_brings_the_log_probabilities_before_the_update(minibatches: int, epochs: int) -> None:
    batch, found = random_batch(V, rows=6), []
    for fill_in in (False, True):
        agent = ppo(num_minibatches=minibatches, num_epochs=epochs)
        agent.policy.double()  # in float32, Adam makes steps of rounding where a gradient is 0
        parts = agent.minibatches(len(batch), torch.Generator().manual_seed(0))
        old = agent.policy.evaluate(batch, 60)
        expected = old.logprobs.clone()
        if fill_in:
            old.logprobs[parts[0]] = 0
        metrics = agent.update(batch, old, targets(batch), parts, fill_in=fill_in)
        assert torch.allclose(old.logprobs, expected, atol=1e-6)
        found.append((metrics, torch.cat([p.flatten() for p in agent.policy.parameters()])))
    (before, weights), (metrics, others) = found
    assert metrics == pytest.approx(before, rel=1e-5, abs=1e-6)
    assert torch.allclose(weights, others, atol=1e-5)


def test_every_epoch_sees_every_sequence_once(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, batch = ppo(num_minibatches=3, num_epochs=2), random_batch(V, rows=7)
    batch = replace(batch, group_ids=torch.arange(7))
    seen: list[list[int]] = []
    whole = agent.accumulate

    def spy(part: Batch, *rest: Any, **more: Any) -> tuple[int, dict[str, float]]:
        seen.append(part.group_ids.tolist())
        return whole(part, *rest, **more)

    monkeypatch.setattr(agent, "accumulate", spy)
    run_update(agent, batch, targets(batch))
    assert [sorted(n for part in seen[i : i + 3] for n in part) for i in (0, 3)] == [list(range(7))] * 2
    assert seen[:3] != seen[3:]


def test_the_metrics_have_these_names() -> None:
    names = {
        "policy_loss",
        "approx_kl",
        "clip_ratio/high_mean",
        "clip_ratio/low_mean",
        "entropy",
        "grad_norm",
        "learning_rate",
        "num_updates",
    }
    batch = random_batch(V)
    assert set(run_update(ppo(), batch, targets(batch))) == names
    assert set(run_update(ppo(value_head=True), batch, targets(batch))) == names | {"value_loss"}


def test_the_metrics_are_means_over_sampled_tokens() -> None:
    agent, batch = ppo(num_minibatches=1), random_batch(V)
    output = agent.policy.evaluate(batch, 8)
    aims = targets(batch)
    metrics = run_update(agent, batch, aims)
    assert metrics["entropy"] == pytest.approx(output.entropy[batch.action_mask].mean().item(), rel=1e-5)
    assert metrics["policy_loss"] == pytest.approx(-aims.advantages[batch.action_mask].mean().item(), rel=1e-4)
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["clip_ratio/high_mean"] == metrics["clip_ratio/low_mean"] == 0


def test_the_same_generator_gives_the_same_update() -> None:
    batch = random_batch(V)
    weights = []
    for seed in (0, 0, 1):
        agent = ppo()
        run_update(agent, batch, targets(batch), seed=seed)
        weights.append(torch.cat([p.detach().flatten() for p in agent.policy.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_gradient_is_clipped_to_its_norm() -> None:
    agent, batch = ppo(max_grad_norm=1e-3, num_minibatches=1), random_batch(V)
    norms: list[float] = []

    def guard(*_: object) -> bool:
        norms.append(torch.cat([g.flatten() for g in gradients(agent)]).norm().item())
        return True

    parts = agent.minibatches(len(batch), torch.Generator())
    metrics = agent.update(batch, agent.policy.evaluate(batch, 8), targets(batch), parts, guard=guard)
    (norm,) = norms
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert metrics["grad_norm"] > 1e-2


@pytest.mark.slow
def test_the_value_head_moves_towards_the_returns() -> None:
    agent, batch = ppo(value_head=True, num_epochs=4), random_batch(V)
    aims = Advantages(advantages=torch.zeros(batch.action_mask.shape), returns=3.0 * batch.action_mask)
    losses = [run_update(agent, batch, aims)["value_loss"] for _ in range(3)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_with_a_non_finite_gradient_is_skipped_and_changes_nothing(bad: float) -> None:
    agent, batch = ppo(num_minibatches=1), random_batch(V)
    run_update(agent, batch, targets(batch))  # there is optimizer state now
    before = deepcopy(agent.policy.state_dict()), deepcopy(agent.optimizer.state_dict()["state"])
    broken = torch.where(batch.action_mask, bad, 0.0)
    assert run_update(agent, batch, Advantages(advantages=broken, returns=broken)) == {"num_updates": 0}
    after = agent.policy.state_dict(), agent.optimizer.state_dict()["state"]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert all(p.grad is None for p in agent.policy.parameters())
    assert run_update(agent, batch, targets(batch))["num_updates"] == 1


def test_a_separate_critic_has_its_own_learning_rate_and_does_not_change_the_policy() -> None:
    batch = random_batch(V)
    config = PPOConfig(advantage="gae", critic="separate", learning_rate=1e-9, critic_learning_rate=1e-2, num_epochs=8)
    policy = Policy(tiny_qwen2(V), value_head=True, critic=tiny_qwen2(V, seed=1))
    agent, zeros = PPO(policy, config), torch.zeros_like(batch.sampling_logprobs)
    aims = Advantages(advantages=zeros, returns=batch.action_mask.float())
    before = policy.evaluate(batch, 100)
    run_update(agent, batch, aims)
    after = policy.evaluate(batch, 100)
    assert torch.allclose(after.logprobs, before.logprobs, atol=1e-3)
    assert before.values is not None
    assert after.values is not None
    assert after.values[batch.action_mask].mean() > 0.1 + before.values[batch.action_mask].mean()
    assert [len(group) for group in policy.parameter_groups()] == [len(list(policy.model.parameters())), 28]


@pytest.mark.parametrize(
    ("name", "warmup", "same_as"),
    [
        ("constant", 0, "constant"),
        ("constant", 2, "constant_with_warmup"),
        ("linear", 1, "linear"),
        ("cosine", 0, "cosine"),
    ],
)
def test_the_learning_rates_are_those_of_transformers_schedulers(name: Any, warmup: int, same_as: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-2)
    scheduler = get_scheduler(same_as, optimizer, num_warmup_steps=2 * warmup, num_training_steps=10)
    expected = []
    for _ in range(10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    config = PPOConfig(learning_rate=1e-2, lr_scheduler_type=name, warmup_steps=warmup, num_minibatches=2)
    batch, found = random_batch(V, rows=4), []
    agent = PPO(Policy(tiny_qwen2(V)), config, max_steps=5)

    def guard(*_: object) -> bool:
        found.append(agent.optimizer.param_groups[0]["lr"])
        return len(found) != 3  # a skipped step counts

    old = agent.policy.evaluate(batch, 99)
    for step in range(5):
        parts = agent.minibatches(len(batch), torch.Generator())
        metrics = agent.update(batch, old, targets(batch), parts, step=step, guard=guard)
        assert metrics is not None
        assert metrics["learning_rate"] == found[-1]
    assert found == expected


def test_metrics_cover_only_the_steps_that_were_taken() -> None:
    batch, aims = random_batch(V, rows=6), []
    agent = ppo(num_minibatches=2, num_epochs=2)
    answers = iter([True, False, False, True])

    def guard(metrics: Mapping[str, float], part: tuple[Batch, PolicyOutput, Advantages]) -> bool:
        taken = next(answers)
        aims.append((taken, metrics["policy_loss"], int(part[0].action_mask.sum())))
        return taken

    parts = agent.minibatches(len(batch), torch.Generator())
    metrics = agent.update(batch, agent.policy.evaluate(batch, 8), targets(batch), parts, guard=guard)
    taken = [(loss, tokens) for was_taken, loss, tokens in aims if was_taken]
    assert metrics["num_updates"] == 2
    assert metrics["policy_loss"] == pytest.approx(sum(loss * n for loss, n in taken) / sum(n for _, n in taken))
