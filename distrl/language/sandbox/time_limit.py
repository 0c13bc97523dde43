"""Time limits of calls that may hang, such as a user's verifier.

In the main thread an interval timer interrupts the call, regular expressions and arithmetic on huge integers included.
In other threads, which receive no signals, the call runs in a separate thread that an asynchronous exception ends at
its next line of Python. Neither interrupts a C library that never returns: the deadline of the process covers it.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which a call that swallowed an interruption is interrupted again.
AGAIN_AFTER = 0.2
#: Seconds that an interrupted thread may take to reach its next line of Python.
GRACE_SECONDS = 1.0


class _Expired(BaseException):
    """Interruption of a call; no `Exception`, so that broad handlers do not swallow it."""


def call_within(seconds: float, function: Callable[[], T]) -> T:
    """Return `function()`, or raise TimeoutError and interrupt it after `seconds` of wall time.

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
        if old_left > 0.0:  # an enclosing limit continues, and fires at once if it has passed
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, old_left - (monotonic() - begin)), old_interval)


def _in_a_thread(seconds: float, function: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # raised in the caller
            failures.append(error)

    thread = threading.Thread(target=work, name="call_within", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        deadline = monotonic() + GRACE_SECONDS
        while thread.is_alive() and monotonic() < deadline:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Expired))
            thread.join(AGAIN_AFTER)
        remark = " and could not be interrupted: its thread continues" if thread.is_alive() else ""
        raise TimeoutError(f"took longer than {seconds:g} s{remark}")
    if failures:
        raise TimeoutError("interrupted") if isinstance(failures[0], _Expired) else failures[0]
    return results[0]
