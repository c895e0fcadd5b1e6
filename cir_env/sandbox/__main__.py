"""``python -m cir_env.sandbox`` lists the layers of this machine; with ``serve`` it runs blocks for other machines."""

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys

from cir_env.errors import OptionError, SandboxUnavailable
from cir_env.sandbox.host.zygotes import descriptor_limit
from cir_env.sandbox.http.client import TOKEN_VARIABLE
from cir_env.sandbox.inside.jail import raise_descriptor_limit
from cir_env.sandbox.local import LocalSandbox

MEANING = {
    "namespaces": "blocks cannot see files, processes and networks of the host",
    "user": "blocks run without capabilities, and not as root",
    "scratch": "each block has its own temporary folder of 16 MB",
    "landlock": "blocks can only open libraries and their scratch folder",
    "seccomp": "system calls are restricted to a short list: no fork, exec, sockets or signals to others",
    "group": "all blocks together use at most three quarters of the memory",
}


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m cir_env.sandbox", description=list_layers.__doc__)
    commands = parser.add_subparsers(dest="command")
    server = commands.add_parser("serve", help=serve.__doc__, description=serve.__doc__)
    server.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    server.add_argument("--port", type=int, default=8700, help="0 for any free port (default: %(default)s)")
    server.add_argument("--slots", type=int, help="number of concurrent blocks (default: usable cores)")
    server.add_argument("--packages", default="", help="packages that blocks may import, separated by commas")
    server.add_argument(
        "--max",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="the largest limit of a block that clients may ask for, such as memory_limit_mb=8192, or the number of "
        "open sessions, such as sessions=2000; may be repeated",
    )
    options = parser.parse_args()
    if options.command is None:
        return list_layers()
    packages = tuple(options.packages.replace(",", " ").split())
    return serve(options.host, options.port, options.slots, packages, options.max)


def list_layers() -> int:
    """Start a sandbox, run a block, and print one line per layer; the exit status is 0 if the sandbox can run code."""
    logging.getLogger("cir_env.sandbox").setLevel(logging.ERROR)
    with LocalSandbox(slots=1, preload=()) as sandbox:
        try:
            sandbox.run("print(1)")
            verdict = "Blocks can run: the self-test passed."
        except SandboxUnavailable as error:
            verdict = str(error)
        layers = sandbox.layers
    for name, meaning in MEANING.items():
        print(f"{name:<11} {layers.get(name, 'unknown'):<8} {meaning}")
    print(verdict)
    return 0 if verdict.startswith("Blocks can run") else 1


def serve(host: str, port: int, slots: int | None, packages: tuple[str, ...], largest: list[str]) -> int:
    """Run blocks for other machines over HTTP. The token is the variable CIR_SANDBOX_TOKEN, by default a new one."""
    try:
        from cir_env.sandbox.http import log, maxima, server
    except ImportError:
        print("The server needs aiohttp: pip install -e '.[remote]'", file=sys.stderr)
        return 2
    raise_descriptor_limit()
    try:
        allowed = maxima.read_maxima(largest, descriptors=descriptor_limit())
        sandbox = LocalSandbox(slots=slots, packages=packages)
    except OptionError as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 2
    handler = logging.StreamHandler()
    handler.addFilter(log.OncePerMinute())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    token = os.environ.get(TOKEN_VARIABLE) or _new_token()

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        await server.serve(sandbox, token, host, port, allowed)

    with sandbox:
        try:
            sandbox.run("")
            asyncio.run(run())
        except asyncio.CancelledError:
            return 0
        except server.SandboxFailed as error:
            print(f"The server ends: its sandbox has failed ({error}).", file=sys.stderr)
            return 1
        except (SandboxUnavailable, OSError) as error:
            print(f"Cannot serve: {error}", file=sys.stderr)
            return 2
    return 0


def _new_token() -> str:
    token = secrets.token_urlsafe(32)
    print(f"{TOKEN_VARIABLE}={token}", flush=True)
    return token


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
