r"""`CodeMath-v0` for GEM: ``pip install -e ".[gem]"``.

Importing this module registers ``codemath:v0``, which takes the arguments of `CodeMathEnv`::

    import gem
    import cir_env.adapters.gem

    env = gem.make("codemath:v0", problems="products")
    envs = gem.make_vec(["codemath:v0"] * 8, problems="products")

The observation is the feedback alone, since GEM's wrappers concatenate observations themselves.
"""

from copy import deepcopy
from typing import Any, Self

from cir_env.env import CodeMathEnv, StepResult

try:
    import gem
except ImportError:
    raise ImportError('This adapter needs the library gem-llm: pip install -e ".[gem]".') from None


class CodeMath(gem.Env):
    """The environment.

    Args:
        seed: Seeds the first `reset` that has no seed of its own.
        arguments: Those of `CodeMathEnv`.
    """

    def __init__(self, seed: int | None = None, **arguments: Any) -> None:
        self._seed, self._arguments = seed, arguments
        self._env = CodeMathEnv(**arguments, observation="feedback")

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode of a random problem."""
        seed, self._seed = self._seed if seed is None else seed, None
        return self._env.reset(seed=seed)

    def step(self, action: str) -> StepResult:
        """Run a block or grade the answer."""
        return self._env.step(action)

    def spawn(self, same_state: bool = False, **arguments: Any) -> Self:
        """Return a copy, in the same state or with other arguments."""
        return deepcopy(self) if same_state else type(self)(**self._arguments | arguments)


gem.register("codemath:v0", CodeMath)
