"""Runs untrusted Python blocks in processes of their own. Policy (`policy`) is kept apart from mechanism."""

from cir_env.sandbox.local import LocalSandbox, LocalSession, shared_sandbox, usable_cores
from cir_env.sandbox.policy import ExecutionResult, Limits, Sandbox, Session, Status

__all__ = [
    "ExecutionResult",
    "Limits",
    "LocalSandbox",
    "LocalSession",
    "Sandbox",
    "Session",
    "Status",
    "shared_sandbox",
    "usable_cores",
]
