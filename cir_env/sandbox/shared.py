"""Sandboxes by name, shared by all environments of a process."""

import os
import threading
from collections.abc import Sequence

from cir_env.errors import OptionError, parse_spec
from cir_env.sandbox.contract import Sandbox
from cir_env.sandbox.http.client import RemoteSandbox, SandboxFusion
from cir_env.sandbox.local import LocalSandbox

FUSION = "fusion+"

_shared: dict[tuple[str, tuple[str, ...]], Sandbox] = {}
_lock = threading.Lock()


def shared_sandbox(name: str = "local", packages: Sequence[str] = ()) -> Sandbox:
    """Return the sandbox with that name, which this process shares. It is created on first use and closed at exit.

    Args:
        name: One of

            - "local": all isolation layers that this machine allows;
            - "unsafe": only resource limits; blocks can access this user's files and the network;
            - "local?slots=32", "unsafe?slots=32": how many blocks run at once, by default one per core. More of them
              help where blocks sleep, and take memory: each may use that of its limit;
            - "http://a:8700,http://b:8700": sandbox servers, with the token in the environment variable
              CIR_SANDBOX_TOKEN;
            - "fusion+http://a:8080": SandboxFusion servers.
        packages: As for `LocalSandbox`; local sandboxes only.

    Raises:
        OptionError: The name is none of these, the number of slots is below 1, the token is missing, a package is not
            installed, or there are packages beside a server.
    """
    if isinstance(packages, str) or not all(isinstance(package, str) for package in packages):
        raise OptionError(f"Expect `packages` to be a sequence of names, got {packages!r}.")
    key = name, tuple(packages)
    with _lock:
        if key not in _shared:
            _shared[key] = _make(*key)
        return _shared[key]


def _make(name: str, packages: tuple[str, ...]) -> Sandbox:
    kind, options = parse_spec(name)
    if kind in ("local", "unsafe"):
        return LocalSandbox(slots=_slots(options), packages=packages, isolation="auto" if kind == "local" else "unsafe")
    if packages:
        raise OptionError(
            f"Expect no `packages` beside a sandbox server, which decides what blocks may import, got {packages!r} "
            f"for {name!r}."
        )
    if name.startswith(("http://", "https://")):
        return RemoteSandbox(*name.split(","))
    if name.startswith(FUSION):
        return SandboxFusion(*name.removeprefix(FUSION).split(","))
    raise OptionError(
        f"Expect `sandbox` to be 'local', 'unsafe', 'http://HOST:PORT' or 'fusion+http://HOST:PORT', got {name!r}."
    )


def _slots(options: tuple[tuple[str, str], ...]) -> int | None:
    match options:
        case ():
            return None
        case (("slots", number),) if number.isdecimal():
            return int(number)
    raise OptionError(f"Expect slots=NUMBER after the `?` of `sandbox`, got {'&'.join(map('='.join, options))!r}.")


def _after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _shared.clear()


os.register_at_fork(after_in_child=_after_fork)
