"""Linear layers of an engine on a CPU compute what PyTorch's own compute."""

import pytest
import torch
from torch import nn

from agents.engines import few_rows


@pytest.mark.parametrize("shape", [(1, 12), (5, 12), (3, 1, 12), (1, 64, 12)])
@pytest.mark.parametrize("bias", [False, True])
def test_the_product_is_that_of_the_plain_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer, rows = nn.Linear(12, 7, bias=bias), torch.randn(shape)
    expected = layer(rows)
    few_rows.prepare(layer)
    assert type(layer) is few_rows.FewRowsLinear
    assert layer(rows).is_contiguous()
    torch.testing.assert_close(layer(rows), expected)


def test_layers_of_another_class_or_in_bfloat16_stay() -> None:
    class Own(nn.Linear):
        pass

    model = nn.ModuleList([Own(2, 2), nn.Linear(2, 2, dtype=torch.bfloat16), nn.Embedding(2, 2)])
    before = [type(layer) for layer in model]
    few_rows.prepare(model)
    assert [type(layer) for layer in model] == before
