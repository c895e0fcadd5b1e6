import json
from pathlib import Path

import pytest
import torch

from agents.core.errors import ModelError
from agents.models.load import load_model, load_tokenizer


def forget(folder: Path, token: str) -> None:
    """Remove a special token from a tokenizer's settings, and Qwen's default for it."""
    (folder / "config.json").write_text('{"model_type": "llama"}')
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config[token]
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_loaded_for_evaluation_in_the_dtype_asked_for(folder, dtype):
    model = load_model(folder, dtype)
    assert model.dtype == getattr(torch, dtype)
    assert not model.training
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_an_unknown_dtype_is_refused(folder):
    with pytest.raises(ModelError, match=r"^Expect `dtype` to be one of float32, bfloat16, float16, got 'int4'$"):
        load_model(folder, "int4")


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_loading_from_a_folder_that_does_not_exist_says_so(load, tmp_path):
    with pytest.raises(ModelError, match=r"^Expect a model's folder, got '.*/gone': no such folder$"):
        load(tmp_path / "gone")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", '{"model_type": "vit"}'),
        ("config.json", "{"),
        ("model.safetensors", "not safetensors"),
    ],
)
def test_anything_but_a_causal_language_model_gives_one_clear_line(folder, file, content):
    (folder / file).write_text(content)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert str(caught.value).startswith(f"Expect a causal language model in {folder}: ")
    assert "\n" not in str(caught.value)


def test_missing_tensors_are_rejected_instead_of_initialized(folder):
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] += 1
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"^Expect all weights of a Qwen2ForCausalLM in .* tensors are missing, first"):
        load_model(folder)


def test_a_missing_tokenizer_is_rejected_instead_of_created_empty(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert str(caught.value) == (
        f"Expect a tokenizer in {folder}, found none of tokenizer.json, tokenizer.model, vocab.json, vocab.txt"
    )


def test_a_broken_tokenizer_gives_one_clear_line(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert str(caught.value).startswith(f"Expect a tokenizer in {folder}, could not load one: ")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_an_end_of_sequence_token_is_refused(folder):
    forget(folder, "eos_token")
    with pytest.raises(ModelError, match=r"to name an `eos_token`, which ends an answer; it has none$"):
        load_tokenizer(folder)


def test_the_pad_token_defaults_to_the_end_of_sequence_token(folder):
    forget(folder, "pad_token")
    assert load_tokenizer(folder).pad_token == "<|im_end|>"


def test_a_tokenizer_without_a_chat_template_is_allowed(folder):
    (folder / "chat_template.jinja").unlink()
    assert load_tokenizer(folder).chat_template is None
