import unicodedata

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from agents.models.load import load_model, load_tokenizer
from agents.models.tiny import build_tiny, byte_tokenizer


@given(st.text())
@settings(deadline=None)
def test_every_text_round_trips_with_one_token_per_byte(text):
    text = unicodedata.normalize("NFC", text)
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text
    assert len(ids) == len(text.encode())


TOKENIZER = byte_tokenizer()


def test_a_loaded_tokenizer_encodes_like_the_saved_one(tiny):
    loaded = AutoTokenizer.from_pretrained(tiny)
    text = "Ünï 12 + 3 = \n```python\n\tprint('e\u0301')\r\n```\n<|im_end|>"
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.decode(loaded.encode("12  + 3 !\n\n")) == "12  + 3 !\n\n"


def test_the_tokenizer_names_its_special_tokens(tiny):
    tokenizer = load_tokenizer(tiny)
    assert len(tokenizer) == 256 + 3
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.encode("<|im_end|>") == [tokenizer.eos_token_id]


def test_the_chat_template_opens_the_assistants_turn(chat):
    ids = chat.encode_prompt("What is 2 + 3?")
    expected = "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n"
    assert chat.tokenizer.decode(ids) == expected


def test_the_model_is_small_and_ties_its_embeddings(tiny):
    model = load_model(tiny)
    assert 100_000 < model.num_parameters() < 400_000
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.generation_config.eos_token_id == TOKENIZER.eos_token_id


def test_the_same_seed_gives_the_same_weights_and_keeps_torchs_random_state(tmp_path):
    state = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_tiny(tmp_path / name, seed)
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert weights["a"] == weights["b"] != weights["c"]
    assert torch.equal(torch.get_rng_state(), state)
