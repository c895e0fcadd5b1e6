"""Sandboxes by name, shared by all environments of a process."""

import os
import threading
from collections.abc import Sequence
from importlib.metadata import packages_distributions

from cir_env.errors import OptionError, did_you_mean
from cir_env.sandbox.contract import Sandbox
from cir_env.sandbox.host.launch import PRELOAD
from cir_env.sandbox.http.client import RemoteSandbox, SandboxFusion
from cir_env.sandbox.inside.namespaces import package_paths
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
            - "http://a:8700,http://b:8700": sandbox servers, with the token in the environment variable
              CIR_SANDBOX_TOKEN;
            - "fusion+http://a:8080": SandboxFusion servers.
        packages: Installed packages that blocks may import in addition to the preloaded ones; local sandboxes only.

    Raises:
        OptionError: The name is none of these, the token is missing, a package is not installed, or there are packages
            beside a server.
    """
    if isinstance(packages, str) or not all(isinstance(package, str) for package in packages):
        raise OptionError(f"Expect `packages` to be a sequence of names, got {packages!r}.")
    key = name, tuple(packages)
    with _lock:
        if key not in _shared:
            _shared[key] = _make(*key)
        return _shared[key]


def check_package(name: str) -> None:
    """Refuse what blocks cannot import since it is not installed.

    >>> check_package("PyYAML")
    Traceback (most recent call last):
    cir_env.errors.OptionError: Expect in `packages` the name of an installed package, as blocks import it, got \
'PyYAML'. Did you mean 'yaml'?
    """
    if not name.isidentifier() or not package_paths([name]):
        installed = packages_distributions()
        imported_as = {dist.lower(): package for package in sorted(installed) for dist in installed[package]}
        hint = did_you_mean(imported_as.get(name.lower(), name), installed)
        raise OptionError(
            f"Expect in `packages` the name of an installed package, as blocks import it, got {name!r}.{hint}"
        )


def _make(name: str, packages: tuple[str, ...]) -> Sandbox:
    if name in ("local", "unsafe"):
        for package in packages:
            check_package(package)
        return LocalSandbox(preload=(*PRELOAD, *packages), isolation="auto" if name == "local" else "unsafe")
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


def _after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _shared.clear()


os.register_at_fork(after_in_child=_after_fork)
