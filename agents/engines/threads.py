"""PyTorch's threads on a CPU, for those operators alone that gain by them.

The threads of an operator wait for each other at its end. A sampling pass has a thousand operators, most of them on so
few numbers that waking a thread takes longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import local
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_caller = local()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let operators called in this thread use no other one, but for functions that have :func:`all_threads`."""
    _caller.threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_caller.threads)
        _caller.threads = 1


def all_threads(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function use the threads that the caller of :func:`one_thread` had."""

    @wraps(function)
    def call(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        threads = getattr(_caller, "threads", 1)
        if threads == 1:
            return function(*arguments, **keywords)
        torch.set_num_threads(threads)
        try:
            return function(*arguments, **keywords)
        finally:
            torch.set_num_threads(1)

    return call
