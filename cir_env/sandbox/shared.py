"""Sandboxes by name, shared by all environments of a process."""

import os
import threading

from cir_env.errors import OptionError
from cir_env.sandbox.contract import Sandbox
from cir_env.sandbox.http.client import RemoteSandbox, SandboxFusion
from cir_env.sandbox.local import LocalSandbox

FUSION = "fusion+"

_shared: dict[str, Sandbox] = {}
_lock = threading.Lock()


def shared_sandbox(name: str = "local") -> Sandbox:
    """Return the sandbox with that name, which this process shares. It is created on first use and closed at exit.

    Args:
        name: One of

            - "local": all isolation layers that this machine allows;
            - "unsafe": only resource limits; blocks can access this user's files and the network;
            - "http://a:8700,http://b:8700": sandbox servers, with the token in the environment variable
              CIR_SANDBOX_TOKEN;
            - "fusion+http://a:8080": SandboxFusion servers.

    Raises:
        OptionError: The name is none of these, or the token is missing.
    """
    with _lock:
        if name not in _shared:
            _shared[name] = _make(name)
        return _shared[name]


def _make(name: str) -> Sandbox:
    if name == "local":
        return LocalSandbox()
    if name == "unsafe":
        return LocalSandbox(isolation="unsafe")
    if name.startswith(("http://", "https://")):
        return RemoteSandbox(*name.split(","))
    if name.startswith(FUSION):
        return SandboxFusion(*name.removeprefix(FUSION).split(","))
    raise OptionError(
        f"Expect `sandbox` to be 'local', 'unsafe', 'http://HOST:PORT' or 'fusion+http://HOST:PORT', got {name!r}."
    )


def _after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _shared.clear()


os.register_at_fork(after_in_child=_after_fork)
