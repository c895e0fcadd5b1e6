"""The trainer's side of the sandbox: starts zygotes, watches children, never runs a block."""
