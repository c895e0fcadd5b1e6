"""Plugins of users: ``module:function``, or the name of an entry point of an installed package."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any

from agents.core.errors import ConfigError, one_line


def is_plugin(name: str, group: str) -> bool:
    """Return whether a name is ``module:function``, or that of an entry point of the group ``agents.GROUP``.

    >>> is_plugin("my_module:estimate", "advantages"), is_plugin("grpo", "advantages")
    (True, False)
    >>> is_plugin("host:5005", "engines")
    False
    """
    module, _, function = name.rpartition(":")
    named = bool(module) and all(part.isidentifier() for part in (*module.split("."), *function.split(".")))
    return named or name in entry_points(group=f"agents.{group}").names


def check_name(flag: str, name: str, known: Iterable[str], group: str) -> None:
    """Reject a name that is neither built in nor a plugin's; nothing is imported.

    Raises:
        ConfigError: With the names that are known, and the nearest of them.

    >>> check_name("ppo.advantage", "gpro", ["gae", "grpo"], "advantages")
    Traceback (most recent call last):
    agents.core.errors.ConfigError: Expect `ppo.advantage` to be gae, grpo or module:function, got 'gpro'. \
Did you mean 'grpo'?
    """
    known = list(known)
    if name in known or is_plugin(name, group):
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"Expect `{flag}` to be {', '.join(known)} or module:function, got {name!r}.{hint}")


def load_plugin(flag: str, name: str, group: str) -> Any:
    """Import what a name stands for.

    Args:
        flag: The flag that names it, for the error message.
        name: ``module:function``, or the name of an entry point.
        group: Entry points of the group ``agents.GROUP`` are looked up.

    Raises:
        ConfigError: It cannot be imported, or it is not callable.
    """
    try:
        if ":" in name:
            module, _, function = name.partition(":")
            found: Any = importlib.import_module(module)
            for part in function.split("."):
                found = getattr(found, part)
        else:
            found = entry_points(group=f"agents.{group}")[name].load()
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise ConfigError(f"Expect `{flag}` to be importable, got {name!r}: {one_line(error)}.") from error
    if not callable(found):
        raise ConfigError(f"Expect `{flag}` to be a function, got {name!r}, which is a {type(found).__name__}.")
    return found
