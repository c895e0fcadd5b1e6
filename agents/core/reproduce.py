"""Reproducibility: derived seeds and package versions."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import numpy as np


def seed_of(*parts: int, bits: int = 63) -> int:
    """Derive an independent seed from the run's seed and numbers that identify its purpose.

    Args:
        parts: Non-negative integers.
        bits: Bits of the seed, at most 64.

    >>> seed_of(0, 1, 2) == seed_of(0, 1, 2), seed_of(0, 1, 2) == seed_of(0, 2, 1)
    (True, False)
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> (64 - bits)


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
