"""The connection to a Ray cluster."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec

from agents.core.errors import ConfigError

MISSING = "Expect Ray to be installed for a run with `--cluster` flags: pip install -e '.[ray]'."


def check_ray() -> None:
    """Check that Ray can be imported, without importing it.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("ray") is None:
        raise ConfigError(MISSING)


def connect() -> None:
    """Connect to the cluster of ``RAY_ADDRESS`` or of this machine; if there is none, start one that ends with us.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    check_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a task without GPUs leaves the variable alone
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(include_dashboard=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS", "this machine's address")
        raise ConfigError(f"Expect a Ray cluster at {address}, got none: start it with `ray start --head`.") from error
