"""A Gymnasium environment in which a language model solves mathematics by writing Python that really runs.

Importing this package registers ``CodeMath-v0``, and ``CodeMathTokens-v0`` (`cir_env.small`)::

    import gymnasium
    import cir_env

    env = gymnasium.make("CodeMath-v0")

The article on the environment is the docstring of `cir_env.env.CodeMathEnv`.
"""

from typing import Any

import gymnasium

gymnasium.register(
    id="CodeMath-v0",
    entry_point="cir_env.env:CodeMathEnv",
    vector_entry_point="cir_env.vector:CodeMathVectorEnv",
)
gymnasium.register(id="CodeMathTokens-v0", entry_point="cir_env.small:make_tokens_env")

# The library verifiers looks here for what belongs to the id "cir-env"; nobody else has to have it.
__all__ = ["CodeMath", "CodeMathHarness", "CodeMathTaskset"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cir_env.adapters import verifiers

    return getattr(verifiers, name)
