"""Limits around calls that may hang, in main threads and others."""

from __future__ import annotations

import re
import signal
import threading
from time import monotonic, sleep

import pytest

from distrl.language.sandbox.time_limit import call_within


def in_a_thread(function):
    """The result of a function, or what it raised, from a thread that is not the main one."""
    found = []

    def work():
        try:
            found.append(function())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    return found[0]


def forever() -> None:
    while True:
        pass


def test_results_and_failures_pass_through():
    assert call_within(1.0, lambda: "result") == "result"
    assert in_a_thread(lambda: call_within(1.0, lambda: "result")) == "result"
    with pytest.raises(ZeroDivisionError):
        call_within(1.0, lambda: 1 / 0)
    assert isinstance(in_a_thread(lambda: call_within(1.0, lambda: 1 / 0)), ZeroDivisionError)


@pytest.mark.parametrize(
    "hang",
    [forever, lambda: sleep(60), lambda: re.match(r"(a+)+$", "a" * 40 + "b"), lambda: 7 ** (10**9)],
    ids=["loop", "sleep", "regular expression", "huge number"],
)
def test_hangs_end_in_the_main_thread(hang):
    begin = monotonic()
    with pytest.raises(TimeoutError, match=r"longer than 0\.1 s"):
        call_within(0.1, hang)
    assert monotonic() - begin < 10.0


def test_hangs_end_in_other_threads():
    assert str(in_a_thread(lambda: call_within(0.1, forever))) == "took longer than 0.1 s"
    assert "its thread continues" in str(in_a_thread(lambda: call_within(0.1, lambda: sleep(4))))


def test_the_limit_around_a_limit_goes_on_counting():
    def outer():
        with pytest.raises(TimeoutError):
            call_within(0.1, forever)
        forever()

    begin = monotonic()
    with pytest.raises(TimeoutError, match=r"longer than 0\.4 s"):
        call_within(0.4, outer)
    assert 0.35 < monotonic() - begin < 5.0


def test_nothing_of_a_limit_is_left():
    before = signal.getsignal(signal.SIGALRM)
    call_within(5.0, lambda: None)
    assert signal.getsignal(signal.SIGALRM) is before
