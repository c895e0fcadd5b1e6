"""Linear layers of an engine on a CPU compute what PyTorch's own compute."""

import pytest
import torch
from torch import nn

from agents.engines import packed_linear


@pytest.mark.parametrize("shape", [(1, 12), (5, 12), (3, 1, 12), (1, 64, 12)])
@pytest.mark.parametrize("bias", [False, True])
def test_the_product_is_that_of_the_plain_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer, rows = nn.Linear(12, 7, bias=bias), torch.randn(shape)
    expected = layer(rows)
    packed_linear.pack(layer)
    assert type(layer) is packed_linear.PackedLinear
    assert layer(rows).is_contiguous()
    torch.testing.assert_close(layer(rows), expected)


def test_a_layer_computes_with_the_weight_that_it_packed_last_and_keeps_none() -> None:
    model, other = nn.Sequential(nn.Linear(12, 7)), nn.Linear(12, 7)
    packed = packed_linear.pack(model)
    assert [*packed] == ["0.weight"]
    assert model[0].weight.is_meta
    packed["0.weight"].pack(other.weight)
    rows = torch.randn(3, 12)
    torch.testing.assert_close(model(rows) - model[0].bias, other(rows) - other.bias)


def test_a_weight_that_is_an_embedding_too_stays() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(7, 12), "head": nn.Linear(12, 7)})
    model["head"].weight = model["embedding"].weight
    packed_linear.pack(model)
    assert model["head"].weight is model["embedding"].weight
    assert not model["embedding"].weight.is_meta


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_gets_the_same_bits_beside_any_number_of_others(dtype: torch.dtype) -> None:
    layer, rows = nn.Linear(96, 40, dtype=dtype), torch.randn(200, 96, dtype=dtype)
    packed_linear.pack(layer)
    if type(layer) is nn.Linear:
        pytest.skip("oneDNN has no bfloat16 on this CPU")
    every = layer(rows)
    assert all(torch.equal(layer(rows[:count]), every[:count]) for count in (2, 3, 8, 13, 64, 65))


def test_layers_of_another_class_stay() -> None:
    class Own(nn.Linear):
        pass

    model = nn.ModuleList([Own(2, 2), nn.Linear(2, 2, dtype=torch.float64), nn.Embedding(2, 2)])
    before = [type(layer) for layer in model]
    packed_linear.pack(model)
    assert [type(layer) for layer in model] == before
