"""The arithmetic of memory and bandwidth agrees with models, with the documentation, and with itself."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from agents_fakes import tiny_llama, tiny_mixtral, tiny_qwen2, tiny_qwen3_moe
from paths import ROOT
from transformers import PreTrainedModel

from agents import presets
from agents.training.footprint import KNOWN, Layout, ModelSizes, estimate, footprint, in_words

SEVEN, LARGE, SEVENTY = KNOWN.values()


@pytest.mark.parametrize("make", [tiny_qwen2, tiny_llama, tiny_qwen3_moe, tiny_mixtral])
def test_parameters_are_those_of_the_model_but_for_biases_and_norms(make: Callable[..., PreTrainedModel]) -> None:
    model = make(4000)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim > 1 and "gate.weight" not in name)
    assert ModelSizes.of(model.config.to_dict()).parameters == matrices


@pytest.mark.parametrize(
    ("sizes", "counts", "split"), [(SEVEN, (4, 8, 16, 64), 1), (LARGE, (8, 16, 64), 4), (SEVENTY, (16, 32, 64), 8)]
)
def test_the_tables_of_the_documentation_are_computed(sizes: ModelSizes, counts: tuple[int, ...], split: int) -> None:
    layouts = [Layout(processes=count, tensor_parallel=split) for count in counts]
    assert in_words(sizes, layouts) in (ROOT / "docs" / "training.md").read_text()


def test_twice_the_processes_hold_half_and_replicas_hold_it_twice() -> None:
    one = footprint(LARGE, Layout(processes=8))
    for layout in (Layout(processes=16), Layout(processes=32, replicas=2)):
        assert footprint(LARGE, layout).weights == one.weights / 2
        assert footprint(LARGE, layout).optimizer == one.optimizer / 2


def test_a_single_process_gathers_and_receives_nothing() -> None:
    alone = footprint(SEVEN, Layout(processes=1))
    assert (alone.gathered, alone.update_traffic, alone.sync_traffic) == (0, 0, 0)
    assert alone.start == alone.weights


def test_a_dry_run_estimates_a_known_model_and_says_what_it_lacks_of_another() -> None:
    config = presets["qwen2.5-math-7b"]()
    assert "| a GPU in the update " in estimate(config)
    assert "7.6 billion parameters" in estimate(config)
    lean = replace(config, num_replicas=16)
    assert "| 16 GPUs | 64 GPUs |" in estimate(lean)
    assert "not on this machine" in estimate(replace(config, model="nobody/nothing"))
