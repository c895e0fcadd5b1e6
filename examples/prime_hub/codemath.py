"""`CodeMath-v0` as an environment of Prime's hub: a task set, its harness, and `load_environment`."""

from cir_env_verifiers import CodeMath, CodeMathHarness, CodeMathTaskset, load_environment

__all__ = ["CodeMath", "CodeMathHarness", "CodeMathTaskset", "load_environment"]
