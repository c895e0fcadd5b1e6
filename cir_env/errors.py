"""The exceptions of ``cir_env``.

::

    CirEnvError
    ├── ProblemError        (ValueError)    a problem set, a row of it, or an index into it
    ├── OptionError         (ValueError)    an argument or a reset option
    ├── ActionError         (TypeError)     an action that is not a string
    ├── EpisodeError        (RuntimeError)  a step without an episode in progress, or a closed environment
    ├── SandboxUnavailable  (RuntimeError)  the sandbox cannot run code: our fault, never the policy's
    └── GraderUnavailable   (RuntimeError)  the grader cannot judge: our fault, never the policy's

Each message says what was expected, what came and what to do. A model's output never raises.
"""


class CirEnvError(Exception):
    """Base class of every exception that ``cir_env`` raises on purpose."""


class ProblemError(CirEnvError, ValueError):
    """A problem set cannot be read, has a bad row, is empty, or has no such index."""


class OptionError(CirEnvError, ValueError):
    """An argument or a reset option is unknown or out of its range."""


class ActionError(CirEnvError, TypeError):
    """An action is not a string."""


class EpisodeError(CirEnvError, RuntimeError):
    """A step was asked for where no episode is in progress."""


class SandboxUnavailable(CirEnvError, RuntimeError):
    """The sandbox cannot run code at all."""


class GraderUnavailable(CirEnvError, RuntimeError):
    """The grader cannot judge an answer."""
