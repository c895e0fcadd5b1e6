"""Tiny models, written as GGUF files and converted back."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_files import ARCHITECTURES, TOKENS, Content, tiny_content
from transformers import AutoModelForCausalLM, PreTrainedModel

from agents.core.errors import ModelError
from agents.models.find import resolve_model
from agents.models.gguf import convert as module
from agents.models.gguf.header import MAGIC
from agents.models.load import load_generation_config, load_model, load_tokenizer

Q8 = gguf.GGMLQuantizationType.Q8_0
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def quiet(line: str) -> None:
    """Discards log lines."""


@pytest.fixture
def convert(tmp_path: Path) -> Callable[[Content], Path]:
    return lambda content: resolve_model(
        str(content.write(tmp_path / "model.gguf")), cache_dir=tmp_path / "cache", log=quiet
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete file, which no test changes."""
    return tiny_content()[1].write(tmp_path_factory.mktemp("gguf") / "model.gguf")


def expect_same(found: PreTrainedModel, original: PreTrainedModel) -> None:
    """Compare weights, and logits of longer rows than one, with the original's in bfloat16."""
    weights = {name: tensor.bfloat16().float() for name, tensor in original.state_dict().items()}
    torch.testing.assert_close(found.state_dict(), weights, rtol=0, atol=0)
    rounded = AutoModelForCausalLM.from_config(original.config).eval()
    rounded.load_state_dict(weights)
    ids = torch.arange(2 * 60).view(2, 60)
    torch.testing.assert_close(found(ids).logits, rounded(ids).logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_converted_model_is_the_original_in_bfloat16(architecture, convert):
    original, content = tiny_content(architecture)
    content.metadata["tokenizer.ggml.pre"] = "qwen2" if "qwen" in architecture else "smollm"
    folder = convert(content)
    expect_same(load_model(folder), original)
    assert load_model(folder, "bfloat16").config.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("positions", "metadata"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0}),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
            {"type": "yarn", "factor": 4.0, "original_context_length": 16},
        ),
    ],
)
def test_stretched_positions_are_converted(positions, metadata, convert):
    original, content = tiny_content(rope_parameters={**positions, "rope_theta": 1000.0})
    content.metadata |= {f"llama.rope.scaling.{name}": value for name, value in metadata.items()}
    expect_same(load_model(convert(content)), original)


def llama3_content() -> tuple[PreTrainedModel, Content]:
    """A model with the positions of Llama 3.1, and its file, in which they are factors of frequencies."""
    original, content = tiny_content(rope_parameters=LLAMA3)
    found = original.model.rotary_emb.inv_freq
    plain = 10_000.0 ** -(torch.arange(len(found)) / len(found))
    content.tensors["rope_freqs.weight"] = (plain / found).numpy()
    return original, content


def test_positions_of_llama_3_1_are_recovered_from_their_factors(convert):
    original, content = llama3_content()
    assert len(set(content.tensors["rope_freqs.weight"].tolist())) > 2
    expect_same(load_model(convert(content)), original)


def test_other_factors_than_those_of_llama_3_1_are_rejected(convert):
    content = llama3_content()[1]
    content.tensors["rope_freqs.weight"][0] = 3
    with pytest.raises(ModelError, match=r"^Expect positions as in Llama 3\.1 with `rope_freqs\.weight`, got other"):
        convert(content)


def test_quantized_weights_are_within_the_precision_of_their_blocks(tmp_path):
    original, content = tiny_content()
    path = content.write(tmp_path / "model.gguf", Q8)
    found = load_model(resolve_model(str(path), cache_dir=tmp_path, log=quiet))
    for name, weight in original.state_dict().items():
        scale = weight.abs().max() / 127
        assert (found.state_dict()[name] - weight).abs().max() <= 1.1 * scale, name


def test_tokenizer_template_and_ends_come_from_the_file(convert):
    content = tiny_content()[1]
    content.metadata |= {"tokenizer.ggml.eot_token_id": len(TOKENS) - 1, "tokenizer.ggml.add_bos_token": True}
    folder = convert(content)
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|begin|>", "<|end|>", "<|end|>")
    assert tokenizer("a<|turn|>")["input_ids"] == [len(TOKENS) - 3, TOKENS.index("a"), len(TOKENS) - 1]
    assert tokenizer.chat_template == "{{ messages[0]['content'] }}"
    assert tokenizer.model_max_length == 64
    ends = load_generation_config(folder)
    assert ends is not None
    assert ends.eos_token_id == [len(TOKENS) - 2, len(TOKENS) - 1]


def test_a_file_is_converted_once_whatever_its_name(file, tmp_path, monkeypatch):
    lines: list[str] = []
    first = resolve_model(str(file), cache_dir=tmp_path, log=lines.append)
    other = str(shutil.copy(file, tmp_path / "other.bin"))
    monkeypatch.setattr(module, "convert", lambda *_: pytest.fail("converted again"))
    assert resolve_model(other, cache_dir=tmp_path, log=lines.append) == first
    assert lines == [
        f"model: converting {file} to safetensors, only once (a minute for each billion parameters) ...",
        f"model: {file}, converted into {first}",
        f"model: {other}, already converted into {first}",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"other.bin", first.name}


def test_parts_are_joined_in_the_order_of_their_numbers(file, tmp_path):
    content = file.read_bytes()
    size = len(content) // 11 + 1
    for number in range(11):
        (tmp_path / f"model.part{number + 1}of11").write_bytes(content[number * size : (number + 1) * size])
    joined = resolve_model(str(tmp_path / "model.part*"), cache_dir=tmp_path / "cache", log=quiet)
    assert joined == resolve_model(str(file), cache_dir=tmp_path / "cache", log=quiet)


def test_of_two_processes_at_once_both_get_the_first_one_s_folder(file, tmp_path, monkeypatch):
    real = module.convert
    others: list[Path] = []

    def slow(source: Path, folder: Path) -> None:
        monkeypatch.setattr(module, "convert", real)
        others.append(resolve_model(str(file), cache_dir=tmp_path, log=quiet))
        real(source, folder)

    monkeypatch.setattr(module, "convert", slow)
    assert resolve_model(str(file), cache_dir=tmp_path, log=quiet) == others[0]
    assert list(tmp_path.iterdir()) == others


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.999])
def test_a_file_that_is_cut_off_is_rejected_and_nothing_is_left(share, file, tmp_path):
    cut = tmp_path / "model.gguf"
    cut.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(ModelError) as caught:
        resolve_model(str(cut), cache_dir=tmp_path / "cache", log=quiet)
    assert str(caught.value).startswith(f"Expect a complete GGUF file, got {cut}: ")
    assert str(caught.value).endswith(
        "If it is one of several parts, pass them all, as a pattern: --model 'FOLDER/NAME*'."
    )
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expect a file that begins with GGUF, got {}."),
        (b"PK\3\4 a zip file", "Expect a file that begins with GGUF, got {}."),
        (b"GGUF" + bytes([3, 0, 0, 0]) + bytes(16), "Expect GGUF of the architectures llama, "),
    ],
)
def test_another_file_is_rejected(content, message, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        resolve_model(str(path), cache_dir=tmp_path / "cache", log=quiet)
    assert str(caught.value).startswith(message.format(path))


def test_damaged_metadata_are_rejected_in_one_line(file, tmp_path):
    content = bytearray(file.read_bytes())
    path = tmp_path / "damaged.gguf"
    rng = random.Random(0)
    accepted = 0
    for _ in range(100):
        damaged = content.copy()
        for position in rng.sample(range(len(MAGIC), 6_000), 3):
            damaged[position] = rng.randrange(256)
        path.write_bytes(damaged)
        with suppress(ModelError):  # nothing else
            module.describe(path)
            accepted += 1
    assert accepted < 50


@pytest.mark.parametrize("name", ["nowhere/x.gguf", "nowhere/part*.bin"])
def test_a_missing_file_is_not_looked_up_on_the_hub(name):
    with pytest.raises(ModelError) as caught:
        resolve_model(name, log=quiet)
    assert str(caught.value) == (
        f"Expect `model` to be a GGUF file, or a pattern for its parts, got {name!r}: no such file."
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama.block_count": 3}, "Expect `llama.block_count` 2 as of the tensors, got 3."),
        ({"llama.embedding_length": 32}, "Expect `llama.embedding_length` 64 as of token_embd.weight, got 32."),
        ({"llama.vocab_size": 300}, "Expect `llama.vocab_size` 259 as of token_embd.weight, got 300."),
        ({"llama.rope.dimension_count": 8}, "Expect `llama.rope.dimension_count` 16 as of an attention head, got 8."),
        (
            {"tokenizer.ggml.tokens": list(TOKENS[:-1])},
            "Expect `tokenizer.ggml.tokens` to have a token for each of 259 rows, got 258.",
        ),
        ({"tokenizer.ggml.bos_token_id": 259}, "Expect `tokenizer.ggml.bos_token_id` below 259, got 259."),
        (
            {"llama.attention.head_count_kv": [2, 4]},
            "Expect `llama.attention.head_count_kv` to be the same in all layers, got [2, 4].",
        ),
        ({"llama.logit_scale": 0.5}, "Expect metadata that transformers can represent, got `llama.logit_scale` 0.5."),
        ({"llama.expert_count": 8}, "Expect metadata that transformers can represent, got `llama.expert_count` 8."),
        (
            {"llama.rope.scaling.type": "longrope"},
            "Expect `rope.scaling.type` to be none, linear or yarn, got 'longrope'.",
        ),
        (
            {"tokenizer.ggml.merges": ["a bc"]},
            "Expect a GGUF file with valid metadata, got {}: "
            "Error while initializing BPE: Token `bc` out of vocabulary.",
        ),
        ({"general.architecture": "falcon"}, "falcon"),
    ],
)
def test_metadata_that_contradict_the_tensors_or_are_not_supported_are_rejected(changes, message, convert, tmp_path):
    content = tiny_content()[1]
    if "general.architecture" in changes:
        content.architecture = "falcon"
        message = "Expect GGUF of the architectures llama, qwen2, qwen2moe, qwen3, qwen3moe, got 'falcon'."
        changes = {}
    content.metadata |= changes
    with pytest.raises(ModelError) as caught:
        convert(content)
    assert str(caught.value) == message.format(tmp_path / "model.gguf")


@pytest.mark.parametrize("name", ["attention.layer_norm_rms_epsilon", "attention.head_count_kv"])
def test_metadata_that_a_model_needs_are_required(name, convert):
    content = tiny_content()[1]
    del content.metadata[f"llama.{name}"]
    with pytest.raises(ModelError) as caught:
        convert(content)
    assert str(caught.value) == f"Expect the metadata `llama.{name}`, found none."


def test_one_of_llama_cpp_s_own_splits_is_rejected_with_the_command_that_merges_them(convert):
    content = tiny_content()[1]
    content.metadata["split.count"] = 3
    with pytest.raises(
        ModelError, match=r"one of 3 that llama\.cpp split\. Merge them: `llama-gguf-split --merge .*gguf`"
    ):
        convert(content)


def _wider(tensors: dict[str, Any]) -> None:
    tensors["blk.0.ffn_up.weight"] = np.zeros((128, 64), np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("blk.1.ffn_up.weight"),
            r"^Expect all weights of a LlamaForCausalLM in .*, found no ",
        ),
        (
            lambda tensors: tensors.update({"blk.0.attn_q.bias": np.zeros(64, np.float32)}),
            r"^Expect a file with the \d+ weights of a LlamaForCausalLM, got \d+: it has tensors that transformers",
        ),
        (_wider, r"^Expect weights that transformers can load, got .*"),
    ],
)
def test_tensors_that_are_missing_additional_or_of_other_shapes_are_rejected(change, message, convert):
    content = tiny_content()[1]
    change(content.tensors)
    with pytest.raises(ModelError, match=message) as caught:
        convert(content)
    assert "\n" not in str(caught.value)


def test_a_qwen2_vocabulary_without_the_usual_special_tokens_gets_none(convert):
    content = tiny_content("qwen2")[1]
    content.metadata["tokenizer.ggml.pre"] = "deepseek-r1-qwen"
    assert len(load_tokenizer(convert(content))) == len(TOKENS)


def test_a_tokenizer_that_transformers_would_replace_is_rejected(convert):
    content = tiny_content("qwen2")[1]  # whose pre-tokenizer is GPT-2's
    with pytest.raises(ModelError, match=r"^Expect the file's normalizer None, but transformers gives the model .*NFC"):
        convert(content)


def test_a_package_that_is_not_installed_is_named(file, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(
        ModelError, match=r"^Expect gguf and accelerate, to read GGUF: run `pip install gguf accelerate`"
    ):
        resolve_model(str(file), log=quiet)
