"""``python -m cir_env`` prints the documentation of the environment; docs/environment.md is a copy of it."""

import inspect

from cir_env.env import CodeMathEnv


def article() -> str:
    """Return the class docstring of `CodeMathEnv` as a Markdown page."""
    return f"# CodeMath-v0\n\n{inspect.getdoc(CodeMathEnv)}\n"


if __name__ == "__main__":
    print(article(), end="")
