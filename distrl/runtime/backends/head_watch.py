"""`HeadWatch`: reports a lost head node, before Ray ends this process a minute later."""

from __future__ import annotations

import socket
import threading
import time

from distrl.monitor.monitor import Monitor

CHECK_SECONDS = 2.0
SILENT_SECONDS = 6.0


class HeadWatch:
    """A thread that reports when the head at `HOST:PORT` stops and resumes answering."""

    def __init__(self, address: str | None, monitor: Monitor):
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
        answered, reported = time.monotonic(), False
        while not self._stop.wait(CHECK_SECONDS):
            if self._listens():
                answered = time.monotonic()
                if reported:
                    self.monitor.event("problem_over", of="head")
                    reported = False
            elif not reported and time.monotonic() - answered > SILENT_SECONDS:
                reported = True
                text = (
                    f"the cluster's head does not answer at {self.address}; unless it comes back, Ray ends this "
                    "process in about a minute. Then start again with --resume"
                )
                self.monitor.event("problem", of="head", text=text)

    def _listens(self) -> bool:
        host, port = str(self.address).rsplit(":", 1)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CHECK_SECONDS).close()
        except OSError:
            return False
        return True
