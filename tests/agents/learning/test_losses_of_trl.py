"""Our losses are those of TRL's GRPOTrainer, on the same tensors, in value and gradient."""

from itertools import product
from typing import Any

import pytest
import torch
from agents_fakes import tiny_qwen2
from trl_fakes import WARNINGS_OF_TRL, tool_tokenizer

from agents.learning.losses import AGGREGATIONS, kl_loss, policy_loss

LONGEST = 24  # max_completion_length
AGGREGATION = {"dapo": "token", "bnpo": "token", "grpo": "sequence", "dr_grpo": "constant"}
CHOICES = {
    "loss_type": AGGREGATION,
    "level": ("token", "sequence"),
    "epsilon_high": (0.2, 0.28),
    "dual_clip": (None, 3.0),
    "beta": (0.0, 0.04),
}

pytestmark = [pytest.mark.slow, *map(pytest.mark.filterwarnings, WARNINGS_OF_TRL)]


@pytest.fixture(scope="module")
def trl_loss(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return TRL's loss as a function of log-probabilities and of what it needs beside them."""
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    tokenizer = tool_tokenizer()
    trainer = trl.GRPOTrainer(
        model=tiny_qwen2(len(tokenizer)),
        processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=datasets.Dataset.from_list([{"prompt": "-"}]),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=LONGEST,
            use_cpu=True,
            bf16=False,
            report_to=[],
            use_bias_correction_kl=False,
        ),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = 1

    def loss(logprobs: torch.Tensor, inputs: dict[str, Any], choice: dict[str, Any]) -> torch.Tensor:
        trainer.loss_type, trainer.importance_sampling_level = choice["loss_type"], choice["level"]
        trainer.epsilon_high, trainer.args.delta, trainer.beta = (
            choice[name] for name in ("epsilon_high", "dual_clip", "beta")
        )
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None)
        total: torch.Tensor = trainer._compute_loss(trainer.model, inputs)
        return total

    return loss


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Log-probabilities far enough apart that every clip acts, and masks with feedback and rows of all lengths."""
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(16, LONGEST, generator=generator)
    logprobs = old + 0.8 * torch.randn(old.shape, generator=generator)
    lengths = torch.randint(3, LONGEST + 1, (16, 1), generator=generator)
    there = torch.arange(LONGEST) < lengths
    sampled = there & (torch.rand(old.shape, generator=generator) < 0.7) | (torch.arange(LONGEST) == 0)
    return {
        "logprobs": logprobs.double(),
        "old": old.double(),
        "reference": (old + 0.3 * torch.randn(old.shape, generator=generator)).double(),
        "advantages": torch.randn(16, generator=generator).double(),
        "there": there,
        "sampled": sampled,
    }


def ours(tensors: dict[str, torch.Tensor], logprobs: torch.Tensor, choice: dict[str, Any]) -> torch.Tensor:
    mask = tensors["sampled"]
    weights = AGGREGATIONS[AGGREGATION[choice["loss_type"]]](mask, LONGEST)
    loss = policy_loss(
        logprobs,
        tensors["old"],
        tensors["advantages"][:, None].expand_as(logprobs),
        mask,
        weights,
        epsilon=0.2,
        epsilon_high=choice["epsilon_high"],
        dual_clip=choice["dual_clip"],
        ratio=choice["level"],
    ).total
    if choice["beta"]:
        loss = (
            loss
            + kl_loss(logprobs, tensors["reference"], mask, weights, estimator="k3", coefficient=choice["beta"]).total
        )
    return loss


@pytest.mark.parametrize("values", list(product(*CHOICES.values())), ids=lambda values: "-".join(map(str, values)))
def test_loss_and_gradient_are_those_of_trl(
    values: tuple[Any, ...], trl_loss: Any, tensors: dict[str, torch.Tensor]
) -> None:
    choice = dict(zip(CHOICES, values, strict=True))
    inputs = {
        "prompt_ids": torch.zeros(16, 1, dtype=torch.long),
        "prompt_mask": torch.ones(16, 1, dtype=torch.long),
        "completion_ids": torch.zeros(16, LONGEST, dtype=torch.long),
        "completion_mask": tensors["there"].long(),
        "tool_mask": tensors["sampled"].long(),
        "advantages": tensors["advantages"],
        "old_per_token_logps": tensors["old"],
        "ref_per_token_logps": tensors["reference"],
        "num_items_in_batch": tensors["sampled"].sum(),
    }
    found = []
    for loss in (lambda x: ours(tensors, x, choice), lambda x: trl_loss(x, inputs, choice)):
        logprobs = tensors["logprobs"].clone().requires_grad_()
        total = loss(logprobs)
        total.backward()
        assert logprobs.grad is not None
        found.append((total.detach(), logprobs.grad))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
