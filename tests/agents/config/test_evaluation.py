"""The configuration of an evaluation, and the protocols."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from agents.config.cluster import ClusterArguments
from agents.config.evaluation import PAPER_SETS, EvalConfig, EvalEnvConfig, paper, protocols, quick
from agents.config.training import EnvConfig, RolloutConfig, TrainConfig
from agents.core.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": "many"}, "Expect `num_samples` like '16' or '16,MATH500:1', got 'many'."),
        ({"num_samples": "MATH500:1"}, "Expect `num_samples` like '16' or '16,MATH500:1', got 'MATH500:1'."),
        ({"num_samples": "0"}, "Expect `num_samples` like '16' or '16,MATH500:1', got '0'."),
        ({"num_samples": "4,a:1,a:2"}, "Expect `num_samples` like '16' or '16,MATH500:1', got '4,a:1,a:2'."),
        ({"temperature": "0"}, "Expect `num_samples` 1 with temperature 0 (all would be the same), got 16.0."),
        ({"temperature": "1,a:0"}, "Expect `num_samples` 1 with temperature 0 (all would be the same), got 16.0."),
        ({"temperature": "-1"}, "Expect `temperature` like '1.0' or '1.0,MATH500:0', got '-1'."),
        ({"top_p": 0.0}, "Expect `top_p` in (0, 1], got 0.0."),
        ({"top_k": -1}, "Expect `top_k` of at least 0, got -1."),
        ({"min_p": 1.5}, "Expect `min_p` in [0, 1], got 1.5."),
        ({"tensor_parallel_size": 0}, "Expect `tensor_parallel_size` of at least 1, got 0."),
        (
            {"tensor_parallel_size": 2, "engine": "transformers"},
            "Expect `tensor_parallel_size` of 1 with the engine transformers, which does not split a model, got 2.",
        ),
        ({"num_problems": 0}, "Expect `num_problems` of at least 1, got 0."),
        ({"max_completion_length": 0}, "Expect `max_completion_length` of at least 1, got 0."),
        ({"max_num_seqs": 0}, "Expect `max_num_seqs` of at least 1, got 0."),
        ({"seed": -1}, "Expect `seed` of at least 0, got -1."),
        ({"max_model_len": 1024}, "Expect `max_model_len` above max_completion_length (1024), got 1024."),
        ({"arms": ("cot",)}, "Expect `arms` like code, text, neutral or code:8, got 'cot'."),
        ({"arms": ("text:2",)}, "Expect `arms` like code, text, neutral or code:8, got 'text:2'."),
        ({"arms": ("code:two",)}, "Expect `arms` like code, text, neutral or code:8, got 'code:two'."),
        ({"arms": ()}, "Expect `arms` to name at least one, got ()."),
        ({"model": ()}, "Expect `model` to name at least one, got ()."),
        (
            {"cluster": ClusterArguments(engines=2), "model": ("tiny", "openai:m")},
            "Expect `cluster.engines` 0 with openai:NAME, got 2.",
        ),
        (
            {"cluster": ClusterArguments(env_actors=2)},
            "Expect `cluster.env_actors` 0 without cluster.engines, got 2.",
        ),
        (
            {"cluster": ClusterArguments(engines=2), "tensor_parallel_size": 2},
            "Expect `tensor_parallel_size` 1 on a cluster, where cluster.engine_gpus splits a model, got 2.",
        ),
        ({"vllm_gpu_memory_utilization": 1.5}, "Expect `vllm_gpu_memory_utilization` in (0, 1], got 1.5."),
    ],
)
def test_a_value_out_of_its_range_is_named(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        EvalConfig(**{"model": ("tiny",), **changes})
    assert str(raised.value) == message


@pytest.mark.parametrize("make", [TrainConfig, partial(EvalConfig, model=("tiny",))])
def test_variables_of_the_chat_template_are_a_json_object(make: Callable[..., TrainConfig | EvalConfig]) -> None:
    assert make(chat_template_kwargs='{ "thinking":true }').chat_template_kwargs == '{"thinking": true}'
    for text in ("thinking", '["thinking"]'):
        with pytest.raises(ConfigError, match=r"^Expect `chat_template_kwargs` to be a JSON object such as "):
            make(chat_template_kwargs=text)
    with pytest.raises(ConfigError, match=r"^Expect `chat_template_kwargs` unset beside `--template raw`, "):
        make(template="raw", chat_template_kwargs='{"thinking": true}')


def test_a_set_whose_name_has_a_colon_can_have_numbers_of_its_own() -> None:
    config = EvalConfig(model=("tiny",), num_samples="8, reasoning_gym:gcd:1", temperature="0.5,reasoning_gym:gcd:0")
    assert config.samples_of(["reasoning_gym:gcd", "x"]) == {"reasoning_gym:gcd": 1, "x": 8}
    assert config.temperatures_of(["reasoning_gym:gcd", "x"]) == {"reasoning_gym:gcd": 0.0, "x": 0.5}


def test_the_papers_protocol_is_the_papers() -> None:
    config = paper(("M",))
    sets = list(PAPER_SETS)
    assert list(config.names) == sets == ["AIME24", "AIME25", "AMC23", "MATH500", "OlymMATH-EN-EASY"]
    assert list(config.samples_of(sets).values()) == [16, 16, 16, 1, 16]
    assert list(config.temperatures_of(sets).values()) == [1, 1, 1, 0, 1]
    assert (config.top_p, config.env.interaction_budget, config.max_completion_length) == (0.95, 5, 16_384)
    assert config.num_problems is None


def test_the_papers_protocol_can_be_had_for_some_of_its_benchmarks() -> None:
    assert paper(("M",)).samples_of(["AIME24"]) == {"AIME24": 16}


def test_the_first_protocol_is_the_quick_one() -> None:
    assert next(iter(protocols.values())) is quick
    assert quick(("M",)).samples_of(["x"]) == {"x": 4}


def test_the_first_protocol_and_training_ask_the_environment_for_the_same_arguments() -> None:
    training, evaluation = EnvConfig().kwargs(split="test"), quick(("M",)).env_kwargs("code")
    assert {name: evaluation[name] for name in training if name != "decontaminate"} == {
        name: value for name, value in training.items() if name != "decontaminate"
    }
    assert evaluation.keys() - training.keys() == {"interaction_budget", "max_transcript_chars"}


def test_each_program_has_its_own_defaults_for_the_engine() -> None:
    names = ("engine", "dtype", "max_num_seqs", "max_model_len", "vllm_gpu_memory_utilization")
    assert [getattr(EvalConfig(model=("M",)), name) for name in names] == ["auto", "auto", 32, 2048, 0.9]
    assert [getattr(RolloutConfig(), name) for name in names] == ["auto", "auto", None, 512, None]


@pytest.mark.parametrize("make", [EnvConfig, EvalEnvConfig])
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("time_limit_s", 0.0, "above 0 and finite"),
        ("memory_limit_mb", 0, "of at least 1"),
        ("max_output_chars", 0, "of at least 1"),
        ("reward", "mine", "like 'module:function'"),
        ("packages", ("net-work",), "as blocks import them"),
    ],
)
def test_a_value_of_the_environment_is_named_as_such(make: Any, name: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make(**{name: value})
    assert str(raised.value) == f"Expect `env.{name}` {expected}, got {value!r}."


def test_the_budget_of_an_evaluation_is_a_number() -> None:
    with pytest.raises(ConfigError, match=r"^Expect `env.interaction_budget` of at least 0, got -1.$"):
        EvalEnvConfig(interaction_budget=-1)
