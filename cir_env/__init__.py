"""A Gymnasium environment in which a language model solves mathematics by writing Python that really runs.

Importing this package registers ``CodeMath-v0`` and ``CodeMathTokens-v0`` (`cir_env.adapters.codemath_tokens`)::

    import gymnasium
    import cir_env

    env = gymnasium.make("CodeMath-v0")

``gymnasium.make("cir_env:CodeMath-v0")`` does both. `CodeMathEnv` documents the environment. ``__all__`` is the public
API; each name is imported on first use:

- environment: `CodeMathEnv`, `CodeMathVectorEnv`, `PROMPTS` and `Template` (prompts), `EpisodeRecord` (rewards),
  `NumericInfo` (a wrapper)
- problems: `Problem`, `ProblemSet`, `load_problems`, `load_sets`
- grading: `Grader`, `Verdict`, `GRADER_VERSION`
- sandbox: `LocalSandbox`, `RemoteSandbox`, `Limits`, `ExecutionResult`, `Status`; protocols `Sandbox`, `Session`
- errors: `CirEnvError` and its subclasses (`cir_env.errors`)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from cir_env.adapters.tokens import NumericInfo
    from cir_env.env import CodeMathEnv
    from cir_env.episode.prompts import PROMPTS, Template
    from cir_env.episode.rewards import EpisodeRecord
    from cir_env.errors import (
        ActionError,
        CirEnvError,
        EpisodeError,
        GraderUnavailable,
        OptionError,
        ProblemError,
        SandboxUnavailable,
    )
    from cir_env.grading.grader import GRADER_VERSION, Grader, Verdict
    from cir_env.problems import Problem, ProblemSet, load_problems, load_sets
    from cir_env.sandbox import ExecutionResult, Limits, LocalSandbox, RemoteSandbox, Sandbox, Session, Status
    from cir_env.vector import CodeMathVectorEnv

gymnasium.register(
    id="CodeMath-v0",
    entry_point="cir_env.env:CodeMathEnv",
    vector_entry_point="cir_env.vector:CodeMathVectorEnv",
)
gymnasium.register(id="CodeMathTokens-v0", entry_point="cir_env.adapters.codemath_tokens:CodeMathTokensEnv")

__all__ = [
    "GRADER_VERSION",
    "PROMPTS",
    "ActionError",
    "CirEnvError",
    "CodeMathEnv",
    "CodeMathVectorEnv",
    "EpisodeError",
    "EpisodeRecord",
    "ExecutionResult",
    "Grader",
    "GraderUnavailable",
    "Limits",
    "LocalSandbox",
    "NumericInfo",
    "OptionError",
    "Problem",
    "ProblemError",
    "ProblemSet",
    "RemoteSandbox",
    "Sandbox",
    "SandboxUnavailable",
    "Session",
    "Status",
    "Template",
    "Verdict",
    "load_problems",
    "load_sets",
]
_EXPORTS = {
    "cir_env.adapters.tokens": ("NumericInfo",),
    "cir_env.env": ("CodeMathEnv",),
    "cir_env.vector": ("CodeMathVectorEnv",),
    "cir_env.problems": ("Problem", "ProblemSet", "load_problems", "load_sets"),
    "cir_env.episode.prompts": ("PROMPTS", "Template"),
    "cir_env.episode.rewards": ("EpisodeRecord",),
    "cir_env.grading.grader": ("GRADER_VERSION", "Grader", "Verdict"),
    "cir_env.sandbox": ("ExecutionResult", "Limits", "LocalSandbox", "RemoteSandbox", "Sandbox", "Session", "Status"),
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF.get(name, "cir_env.errors")), name)
