"""The counts of an update and a weight sync."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import counts
from benchmarks.counts import Config, counting

CPU = torch.device("cpu")


def counted_in(call: object) -> Counter[str]:
    with counting(torch.nn.Identity(), CPU) as found:
        call()  # type: ignore[operator]
    return found


def test_what_python_reads_and_selects_by_a_mask_is_counted() -> None:
    row = torch.arange(3.0)
    found = counted_in(lambda: (row.sum().item(), row.tolist(), bool(row[0] > 1), row[row > 0], row + row))
    assert (found["reads"], found["masked"]) == (3, 1)
    assert counted_in(lambda: row + row) == Counter(operators=1, reads=0, masked=0)


def test_what_runs_in_a_backward_pass_is_counted() -> None:
    weight = torch.ones(2, requires_grad=True)
    loss = weight.exp().sum()
    assert counted_in(loss.backward)["operators"] > 1


@pytest.mark.slow
def test_an_update_and_a_sync_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = counts.main(Config(device="cpu", groups=2, output=tmp_path / "counts.json"))
    assert json.loads((tmp_path / "counts.json").read_text()) == found
    assert found["update"]["passes"] > found["PPO.update"]["passes"] > 1
    assert found["update"]["operators"] > found["PPO.update"]["operators"] > 1000
    assert found["sync"]["gathers"] == 0
    assert "| PPO.update, a pass " in capsys.readouterr().out
