import pytest
import torch
from agents_fakes import random_batch, tiny_qwen2, twin

from agents.config.training import OptimizerConfig
from agents.learning.policy import Policy
from agents.learning.supervised import Supervised

V = 40


def gradients(**settings: int) -> tuple[dict[str, float], list[torch.Tensor]]:
    """The metrics of a step, and the gradients that it took."""
    learner = Supervised(Policy(tiny_qwen2(V)), OptimizerConfig(max_grad_norm=1e9, **settings), max_steps=1)
    metrics = learner.update(random_batch(V), step=0)
    return metrics, [p.grad for p in learner.policy.parameters() if p.grad is not None]


def test_the_loss_is_the_cross_entropy_of_the_action_tokens_alone() -> None:
    model, batch = tiny_qwen2(V), random_batch(V, padding=False)
    expected = torch.nn.functional.cross_entropy(
        model(batch.token_ids).logits[:, :-1][batch.action_mask[:, 1:]], batch.token_ids[batch.action_mask]
    )
    learner = Supervised(Policy(twin(model)), OptimizerConfig(), max_steps=1)
    assert learner.evaluate(batch) == pytest.approx(expected.item(), rel=1e-5)
    assert learner.update(batch, step=0)["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_gradient_does_not_depend_on_micro_batches() -> None:
    whole, parts = gradients(micro_batch_tokens=10_000), gradients(micro_batch_tokens=1)
    assert whole[0]["loss"] == pytest.approx(parts[0]["loss"], rel=1e-5)
    for one, two in zip(whole[1], parts[1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_step_that_is_not_finite_changes_no_weight() -> None:
    learner = Supervised(Policy(tiny_qwen2(V)), OptimizerConfig(learning_rate=0.1), max_steps=1)
    with torch.no_grad():
        next(learner.policy.parameters())[:] = float("nan")
    before = [p.detach().clone() for p in learner.policy.parameters()]
    assert learner.update(random_batch(V), step=0)["num_updates"] == 0
    for one, two in zip(before, learner.policy.parameters(), strict=True):
        torch.testing.assert_close(one, two, equal_nan=True, rtol=0, atol=0)
