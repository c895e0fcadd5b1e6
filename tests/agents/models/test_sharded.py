"""Several processes load and save the model of one, and none of them holds it whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from agents_fakes import tiny_llama, tiny_qwen2
from paths import ROOT
from safetensors.torch import load_file, save_file
from sharded_start import FAMILIES, V, outcome, start

from agents.models.load import load_model
from agents.models.sharded import empty_model, tensors_in

SUPPORT = ROOT / "tests" / "support" / "training"

every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each family, and what two processes made of it."""
    folder = tmp_path_factory.mktemp("models")
    for name, make in FAMILIES.items():
        make(V).save_pretrained(folder / name)
    path = os.pathsep.join([str(ROOT), str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    command = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [*command, str(SUPPORT / "sharded_start.py"), str(folder)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "loads all of" not in done.stdout
    return folder


@pytest.mark.slow
@every_family
def test_shards_hold_the_weights_and_buffers_of_the_whole_model(name: str, torchrun: Path) -> None:
    for found, rank in zip(torch.load(torchrun / f"{name}.pt"), (0, 2), strict=True):
        expected = outcome(torchrun / name, rank=rank)
        assert torch.allclose(found.pop("logprobs"), expected.pop("logprobs"), atol=1e-6)
        assert found.keys() == expected.keys()
        assert [each for each in found if not torch.equal(found[each], expected[each])] == []


@pytest.mark.slow
def test_in_bfloat16_shards_hold_float32_weights(torchrun: Path) -> None:
    found, expected = torch.load(torchrun / "lean.pt"), outcome(torchrun / "qwen2")
    assert (found.pop("logprobs") - expected.pop("logprobs")).abs().max() < 0.1
    assert [each for each in found if not torch.equal(found[each], expected[each])] == []


@pytest.mark.slow
@every_family
def test_a_sharded_model_is_saved_in_the_files_of_a_whole_one(name: str, torchrun: Path) -> None:
    again = torchrun / f"{name} again"
    whole = load_file(torchrun / name / "model.safetensors")
    found = {each: load_file(file)[each] for each, (file, _) in tensors_in(again).items()}
    assert found.keys() == whole.keys()
    assert [each for each in found if not torch.equal(found[each], whole[each])] == []
    assert len({file for file, _ in tensors_in(again).values()}) > 2
    loaded, before = load_model(again), load_model(torchrun / name)
    assert all(map(torch.equal, loaded.parameters(), before.parameters()))
    assert loaded.config.architectures == before.config.architectures


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_files_of_half_precision_become_float32_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    tiny_llama(V).to(dtype).save_pretrained(tmp_path)
    model = empty_model(tmp_path)
    assert model is not None
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    policy = start(tmp_path)
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}


def test_files_under_other_names_are_left_to_the_whole_model(tmp_path: Path) -> None:
    tiny_llama(V).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    renamed = {f"old.{name}": tensor for name, tensor in tensors.items()}
    for others in (renamed, tensors | {"lm_head.weight": torch.zeros(V - 1, 32)}):
        save_file(others, file)
        assert empty_model(tmp_path) is None


def test_a_tied_weight_that_the_files_hold_is_left_to_the_whole_model(tmp_path: Path) -> None:
    tiny_qwen2(V).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"lm_head.weight": torch.zeros(V, 32)}, file, metadata={"format": "pt"})
    assert empty_model(tmp_path) is None
