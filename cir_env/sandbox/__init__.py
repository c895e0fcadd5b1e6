"""Runs untrusted Python blocks in processes of their own. Policy (`policy`) is kept apart from mechanism."""

from cir_env.sandbox.local import LocalSandbox, LocalSession, usable_cores
from cir_env.sandbox.policy import ExecutionResult, Limits, Sandbox, Session, Status
from cir_env.sandbox.remote import RemoteSandbox, RemoteSession, SandboxFusion
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
