"""Call a function in a process of its own, whose memory is that of the call alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

__all__ = ["apart"]

P = ParamSpec("P")
T = TypeVar("T")


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a fresh process, and return what it returns.

    Parameters
    ----------
    function : callable
        Of a module that the new process can import; it starts out with the environment
        variables of this one and nothing else.
    *args, **kwargs
        Of the function; they are pickled.

    Raises
    ------
    MemoryError
        If the system ended the process, as it does where memory runs out.
    Exception
        Whatever the function raises.

    Examples
    --------
    >>> import os
    >>> apart(os.getpid) == os.getpid()
    False
    """
    # A forked process would begin with the memory, and the threads, of this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args, **kwargs).result()
        except BrokenProcessPool as error:
            name = getattr(function, "__name__", str(function))
            raise MemoryError(
                f"the process that ran {name} was ended by the system, most likely for "
                "want of memory: close other programs, or use a smaller model"
            ) from error
