"""An engine takes what is free, but for what training still needs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.core.chat import Chat
from agents.core.errors import EngineError
from agents.engines import open_engine
from agents.engines.gpu_memory import free_share, memory_share
from agents.models.find import resolve_model
from agents.models.load import load_tokenizer

GIB = 2**30


@given(total=st.integers(8, 300), data=st.data())
def test_what_is_reserved_stays_free(total: int, data: st.DataObject) -> None:
    free = data.draw(st.integers(4, total))
    reserved = data.draw(st.integers(0, free - 3))
    share = memory_share(free * GIB, total * GIB, reserved=reserved * GIB)
    assert 0 < share <= 0.9
    assert share * total + reserved < free


def test_a_gpu_that_training_fills_is_refused_in_one_line() -> None:
    with pytest.raises(
        EngineError, match=r"^Expect a GPU with room for an engine, got 20\.0 GiB free, of which .*19\.0"
    ):
        memory_share(20 * GIB, 80 * GIB, reserved=19 * GIB)


def test_a_device_is_asked_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * GIB, 80 * GIB))
    assert free_share(torch.device("cuda", 1), reserved=18 * GIB) == 0.5
    assert free_share(torch.device("cpu"), reserved=18 * GIB) == 0.9


def test_the_transformers_engine_opens_where_nothing_is_left_for_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.engines.gpu_memory.free_share", lambda *_, **__: memory_share(0, GIB, reserved=0))
    path = resolve_model("tiny")
    chat = Chat(load_tokenizer(path), "chat")
    settings = {"dtype": "float32", "device": torch.device("cpu"), "max_num_seqs": 2, "max_model_len": 64}
    open_engine("transformers", path, chat, **settings).close()
