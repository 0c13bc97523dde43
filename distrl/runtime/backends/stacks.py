"""`Stacks`: a process writes its stacks into the run folder when a call takes very long.

A thread checks once a second, so calls cost nothing. It needs the interpreter's lock: a deadlock inside a C extension
that holds the lock leaves no stacks.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "stacks"
SUSPICIOUS_SECONDS = 20.0


def stacks_file(run_folder: str | Path, process: str) -> Path:
    """Return the file with the stacks of a process.

    >>> stacks_file("runs/a", "sampler 3").as_posix()
    'runs/a/stacks/sampler_3.txt'
    """
    return Path(run_folder) / FOLDER / f"{process.replace(' ', '_')}.txt"


class Stacks:
    """Watches the calls of this process; without the run folder, stacks go to its log."""

    def __init__(self, run_folder: str, process: str, seconds: float = SUSPICIOUS_SECONDS):
        self.folder, self.process, self.seconds = Path(run_folder), process, seconds
        self._began: float | None = None
        threading.Thread(target=self._watch, name="stacks", daemon=True).start()

    @contextmanager
    def watch(self) -> Iterator[None]:
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def _watch(self) -> None:
        reported: float | None = None
        while True:
            time.sleep(min(self.seconds / 4, 1.0))
            began = self._began
            if began is not None and began != reported and time.monotonic() - began >= self.seconds:
                reported = began
                self._write()

    def _write(self) -> None:
        path = stacks_file(self.folder, self.process)
        try:
            if self.folder.is_dir():
                path.parent.mkdir(exist_ok=True)
                with open(path, "w") as file:
                    faulthandler.dump_traceback(file, all_threads=True)
                return
        except OSError as error:
            print(f"{path} cannot be written: {error}", file=sys.stderr)
        faulthandler.dump_traceback(all_threads=True)
