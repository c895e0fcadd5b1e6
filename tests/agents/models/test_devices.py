import pytest
import torch

from agents.core.errors import ModelError
from agents.models.devices import pick_device, pick_dtype


def test_the_cpu_is_a_device_on_every_machine():
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_rejected():
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ModelError, match=r"^Expect a CUDA device for --device cuda, got none: use --device cpu\.$"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("cpu", "flag", "dtype"),
    [
        ("Intel Xeon", "amx_bf16", "bfloat16"),
        ("Intel Xeon", "avx512_bf16", "float32"),
        ("AMD EPYC", "avx512_bf16", "bfloat16"),
        ("AMD EPYC", "avx2", "float32"),
        ("Neoverse-V1", "bf16", "bfloat16"),
    ],
)
def test_the_dtype_is_bfloat16_where_the_cpu_gains_by_it(monkeypatch, cpu, flag, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": cpu, flag: True})
    assert pick_dtype("auto", torch.device("cpu")) == dtype


def test_slow_bfloat16_on_a_cpu_gives_a_warning(monkeypatch):
    lines = []
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert pick_dtype("bfloat16", torch.device("cpu"), log=lines.append) == "bfloat16"
    assert pick_dtype("float32", torch.device("cpu"), log=lines.append) == "float32"
    assert len(lines) == 1
    assert "float32 would take less time" in lines[0]


def test_an_unknown_device_is_rejected():
    with pytest.raises(ModelError, match=r"^Expect `device` to be cpu, cuda or auto, got 'gpu'\.$"):
        pick_device("gpu")
