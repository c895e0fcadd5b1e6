"""The configuration: which values are rejected, and the messages."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from agents import presets
from agents.config.schedules import parse_budgets
from agents.config.training import EnvConfig, HealthConfig, PPOConfig, RolloutConfig, TrainConfig, ValidationConfig
from agents.core.errors import ConfigError


@pytest.mark.parametrize(
    ("schedule", "budgets"),
    [
        ("2", {0: 2, 1: 2, 10**6: 2}),
        ("0", {0: 0, 7: 0}),
        ("0:4", {0: 4, 99: 4}),
        ("0:2,100:3,200:4", {0: 2, 99: 2, 100: 3, 199: 3, 200: 4, 299: 4}),
        ("0:3,5:0", {4: 3, 5: 0}),
        ("0:2, 10:3", {9: 2, 10: 3}),
    ],
)
def test_a_schedule_gives_the_budget_of_every_step(schedule: str, budgets: dict[int, int]) -> None:
    changes = parse_budgets(schedule)
    assert {step: [each for start, each in changes if start <= step][-1] for step in budgets} == budgets


@pytest.mark.parametrize(
    "schedule",
    ["", "two", "-1", "1.5", "2,3", "0:2,100", "0:", ":2", "0:2:3", "0:2,", "1:2", "0:-1", "0:2,5:-1"],
)
def test_a_malformed_schedule_is_rejected(schedule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EnvConfig(interaction_budget=schedule)
    assert (
        str(caught.value)
        == f"Expect `interaction_budget` like '2', '0:2,100:3,200:4' or 'competence', got {schedule!r}."
    )


@pytest.mark.parametrize("schedule", ["0:2,200:3,100:4", "0:2,0:3", "0:2,5:3,5:4", "10:3,0:2"])
def test_the_steps_of_a_schedule_must_rise(schedule: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^Expect `interaction_budget` like '2', '0:2,100:3,200:4' or 'competence', got '"
    ):
        parse_budgets(schedule)


Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("make", "name", "value", "expected"),
    [
        (RolloutConfig, "num_problems", 0, "of at least 1"),
        (RolloutConfig, "max_completion_length", 0, "of at least 1"),
        (RolloutConfig, "max_num_seqs", -3, "of at least 1"),
        (RolloutConfig, "num_generations", 1, "of at least 2"),
        (RolloutConfig, "temperature", 0.0, "above 0"),
        (RolloutConfig, "max_model_len", 128, "above max_completion_length (128)"),
        (PPOConfig, "num_epochs", 0, "of at least 1"),
        (PPOConfig, "num_minibatches", 0, "of at least 1"),
        (PPOConfig, "micro_batch_tokens", 0, "of at least 1"),
        (PPOConfig, "learning_rate", 0.0, "above 0"),
        (PPOConfig, "learning_rate", float("nan"), "above 0"),
        (PPOConfig, "max_grad_norm", -1.0, "above 0"),
        (PPOConfig, "epsilon", 1.0, "in [0, 1)"),
        (PPOConfig, "epsilon", -0.1, "in [0, 1)"),
        (PPOConfig, "adam_beta1", 1.0, "in [0, 1)"),
        (PPOConfig, "adam_beta2", 1.0, "in [0, 1)"),
        (PPOConfig, "epsilon_high", 0.1, "of at least epsilon"),
        (PPOConfig, "dual_clip", 1.0, "above 1"),
        (PPOConfig, "weight_decay", -0.1, "of at least 0"),
        (PPOConfig, "value_coefficient", -0.5, "of at least 0"),
        (PPOConfig, "critic", "separate", "shared beside the advantage reinforce_plus_plus_baseline, which has none"),
        (PPOConfig, "gamma", 0.0, "in (0, 1]"),
        (PPOConfig, "gamma", 2.0, "in (0, 1]"),
        (PPOConfig, "lam", -0.5, "in [0, 1]"),
        (PPOConfig, "lam", 1.5, "in [0, 1]"),
        (HealthConfig, "max_collapsed_steps", 10, "of at least 1 and below window (10)"),
        (TrainConfig, "max_steps", -1, "of at least 0"),
        (TrainConfig, "seed", -1, "of at least 0"),
        (TrainConfig, "save_every", 0, "of at least 1"),
        (TrainConfig, "save_total_limit", 0, "of at least 1"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_expected(
    make: Make, name: str, value: object, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**{name: value})
    assert str(caught.value) == f"Expect `{name}` {expected}, got {value!r}."


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("every", -1, "of at least 0"),
        ("interaction_budget", -1, "of at least 0"),
        ("num_problems", 0, "of at least 1"),
        ("top_p", 0.0, "in (0, 1]"),
        ("top_p", 1.1, "in (0, 1]"),
    ],
)
def test_a_value_of_the_validation_is_named_as_such(name: str, value: float, expected: str) -> None:
    values: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError) as caught:
        ValidationConfig(**values)
    assert str(caught.value) == f"Expect `validation.{name}` {expected}, got {value!r}."


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (RolloutConfig, {"num_generations": 2, "num_problems": 1, "max_num_seqs": 1}),
        (RolloutConfig, {"max_completion_length": 1, "max_model_len": 2}),
        (PPOConfig, {"epsilon": 0.0, "epsilon_high": 0.0, "gamma": 1.0, "lam": 0.0, "adam_beta1": 0.0}),
        (PPOConfig, {"dual_clip": None, "weight_decay": 0.0, "advantage": "gae", "critic": "separate"}),
        (ValidationConfig, {"every": 0, "num_problems": 1, "top_p": 1.0}),
        (TrainConfig, {"max_steps": 0, "save_every": 1, "save_total_limit": 1}),
    ],
)
def test_values_at_the_edge_are_accepted(make: Make, values: dict[str, Any]) -> None:
    config = make(**values)
    assert {name: getattr(config, name) for name in values} == values


def test_the_clip_range_is_the_papers() -> None:
    config = PPOConfig()
    assert (config.epsilon, config.epsilon_high, config.dual_clip) == (0.2, 0.28, 3.0)
    assert config.advantage == "reinforce_plus_plus_baseline"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"problems": ("a/test.jsonl", "b/test.jsonl")},
            "Expect `validation.problems` of different names, got ('test', 'test').",
        ),
        (
            {"problems": ("mixed", "products"), "num_problems": (1, 2, 3)},
            "Expect `validation.num_problems` as one number or as 2, one for each set, got (1, 2, 3).",
        ),
        ({"num_problems": (8, 0)}, "Expect `validation.num_problems` of at least 1, got (8, 0)."),
    ],
)
def test_sets_of_a_validation_have_names_and_numbers_of_their_own(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ValidationConfig(**values)
    assert str(caught.value) == message


def test_a_configuration_error_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)


@pytest.mark.parametrize("name", presets)
def test_a_preset_is_a_documented_whole_configuration(name: str) -> None:
    preset = presets[name]
    assert preset.__doc__
    config = preset()
    assert isinstance(config, TrainConfig)
    assert json.loads(json.dumps(dataclasses.asdict(config), default=str))["model"] == config.model
    assert preset() == config


def test_the_presets_are_these() -> None:
    assert {"quickstart", "tiny", "mixed", "qwen2.5-math-7b", "qwen3-8b"} <= set(presets)
    assert next(iter(presets)) == "quickstart"


def test_presets_write_to_separate_folders() -> None:
    assert len({preset().output_dir for preset in presets.values()}) == len(presets)


def test_a_configuration_can_not_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 1  # type: ignore[misc]


def test_the_environment_gives_only_new_text_and_the_chosen_split() -> None:
    arguments = EnvConfig(problems="sums", prompt="question").kwargs(split="test")
    assert arguments["observation"] == "feedback"
    assert (arguments["problems"], arguments["prompt"], arguments["split"]) == ("sums", "question", "test")


def test_all_of_a_steps_episodes_are_sampled_at_once_on_a_gpu_alone() -> None:
    rollout = RolloutConfig(num_problems=128, num_generations=16)
    rows = [rollout.sized(on_gpu=on_gpu, processes=n).num_rows for on_gpu, n in ((True, 8), (True, 1), (False, 1))]
    assert rows == [256, 512, 64]
    given = dataclasses.replace(rollout, max_num_seqs=5)
    assert given.sized(on_gpu=True, processes=8) == given
