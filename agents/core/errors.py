"""The exceptions of ``agents``.

::

    AgentsError
    ├── ConfigError     (ValueError)    a setting is out of its range
    ├── ModelError      (ValueError)    a model or its tokenizer cannot be found, loaded or trained
    ├── RunError        (ValueError)    the record of a run cannot be read, continued or compared
    ├── EngineError     (ValueError)    an engine cannot serve a request
    ├── EngineFault     (RuntimeError)  an engine is gone, or samples from other weights
    ├── CheckpointError (OSError)       a checkpoint cannot be written or read
    ├── ServiceError    (OSError)       a tracker or the hub does not accept what it is given
    ├── UnhealthyError  (RuntimeError)  too many optimizer steps were skipped, or steps collapsed
    └── TrainingError   (RuntimeError)  training cannot continue

The user can fix a ``ValueError``. Each message says what was expected, what came and what to do.
"""


class AgentsError(Exception):
    """Base class of every exception that ``agents`` raises on purpose."""


class ConfigError(AgentsError, ValueError):
    """A value is out of its range; the message names the field, what is expected and what came."""


class ModelError(AgentsError, ValueError):
    """A model or its tokenizer cannot be found, loaded or trained; the message says what to do."""


class RunError(AgentsError, ValueError):
    """The record of a run (metrics, samples, manifest) cannot be read, continued or compared."""


class EngineError(AgentsError, ValueError):
    """An engine cannot serve a request."""


class EngineFault(AgentsError, RuntimeError):
    """An engine is gone, or samples from other weights than it should."""


class CheckpointError(AgentsError, OSError):
    """A checkpoint cannot be written or read."""


class ServiceError(AgentsError, OSError):
    """A tracker does not start, or the hub does not take an upload."""


class UnhealthyError(AgentsError, RuntimeError):
    """Too many optimizer steps in a row were skipped, or steps collapsed; the last whole step is saved."""


class TrainingError(AgentsError, RuntimeError):
    """Training cannot continue; the last checkpoint is unchanged."""


def expect(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise a :class:`ConfigError` unless the condition holds."""
    if not condition:
        raise ConfigError(f"Expect `{name}` {expected}, got {got!r}.")


def one_line(error: BaseException) -> str:
    """Return an error as one line without a full stop, at most 300 characters of it.

    >>> one_line(OSError("no   network today."))
    'no network today'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text[:300]} [...]" if len(text) > 300 else text.removesuffix(".")
