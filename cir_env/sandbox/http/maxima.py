"""What clients may ask of a server."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from cir_env.errors import OptionError
from cir_env.sandbox.contract import Limits

LIMIT_TYPES = {field.name: field.type for field in dataclasses.fields(Limits)}
LARGEST_LIMITS = Limits(
    time_limit_s=300.0,
    idle_limit_s=300.0,
    wall_limit_s=3600.0,
    memory_limit_mb=4096,
    output_limit_kb=16_384,
    file_limit_mb=64,
    process_limit=256,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Maxima:
    """What clients may ask of a server."""

    limits: Limits = LARGEST_LIMITS
    """The largest limits of a block."""
    sessions: int = 1024
    """Number of open sessions."""
    connections: int = 4096
    """Number of connections of clients, and so of blocks that wait or run."""
    strangers: int = 1024
    """Number of connections that have not sent the token yet."""


def read_maxima(given: Iterable[str], *, descriptors: int) -> Maxima:
    """Return the maxima, as far as a process with that many descriptors can hold them beside its blocks.

    >>> maxima = read_maxima(["memory_limit_mb=8192"], descriptors=1024)
    >>> maxima.limits.memory_limit_mb, maxima.sessions, maxima.connections
    (8192, 64, 256)

    Args:
        given: Maxima that are not the defaults, as "NAME=NUMBER".
        descriptors: The descriptor limit.

    Raises:
        OptionError: A name is unknown, or a number is out of range.
    """
    values: dict[str, Any] = {}
    default = Maxima()
    for each in given:
        name, _, number = each.partition("=")
        if name not in (*LIMIT_TYPES, "sessions"):
            raise OptionError(f"Expect `--max` of sessions, {', '.join(LIMIT_TYPES)}, got {each!r}.")
        try:
            values[name] = float(number) if LIMIT_TYPES.get(name) is float else int(number)
        except ValueError:
            raise OptionError(f"Expect `--max {name}=NUMBER`, got {each!r}.") from None
    return Maxima(
        sessions=values.pop("sessions", min(default.sessions, descriptors // 16)),
        connections=min(default.connections, descriptors // 4),
        strangers=min(default.strangers, descriptors // 8),
        limits=dataclasses.replace(default.limits, **values),
    )


def read_limits(given: dict[str, Any], largest: Limits) -> Limits:
    """Return the limits of a request.

    Raises:
        OptionError: A limit is unknown, no number, out of range, or beyond the largest.
    """
    for name, value in given.items():
        if name not in LIMIT_TYPES:
            raise OptionError(f"Expect limits out of {', '.join(LIMIT_TYPES)}, got {name!r}")
        if type(value) not in (int, float):
            raise OptionError(f"Expect `{name}` to be a number, got {value!r}")
        if value > getattr(largest, name):
            raise OptionError(f"Expect `{name}` of at most {getattr(largest, name)}, got {value!r}: see --max")
    return Limits(**given)
