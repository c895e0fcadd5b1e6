"""What a run needs, checked before anything takes time: libraries, engine, plugins, and problems with their prompts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from agents.cluster.connect import check_ray
from agents.config.training import TrainConfig
from agents.core.errors import ConfigError
from agents.engines import check_engine
from agents.learning.advantages import find_estimator
from agents.learning.losses import find_aggregation
from agents.learning.optimizer import check_optimizer
from agents.models.lora import MISSING
from agents.rollout.envs import open_split
from agents.tracking.trackers import check_installed
from agents.training.footprint import estimate
from agents.training.validation import open_held_out


def check_libraries(config: TrainConfig) -> None:
    """Check that the libraries and plugins that a run names can be imported.

    Raises:
        ConfigError: A library is missing, or a plugin cannot be imported.
        EngineError: There is no such engine, or its library is missing.
    """
    check_installed(config.report_to)
    if config.cluster.is_used:
        check_ray()
    check_engine(config.rollout.engine)
    find_estimator(config.ppo.advantage)
    find_aggregation(config.ppo.aggregation)
    check_optimizer(config.ppo)
    if config.lora.rank and find_spec("peft") is None:
        raise ConfigError(MISSING)


def check(config: TrainConfig, *, log: Callable[[str], Any]) -> None:
    """Check all that needs neither the model nor a GPU: as :func:`check_libraries`, and problems, prompts, graders.

    Args:
        config: The run.
        log: Takes a line about each problem set, warnings, and what the run asks of GPUs and network.

    Raises:
        ConfigError: Problems are trained on and validated on; the environment raises errors of its own.
    """
    check_libraries(config)
    small = replace(config, rollout=replace(config.rollout, max_num_seqs=1))
    with closing(open_split(config.env, 1, split="train")) as train_envs:
        for envs, _ in open_held_out(small, train_envs, log=log).values():
            envs.close()
    log(estimate(config))
