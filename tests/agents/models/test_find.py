import subprocess
import sys

import pytest
from paths import ROOT

from agents.core.errors import ModelError
from agents.models import find
from agents.models.find import resolve_model
from agents.models.gguf.wheels import SMOLLM2


def quiet(line: str) -> None:
    """Discards log lines."""


def test_importing_the_module_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'safetensors'}"
    code = f"import sys, agents.models.find; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


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
def test_an_incomplete_folder_is_rejected_with_the_missing_part(folder, file, name):
    (folder / file).unlink()
    with pytest.raises(ModelError) as caught:
        resolve_model(str(folder), log=quiet)
    assert str(caught.value) == (
        "Expect a folder with config.json, a tokenizer and weights, as `save_pretrained` writes them: "
        f"{folder} has no {name}"
    )


@pytest.mark.parametrize("name", ["/nowhere/checkpoint-3", "./nowhere", "~/nowhere/at/all", "a/b/c", "", "  "])
def test_a_missing_path_is_not_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(find, "hub_problem", lambda name: pytest.fail("asked the hub"))
    with pytest.raises(ModelError) as caught:
        resolve_model(name, log=quiet)
    assert str(caught.value) == (
        f"Expect `model` to be a folder, a GGUF file, 'tiny' or a hub name, got {name!r}: no such folder"
    )


def test_tiny_is_created_once_in_the_cache(tmp_path):
    lines: list[str] = []
    first = resolve_model("tiny", cache_dir=tmp_path, log=lines.append)
    weights = (first / "model.safetensors").stat().st_mtime_ns
    assert resolve_model("tiny", cache_dir=tmp_path, log=lines.append) == first == tmp_path / "tiny-2"
    assert (first / "model.safetensors").stat().st_mtime_ns == weights
    assert lines == [
        f"model: creating the tiny transformer in {first} ...",
        f"model: the tiny transformer from {first}",
    ]


def test_the_cache_is_where_the_environment_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CIR_CACHE", str(tmp_path / "cache"))
    assert resolve_model("tiny", log=quiet) == tmp_path / "cache" / "tiny-2"


def test_an_unwritable_cache_gives_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ModelError, match=r"^Cannot create .*/file/tiny-2: .*Set CIR_CACHE to a folder with room for it$"
    ):
        resolve_model("tiny", cache_dir=tmp_path / "file", log=quiet)


@pytest.mark.usefixtures("no_hub")
def test_another_hub_name_without_a_hub_says_how_to_get_the_model():
    lines: list[str] = []
    with pytest.raises(ModelError) as caught:
        resolve_model("Qwen/Qwen2.5-Math-7B", log=lines.append)
    assert lines == ["model: looking for Qwen/Qwen2.5-Math-7B on the hub ..."]
    assert str(caught.value) == (
        "'Qwen/Qwen2.5-Math-7B' is neither a local folder nor in the hub's cache, and the hub did not provide it: "
        "no answer in 3 s. Run `hf download Qwen/Qwen2.5-Math-7B --local-dir FOLDER` on a machine with access to "
        f"the hub and pass that folder, or use {SMOLLM2} or 'tiny'"
    )
