"""The trainer's side of the local sandbox: starts zygotes and monitors children, but never runs a block."""
