"""``python -m cir_env.sandbox``: which layers are on here, which are missing, and what that means."""

import logging
import sys

from cir_env.errors import SandboxUnavailable
from cir_env.sandbox.local import LocalSandbox

MEANING = {
    "namespaces": "blocks see none of the host's files, processes and networks",
    "user": "blocks run without capabilities, and not as root",
    "scratch": "each block has a folder of its own to write to, 16 MB that vanish with it",
    "landlock": "the kernel opens no file to a block but libraries and its scratch folder",
    "seccomp": "system calls that are not on a short list fail: no fork, exec, socket, signal to others",
}


def main() -> int:
    """Start a sandbox, run a block, and print a line per layer; return 0 if code can be run."""
    logging.getLogger("cir_env.sandbox").setLevel(logging.ERROR)
    with LocalSandbox(slots=1, preload=()) as sandbox:
        try:
            sandbox.run("print(1)")
            verdict = "Blocks can be run: the canary block could do nothing that it may not."
        except SandboxUnavailable as error:
            verdict = str(error)
        layers = sandbox.layers
    for name, meaning in MEANING.items():
        print(f"{name:<11} {layers.get(name, 'unknown'):<8} {meaning}")
    print(verdict)
    return 0 if verdict.startswith("Blocks can") else 1


if __name__ == "__main__":
    sys.exit(main())
