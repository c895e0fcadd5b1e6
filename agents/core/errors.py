"""The exceptions of ``agents``.

::

    AgentsError
    ├── ConfigError      (ValueError)          a setting is out of its range             agents.core.errors
    ├── ModelError       (ValueError)          a model cannot be found or loaded        agents.models.find
    ├── ChatError        (ValueError)          a tokenizer cannot be used               agents.core.chat
    ├── MetricsError     (ValueError)          the record of a run cannot be read       agents.rollout.metrics
    ├── SamplesError     (ValueError)          samples of a run cannot be used          agents.core.samples
    ├── UnfinishedRunError (ValueError)        a run lacks samples                       agents.evaluation.run_folder
    ├── ComparisonError  (ValueError)          two runs cannot be compared              agents.evaluation.comparison
    ├── ReportError      (ValueError)          a report cannot be made                  agents.tracking.history
    ├── EngineError      (ValueError)          a request cannot be served               agents.engines.base
    ├── EngineFault      (RuntimeError)        an engine is gone, or has other weights   agents.engines.base
    ├── CheckpointError  (OSError)             a checkpoint cannot be written or read   agents.training.checkpoint
    ├── UnhealthyError   (RuntimeError)        a run skips or collapses too often        agents.core.errors
    ├── TrackerError     (OSError)             a tracker of the run does not start       agents.tracking.trackers
    ├── HubError         (OSError)             nothing can be uploaded to the hub        agents.training.hub
    └── TrainingError    (RuntimeError)        no episode of a step can be used          agents.training.trainer

A ``ValueError`` is the user's to mend. Each message says what was expected, what came and what to do.
"""


class AgentsError(Exception):
    """Base class of every exception that ``agents`` raises on purpose."""


class ConfigError(AgentsError, ValueError):
    """A value is out of its range; the message names the field, what is expected and what came."""


class UnhealthyError(AgentsError, RuntimeError):
    """Too many optimiser steps in a row were skipped, or steps collapsed; the last whole step is saved."""


class Stopped(Exception):
    """The run was asked to stop, and the weights are those of the last whole step."""


def expect(condition: bool, name: str, expected: str, got: object) -> None:
    """Raise a :class:`ConfigError` unless the condition holds."""
    if not condition:
        raise ConfigError(f"Expect `{name}` {expected}, got {got!r}.")


def one_line(error: Exception) -> str:
    """Return an error as one line that ends in a full stop.

    >>> one_line(OSError("no   network today"))
    'no network today.'
    """
    return (" ".join(str(error).split()) or type(error).__name__).removesuffix(".") + "."
