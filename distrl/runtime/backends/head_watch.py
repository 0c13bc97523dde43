"""A watch on the cluster's head: without it this process hangs inside Ray, until Ray ends it a minute later."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

LOOK_SECONDS = 2.0
SILENT_SECONDS = 6.0


class HeadWatch:
    """A thread that tells when nothing listens at the head's address any more.

    Args:
        address: `HOST:PORT` of the head; None: nothing is watched.
        monitor: Told once when the head goes, and once when it comes back.
    """

    def __init__(self, address: str | None, monitor: Any):
        self.address, self.monitor = address, monitor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="head watch", daemon=True)

    def __enter__(self) -> HeadWatch:
        if self.address:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        answered, told = time.monotonic(), False
        while not self._stop.wait(LOOK_SECONDS):
            if self._listens():
                answered = time.monotonic()
                if told:
                    self.monitor.event("problem_over", of="head")
                    told = False
            elif not told and time.monotonic() - answered > SILENT_SECONDS:
                told = True
                text = (
                    f"the cluster's head does not answer at {self.address}; unless it comes back, Ray ends this "
                    "process in about a minute. Then start again with --resume"
                )
                self.monitor.event("problem", of="head", text=text)

    def _listens(self) -> bool:
        host, port = str(self.address).rsplit(":", 1)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK_SECONDS).close()
        except OSError:
            return False
        return True
