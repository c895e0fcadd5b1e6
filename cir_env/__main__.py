"""``python -m cir_env`` prints the article on the environment, which is also docs/environment.md."""

import inspect

from cir_env.env import CodeMathEnv


def article() -> str:
    """Return the environment's class docstring as a page of markdown."""
    return f"# CodeMath-v0\n\n{inspect.getdoc(CodeMathEnv)}\n"


if __name__ == "__main__":
    print(article(), end="")
