"""Calls that may hang, with a limit: other people's verifiers and generators of items.

In a main thread an interval timer interrupts the call, regular expressions and arithmetic on huge integers included.
Elsewhere signals do not arrive, so the call runs in a thread of its own, which an asynchronous exception ends at its
next line of Python. What neither can interrupt (a C library that never returns) is left to the deadline of the process.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

#: A call that swallows the first interruption is interrupted again after so many seconds.
AGAIN_AFTER = 0.2
#: How long an interrupted thread may take to come to its next line of Python.
LAST_BREATH = 1.0


class _Expired(BaseException):
    """Raised inside the call. Not an `Exception`, so that careless handlers do not swallow it."""


def call_within(seconds: float, function: Callable[[], T]) -> T:
    """The result of `function()`, unless it takes too long.

    Args:
        seconds: The limit, of wall time.
        function: Called without arguments. What it raises is raised.

    Raises:
        TimeoutError: The limit has passed. The call was interrupted.

    >>> call_within(1.0, lambda: 2 + 3)
    5
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        return _interrupted_by_timer(seconds, function)
    return _in_a_thread(seconds, function)


def _interrupted_by_timer(seconds: float, function: Callable[[], T]) -> T:
    inside = True

    def expire(*_: object) -> None:
        if inside:
            raise _Expired

    begin = monotonic()
    old_handler = signal.signal(signal.SIGALRM, expire)
    old_left, old_interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_AFTER)
    try:
        try:
            return function()
        finally:
            inside = False
    except _Expired:
        raise TimeoutError(f"took longer than {seconds:g} s") from None
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, old_handler)
        if old_left > 0.0:  # a limit around this one goes on counting, and fires at once where it has passed
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, old_left - (monotonic() - begin)), old_interval)


def _in_a_thread(seconds: float, function: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # travels to the caller, whatever it is
            failures.append(error)

    thread = threading.Thread(target=work, name="call_within", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        deadline = monotonic() + LAST_BREATH
        while thread.is_alive() and monotonic() < deadline:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Expired))
            thread.join(AGAIN_AFTER)
        left = " and could not be interrupted: its thread goes on" if thread.is_alive() else ""
        raise TimeoutError(f"took longer than {seconds:g} s{left}")
    if failures:
        raise TimeoutError("interrupted") if isinstance(failures[0], _Expired) else failures[0]
    return results[0]
