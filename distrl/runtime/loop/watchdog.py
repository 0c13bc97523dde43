"""Watchdog of the serial backend, where a hung environment stops the whole process.

It writes all stacks into the run folder, saves the last boundary's state, which a hung environment does not change, and
ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from distrl.runtime.loop.loop import Loop

EXIT_CODE = 3


@contextmanager
def first_steps(env_id: str, seconds: float) -> Iterator[None]:
    """End the process with a message if the environment hangs while it is checked before a run."""

    def give_up() -> None:
        faulthandler.dump_traceback(all_threads=True)
        print(
            f"error: {env_id} has not finished its first resets and steps within {seconds:g} s (samplers.timeout); "
            "the stacks above show where it hangs. Fix it, or set samplers.timeout higher.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_CODE)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Watchdog:
    """Ends the process if a turn of the loop takes longer than `samplers.timeout`."""

    def __init__(self, loop: Loop, seconds: float):
        self.loop, self.seconds = loop, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.loop.state.turn_began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(min(self.seconds / 4, 1.0)):
            waited = time.monotonic() - self.loop.state.turn_began
            if waited > self.seconds and self.loop.state.collecting:
                self._give_up(waited)

    def _give_up(self, waited: float) -> None:
        loop = self.loop
        stacks = loop.services.folder.path / "stacks.txt"
        with open(stacks, "w") as file:
            faulthandler.dump_traceback(file=file, all_threads=True)
        loop.monitor.event("hang", seconds=waited, stacks=str(stacks))
        loop.save_after_failure()
        path = loop.saver.last_path
        saved = f"The last boundary is saved in {path}; continue it with --resume."
        kept = saved if path else "Nothing was learned yet."
        loop.monitor.close(None)
        print(
            f"error: an environment step has not returned for {waited:.0f} s (samplers.timeout {self.seconds:g}). "
            f"Stacks: {stacks}. {kept}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_CODE)
