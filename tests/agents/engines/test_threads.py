"""Functions that ask for all threads get the caller's, everything else in a pass gets one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from agents_fakes import tiny_gpt2, tiny_llama, transformers_engine
from engine_contract import CHAT, PROMPT, finish
from transformers import PreTrainedModel

from agents.engines.base import Sampling
from agents.engines.threads import all_threads, one_thread

V = len(CHAT.tokenizer)
counted = all_threads(torch.get_num_threads)


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_only_functions_that_ask_for_them_use_all_threads() -> None:
    with one_thread():
        assert (torch.get_num_threads(), counted(), torch.get_num_threads()) == (1, 3, 1)
    assert (torch.get_num_threads(), counted()) == (3, 3)


def test_an_error_leaves_the_threads_as_they_were() -> None:
    with pytest.raises(ZeroDivisionError), one_thread():
        all_threads(divmod)(1, 0)
    assert (torch.get_num_threads(), counted()) == (3, 3)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(tiny_llama(V), 1, id="packed"),
        pytest.param(tiny_gpt2(V), 3, id="matrices of its own"),
    ],
)
def test_a_pass_uses_one_thread_where_its_matrices_ask_for_all(model: PreTrainedModel, expected: int) -> None:
    seen = set()
    engine = transformers_engine(model, CHAT, max_model_len=160)
    for module in engine._model.modules():
        if isinstance(module, torch.nn.LayerNorm) or "Norm" in type(module).__name__:
            module.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    engine.submit(0, PROMPT * 20, Sampling(seed=1, max_tokens=3))
    finish(engine, 1)
    assert seen == {expected}
    assert torch.get_num_threads() == 3
