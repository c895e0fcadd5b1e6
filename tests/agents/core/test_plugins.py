"""Estimators, aggregations, trackers and engines that a user provides."""

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import rows, trainer

from agents.config.training import ADVANTAGES, AGGREGATIONS, PPOConfig, TrainConfig
from agents.core.errors import ConfigError, EngineError
from agents.core.plugins import load_plugin
from agents.engines import ENGINES, open_engine
from agents.learning.advantages import ESTIMATORS
from agents.learning.losses import AGGREGATIONS as WEIGHTS

CODE = """
import torch
from agents.core.types import Advantages
from agents.engines.transformers_engine import TransformersEngine

logged = []

def signed(rewards, group_ids, action_mask):
    tokens = rewards.sign()[:, None] * action_mask
    return Advantages(advantages=tokens, returns=tokens)

def first_token(action_mask, max_completion_length):
    return action_mask.float() * (action_mask.cumsum(1) == 1) / len(action_mask)

class Tracker:
    def __init__(self, folder, config, *, run_id):
        self.folder = folder
    def log(self, data, step):
        logged.append((step, sorted(data)))
    def finish(self):
        logged.append("finished")

class Engine(TransformersEngine):
    pass

def engine(path, chat, **settings):
    return Engine.from_pretrained(path, chat, **settings)
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "brought_along.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import brought_along  # type: ignore[import-not-found]

    brought_along.logged.clear()
    return brought_along


def test_a_run_trains_with_an_estimator_an_aggregation_a_tracker_and_an_engine_of_the_users_own(
    plugins: Any, tmp_path: Path
) -> None:
    own = {"advantage": "brought_along:signed", "aggregation": "brought_along:first_token"}
    named = {"ppo": own, "report_to": ("brought_along:Tracker",), "rollout": {"engine": "brought_along:engine"}}
    with trainer(tmp_path / "run", max_steps=1, **named) as made:
        assert isinstance(made.source.engine, plugins.Engine)
        made.train()
    assert [each if isinstance(each, str) else each[0] for each in plugins.logged] == [0, 1, 1, "finished"]
    assert "grad_norm" in rows(tmp_path / "run")[0]


def test_the_names_in_the_configuration_are_those_that_there_are() -> None:
    assert {*ESTIMATORS, "gae"} == set(ADVANTAGES)
    assert WEIGHTS.keys() == set(AGGREGATIONS)
    for name, path in ENGINES.items():
        assert callable(load_plugin("engine", path, "engines")), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PPOConfig(advantage="gpro"), r"Expect `ppo.advantage` to be .* got 'gpro'. Did you mean 'grpo'\?"),
        (lambda: PPOConfig(aggregation="tokens"), r"Did you mean 'token'\?"),
        (lambda: TrainConfig(report_to=("tensorbord",)), r"Did you mean 'tensorboard'\?"),
        (lambda: load_plugin("ppo.advantage", "no_such_module:f", "advantages"), "No module named 'no_such_module'"),
        (lambda: load_plugin("ppo.advantage", "torch:__version__", "advantages"), "Expect `ppo.advantage` to be a fun"),
    ],
)
def test_an_unknown_name_is_rejected_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_only_vllm_splits_a_model_among_gpus() -> None:
    sizes = {"dtype": "float32", "device": torch.device("cpu"), "max_num_seqs": 1, "max_model_len": 2}
    for name, called in (("auto", "transformers"), ("localhost:5005", "localhost:5005")):
        with pytest.raises(
            EngineError, match=rf"^Expect a `tensor_parallel_size` of 1 for the engine {called}, got 2: "
        ):
            open_engine(name, Path(), None, tensor_parallel_size=2, **sizes)  # type: ignore[arg-type]


def test_an_unknown_engine_is_rejected() -> None:
    with pytest.raises(EngineError, match=r"Expect an engine to be auto, transformers, vllm or module"):
        open_engine(
            "sglang",
            Path(),
            None,
            dtype="float32",
            device=torch.device("cpu"),
            max_num_seqs=1,
            max_model_len=2,  # type: ignore[arg-type]
        )
