"""The task set ``cir-env-verifiers`` of the library verifiers, which finds a task set by the name of a module."""

from cir_env.adapters.verifiers import CodeMath, CodeMathHarness, CodeMathTaskset

__all__ = ["CodeMath", "CodeMathHarness", "CodeMathTaskset"]
