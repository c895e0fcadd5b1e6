"""Runs untrusted Python blocks, each in a process of its own.

`contract` says what a block may do and what comes back. `host` runs on the trainer's side and never executes a block,
`inside` is everything in the child's process, `http` offers the same contract over a network.
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
