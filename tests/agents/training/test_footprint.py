"""The arithmetic of memory and bandwidth agrees with models, with the documentation, and with itself."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from agents_fakes import tiny_llama, tiny_mixtral, tiny_qwen2, tiny_qwen3_moe
from paths import ROOT
from transformers import PreTrainedModel

from agents import presets
from agents.config.cluster import ClusterConfig
from agents.training.footprint import KNOWN, Layout, ModelSizes, estimate, footprint, in_words

SEVEN, LARGE, SEVENTY = KNOWN.values()


@pytest.mark.parametrize("make", [tiny_qwen2, tiny_llama, tiny_qwen3_moe, tiny_mixtral])
def test_parameters_are_those_of_the_model_but_for_biases_and_norms(make: Callable[..., PreTrainedModel]) -> None:
    model = make(4000)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim > 1 and "gate.weight" not in name)
    assert ModelSizes.of(model.config.to_dict()).parameters == matrices


@pytest.mark.parametrize(
    ("page", "sizes", "counts", "engine"),
    [
        ("training", SEVEN, (4, 8, 16, 64), {}),
        ("how-to/cluster", SEVEN, (2, 4, 8, 16), {"engines": 6}),
        ("how-to/cluster", LARGE, (8, 16, 64), {"engines": 4, "tensor_parallel": 4}),
        ("how-to/cluster", SEVENTY, (16, 32, 64), {"engines": 4, "tensor_parallel": 8}),
    ],
)
def test_the_tables_of_the_documentation_are_computed(
    page: str, sizes: ModelSizes, counts: tuple[int, ...], engine: dict[str, int]
) -> None:
    layouts = [Layout(processes=count, **engine) for count in counts]
    assert in_words(sizes, layouts) in (ROOT / "docs" / f"{page}.md").read_text()


def test_twice_the_processes_hold_half_and_replicas_hold_it_twice() -> None:
    one = footprint(LARGE, Layout(processes=8))
    for layout in (Layout(processes=16), Layout(processes=32, replicas=2)):
        assert footprint(LARGE, layout).weights == one.weights / 2
        assert footprint(LARGE, layout).optimizer == one.optimizer / 2


def test_a_single_process_gathers_and_receives_nothing() -> None:
    alone = footprint(SEVEN, Layout(processes=1))
    assert (alone.gathered, alone.update_traffic, alone.sync_traffic) == (0, 0, 0)
    assert alone.start == alone.weights


def test_engines_of_a_cluster_leave_the_trainers_gpus_and_get_the_weights_once_a_node() -> None:
    beside, apart = (footprint(SEVEN, Layout(processes=8, engines=engines)) for engines in (0, 6))
    assert beside.sampling - apart.sampling == beside.engine == apart.engine
    assert (apart.node_traffic, apart.store) == (apart.engine, 2 * apart.engine)
    split = footprint(SEVEN, Layout(processes=8, engines=6, tensor_parallel=4))
    assert (split.engine, split.node_traffic) == (apart.engine / 4, apart.node_traffic)


def test_a_dry_run_knows_the_cluster_that_it_was_asked_for() -> None:
    config = replace(presets["qwen2.5-math-7b"](), cluster=ClusterConfig(engines=6, engine_gpus=4, trainers=2))
    lines = estimate(config).splitlines()
    assert "beside 6 engines, each with 4 GPUs," in lines[0]
    assert lines[1].split("|")[2].split() == ["2", "GPUs"]
    on_cpus = estimate(replace(config, cluster=ClusterConfig(engines=2)))
    assert "beside 2 engines, each with a process on CPUs," in on_cpus
    assert " 30.5 |" in next(line for line in on_cpus.splitlines() if "received by a node" in line)  # float32


def test_a_dry_run_estimates_a_known_model_and_says_what_it_lacks_of_another() -> None:
    config = presets["qwen2.5-math-7b"]()
    assert "| a GPU in the update " in estimate(config)
    assert "7.6 billion parameters" in estimate(config)
    lean = replace(config, num_replicas=16)
    assert "| 16 GPUs | 64 GPUs |" in estimate(lean)
    assert "not on this machine" in estimate(replace(config, model="nobody/nothing"))
