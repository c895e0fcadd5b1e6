import dataclasses
from pathlib import Path

import pytest
import torch
from agents_fakes import random_batch, tiny_qwen2, twin

from agents import presets
from agents.core.files import read_metrics
from agents.learning import packing
from agents.learning.policy import Policy
from agents.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]


def test_the_tiny_preset_learns_on_a_gpu(tmp_path: Path) -> None:
    config = dataclasses.replace(presets["tiny"](), output_dir=tmp_path, device="cuda")
    trainer = Trainer(config)
    assert trainer.train()
    trainer.close()
    accuracies = [
        row["validation/accuracy"] for row in read_metrics(tmp_path / "metrics.jsonl") if "validation/accuracy" in row
    ]
    assert accuracies[-1] > 0.9


def test_trainer_and_engine_agree_on_a_gpu_in_float32(tmp_path: Path) -> None:
    config = dataclasses.replace(presets["tiny"](), output_dir=tmp_path, device="cuda", max_steps=1)
    trainer = Trainer(config)
    trainer.train()
    trainer.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert max(row["sampling/sampling_logp_difference/max"] for row in rows if "reward" in row) < 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("window", [None, 48])
def test_the_packed_kernel_gives_the_numbers_of_attention_by_segment(
    checkpointing: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 all segments go through one flash-attention kernel; on a CPU each is attended to by itself."""
    windows = {"use_sliding_window": window is not None, "sliding_window": window, "max_window_layers": 0}
    model = tiny_qwen2(40, head_dim=64, **windows).cuda()
    batch = random_batch(40, rows=6, prompt=30, length=200)
    found, calls, varlen = [], list[bool](), packing._varlen
    monkeypatch.setattr(packing, "_varlen", lambda *parts, **more: (calls.append(True), varlen(*parts, **more))[1])
    for autocast in (None, torch.bfloat16):
        policy = Policy(twin(model).cuda(), autocast=autocast, gradient_checkpointing=checkpointing).train()
        logprobs = policy(batch).logprobs
        logprobs.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
        found.append((logprobs.detach(), gradient))
    (exact, gradient), (rough, rough_gradient) = found
    assert calls
    assert (rough - exact).abs().mean() < 0.05
    assert torch.nn.functional.cosine_similarity(rough_gradient, gradient, dim=0) > 0.98


def test_a_compiled_policy_says_the_same_on_a_gpu() -> None:
    model, batch = tiny_qwen2(40).cuda(), random_batch(40, rows=4)
    plain = Policy(twin(model).cuda())(batch).logprobs
    assert torch.allclose(Policy(model, compile_layers=True)(batch).logprobs, plain, atol=1e-4)
