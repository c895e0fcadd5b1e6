"""The exceptions of ``cir_env``, and the argument checks that raise them.

::

    CirEnvError
    ├── ProblemError        (ValueError)    a problem set cannot be read, or has no such problem
    ├── OptionError         (ValueError)    an argument or a reset option is not valid
    ├── ActionError         (TypeError)     an action is not valid
    ├── EpisodeError        (RuntimeError)  no episode is in progress, or the environment is closed
    ├── SandboxUnavailable  (RuntimeError)  infrastructure error: the sandbox cannot run code
    └── GraderUnavailable   (RuntimeError)  infrastructure error: the grader cannot grade

Messages follow one pattern: "Expect `x` to be ..., got ...", and what to do about it. Model output never raises.
"""

import difflib
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint
from typing import Any
from urllib.parse import parse_qsl


class CirEnvError(Exception):
    """Base class of all exceptions of ``cir_env``."""


class ProblemError(CirEnvError, ValueError):
    """A problem set cannot be read, is empty, has a bad row, or has no problem with that index."""


class OptionError(CirEnvError, ValueError):
    """An argument or a reset option is unknown, has the wrong type or is out of range."""


class ActionError(CirEnvError, TypeError):
    """An action is not a string, or not a token id of the action space."""


class EpisodeError(CirEnvError, RuntimeError):
    """The call needs an episode in progress or an open environment, and there is none."""


class SandboxUnavailable(CirEnvError, RuntimeError):
    """The sandbox cannot run any code: an infrastructure error, never blamed on the policy."""


class GraderUnavailable(CirEnvError, RuntimeError):
    """The grader cannot grade any answer: an infrastructure error, never blamed on the policy."""


def check_integer(name: str, value: Any, minimum: int | None = None) -> int:
    """Return `value` as an integer.

    Raises:
        OptionError: It is not an integer (bools are rejected too), or is below `minimum`.

    Example:
        >>> check_integer("interaction_budget", -1, 0)
        Traceback (most recent call last):
        cir_env.errors.OptionError: Expect `interaction_budget` to be at least 0, got -1.
    """
    try:
        integer = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        integer = None
    if integer is None:
        raise OptionError(f"Expect `{name}` to be an integer, got {value!r}.")
    if minimum is not None and integer < minimum:
        raise OptionError(f"Expect `{name}` to be at least {minimum}, got {integer}.")
    return integer


def check_number(name: str, value: Any) -> float:
    """Return `value` as a float.

    Raises:
        OptionError: It is not a finite number.

    Example:
        >>> check_number("reward_correct", 1)
        1.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise OptionError(f"Expect `{name}` to be a finite number, got {value!r}.")
    return float(value)


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """Return `value` if it is one of `choices` (strings, True, False or None).

    Raises:
        OptionError: It is not.

    Example:
        >>> check_choice("split", "tran", ("train", "test"))
        Traceback (most recent call last):
        cir_env.errors.OptionError: Expect `split` to be 'train' or 'test', got 'tran'. Did you mean 'train'?
    """
    texts = [choice for choice in choices if isinstance(choice, str)]
    if any(value is choice for choice in choices) or (isinstance(value, str) and value in texts):
        return value
    names = ", ".join(map(repr, choices[:-1]))
    hint = did_you_mean(value, texts)
    raise OptionError(f"Expect `{name}` to be {names} or {choices[-1]!r}, got {value!r}.{hint}")


def check_reset_options(options: Any, names: Iterable[str]) -> Mapping[str, Any]:
    """Return the options of a `reset`, an empty mapping for None.

    Raises:
        OptionError: They are not a mapping, or one of them is not in `names`.

    Example:
        >>> check_reset_options({"problem": 3}, ["problem_index"])
        Traceback (most recent call last):
        cir_env.errors.OptionError: Expect only the reset options 'problem_index', got 'problem'. Did you mean \
'problem_index'?
    """
    if options is None:
        return {}
    known = list(names)
    listed = " and ".join(map(repr, known))
    if not isinstance(options, Mapping):
        raise OptionError(f"Expect `options` to be a mapping with {listed}, got {type(options).__name__}.")
    for name in options:
        if name not in known:
            raise OptionError(f"Expect only the reset options {listed}, got {name!r}.{did_you_mean(name, known)}")
    return options


def did_you_mean(got: object, names: Iterable[str]) -> str:
    """Return the end of an error message: the closest of `names`, or "" if none is close.

    Example:
        >>> did_you_mean("tekst", ["cir", "text"]), did_you_mean("", ["cir", "text"])
        (" Did you mean 'text'?", '')
    """
    close = difflib.get_close_matches(str(got), list(names), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def import_function(kind: str, spec: str) -> Callable[..., Any]:
    """Return the function that ``module:function`` names.

    Args:
        kind: What errors call the function, such as "reward".
        spec: Where it is.

    Raises:
        OptionError: The text has another form, or there is no such function.

    Example:
        >>> import_function("reward", "math:sqrt")(9.0)
        3.0
    """
    module, _, function = spec.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *function.split(".")]):
        raise OptionError(f"Expect a {kind} as 'module:function', got {spec!r}.")
    try:
        found = EntryPoint(name=spec, value=spec, group="").load()
    except Exception as error:  # whatever the user's module raises
        raise OptionError(
            f"Expect a {kind} {spec!r} that can be imported, got {type(error).__name__}: {error}."
        ) from error
    if not callable(found):
        raise OptionError(f"Expect the {kind} {spec!r} to be a function, got {type(found).__name__}.")
    function_found: Callable[..., Any] = found
    return function_found


def parse_spec(spec: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Split a spec such as ``hub:OWNER/NAME?statement=question&answer=gold`` into its name and its options.

    Example:
        >>> parse_spec("number?rel_tol=0.01"), parse_spec("set")
        (('number', (('rel_tol', '0.01'),)), ('set', ()))
    """
    name, _, query = spec.partition("?")
    return name, tuple(parse_qsl(query, keep_blank_values=True))
