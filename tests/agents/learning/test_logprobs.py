"""Log-probabilities in chunks have the values and gradients of those from full logits."""

import pytest
import torch
from dispatch import Shapes

from agents.learning.policy import token_logprobs

N, H, V = 11, 6, 9


def inputs(*, bias: bool) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(N, H), (V, H), (V,)] if bias else [(N, H), (V, H)]
    return [torch.randn(*s, generator=random, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.7, -0.3)])
def test_values_and_gradients_equal_those_of_full_logits(
    monkeypatch: pytest.MonkeyPatch, bias: bool, temperature: float, weights: tuple[float, float]
) -> None:
    monkeypatch.setattr("agents.learning.policy._LOGITS_BYTES", {"cpu": 4 * V * 4})  # four tokens, or three words
    parts, chosen = inputs(bias=bias), torch.arange(N) % V
    everything = torch.log_softmax(
        torch.nn.functional.linear(parts[0], parts[1], parts[2] if bias else None) / temperature, -1
    )
    expected = everything.gather(1, chosen[:, None])[:, 0], -(everything.exp() * everything).sum(1)
    found = token_logprobs(parts[0], parts[1], parts[2] if bias else None, chosen, temperature=temperature)
    pull = torch.linspace(-1, 1, N, dtype=torch.float64)
    totals = [(pull * (weights[0] * a + weights[1] * b)).sum() for a, b in (found, expected)]
    assert torch.allclose(torch.stack(found), torch.stack(expected))
    for one, other in zip(*(torch.autograd.grad(total, parts) for total in totals), strict=True):
        assert torch.allclose(one, other)


def test_a_loss_may_use_only_one_output() -> None:
    parts, chosen = inputs(bias=False), torch.zeros(N, dtype=torch.long)
    for which in (0, 1):
        total = token_logprobs(parts[0], parts[1], None, chosen)[which].sum()
        assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(total, parts))


def test_a_frozen_output_layer_gets_no_gradient() -> None:
    hidden, weight = inputs(bias=False)
    weight.requires_grad_(False)
    token_logprobs(hidden, weight, None, torch.zeros(N, dtype=torch.long))[0].sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_an_empty_input_works() -> None:
    _, weight = inputs(bias=False)
    hidden = torch.zeros(0, H, dtype=torch.float64, requires_grad=True)
    found, _ = token_logprobs(hidden, weight, None, torch.zeros(0, dtype=torch.long))
    found.sum().backward()
    assert found.shape == (0,)


def test_bfloat16_inputs_give_float32_outputs() -> None:
    hidden, weight = (part.detach().bfloat16() for part in inputs(bias=False))
    found = token_logprobs(hidden, weight.float(), None, torch.zeros(N, dtype=torch.long))
    assert {part.dtype for part in found} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_the_output_layer_is_written_once_for_any_number_of_parts(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    counts = {}
    for tokens in (1, 4, 8):  # 9, 3 and 2 parts
        monkeypatch.setattr("agents.learning.policy._LOGITS_BYTES", {"cpu": 4 * V * tokens})
        hidden, weight = (part.detach().to(dtype).requires_grad_() for part in inputs(bias=False))
        total = token_logprobs(hidden, weight, None, torch.arange(N) % V)[0].sum()
        with Shapes() as shapes:
            torch.autograd.grad(total, [hidden, weight])
        counts[tokens] = shapes.seen.count(weight.shape)
    assert set(counts.values()) == {1}
