"""Runs untrusted Python blocks, each in its own process.

`contract` defines the API: limits, results and protocols. `local` and `host` run in the trainer's process and never
execute a block; `inside` runs in the child process; `http` provides the same API over a network.
docs/concepts/sandbox.md describes the security layers.
"""

from cir_env.sandbox.contract import ExecutionResult, Limits, Sandbox, Session, Status
from cir_env.sandbox.http.client import RemoteSandbox, RemoteSession, SandboxFusion
from cir_env.sandbox.local import LocalSandbox, LocalSession, usable_cores
from cir_env.sandbox.shared import shared_sandbox

__all__ = [
    "ExecutionResult",
    "Limits",
    "LocalSandbox",
    "LocalSession",
    "RemoteSandbox",
    "RemoteSession",
    "Sandbox",
    "SandboxFusion",
    "Session",
    "Status",
    "shared_sandbox",
    "usable_cores",
]
