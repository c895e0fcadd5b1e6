"""The optimizer takes AdamW's steps, and with 8 bits it holds a quarter of the state."""

from collections.abc import Iterator

import pytest
import torch

from agents.config.training import PPOConfig
from agents.core.errors import ConfigError
from agents.learning.optimizer import make_optimizer, set_learning_rates


@pytest.fixture
def eager() -> Iterator[None]:
    """Without the compiler, which torchao's optimizer gives its step to."""
    with torch.compiler.set_stance("force_eager"):
        yield


def stepped(config: PPOConfig) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    """A parameter after three steps, whose learning rates differ."""
    random = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(64, 128, generator=random))
    optimizer = make_optimizer(config, [[parameter]], [config.learning_rate])
    for rate in (1e-3, 1e-2, 2e-3):
        parameter.grad = torch.randn(64, 128, generator=random)
        set_learning_rates(optimizer, [rate])
        optimizer.step()
    return parameter, optimizer


def plain() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(64, 128, generator=random))
    optimizer = torch.optim.AdamW([parameter], weight_decay=0.01, foreach=False)
    for rate in (1e-3, 1e-2, 2e-3):
        parameter.grad = torch.randn(64, 128, generator=random)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return parameter.detach()


def test_the_fused_optimizer_takes_the_steps_of_adamw() -> None:
    parameter, _ = stepped(PPOConfig())
    assert torch.allclose(parameter, plain(), atol=1e-6)


@pytest.mark.slow
def test_8_bits_take_a_quarter_of_the_state_and_nearly_the_same_steps(eager: None) -> None:
    pytest.importorskip("torchao")
    parameter, optimizer = stepped(PPOConfig(optimizer="adamw-8bit"))
    start = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    moved, expected = parameter.detach() - start, plain() - start
    assert (moved - expected).norm() < 0.1 * expected.norm()
    parts = [optimizer.state[parameter][name] for name in ("exp_avg", "exp_avg_sq")]
    held = sum(part.codes.nbytes + part.scale.nbytes for part in parts)
    assert held < 0.26 * 2 * parameter.nbytes


def test_a_missing_library_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.learning.optimizer.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'^Expect the library torchao .* pip install -e "\.\[torchao\]"\.$'):
        make_optimizer(PPOConfig(optimizer="adamw-8bit"), [], [])
