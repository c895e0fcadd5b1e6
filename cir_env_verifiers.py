"""The task set ``cir-env-verifiers`` for the library verifiers, which looks up task sets by module name."""

from cir_env.adapters.verifiers import CodeMath, CodeMathHarness, CodeMathTaskset, load_environment

__all__ = ["CodeMath", "CodeMathHarness", "CodeMathTaskset", "load_environment"]
