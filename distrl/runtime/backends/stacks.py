"""Stacks of a process whose call takes suspiciously long, written by the process itself into the run folder.

A thread looks once a second, so a call costs nothing. It needs Python to run: a deadlock inside a C extension that
holds the interpreter's lock leaves no stacks.
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


def stacks_file(run_folder: str | Path, part: str) -> Path:
    """Where the stacks of a part are.

    >>> stacks_file("runs/a", "sampler 3").as_posix()
    'runs/a/stacks/sampler_3.txt'
    """
    return Path(run_folder) / FOLDER / f"{part.replace(' ', '_')}.txt"


class Stacks:
    """Watches the calls of this process.

    Args:
        run_folder: On another machine it may not be there: then stacks go to the process's log.
        part: Who this is.
        seconds: After which a call is suspicious.
    """

    def __init__(self, run_folder: str, part: str, seconds: float = SUSPICIOUS_SECONDS):
        self.folder, self.part, self.seconds = Path(run_folder), part, seconds
        self._began: float | None = None
        threading.Thread(target=self._watch, name="stacks", daemon=True).start()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """A call."""
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def _watch(self) -> None:
        told: float | None = None
        while True:
            time.sleep(min(self.seconds / 4, 1.0))
            began = self._began
            if began is not None and began != told and time.monotonic() - began >= self.seconds:
                told = began
                self._write()

    def _write(self) -> None:
        path = stacks_file(self.folder, self.part)
        try:
            if self.folder.is_dir():
                path.parent.mkdir(exist_ok=True)
                with open(path, "w") as file:
                    faulthandler.dump_traceback(file, all_threads=True)
                return
        except OSError as error:
            print(f"{path} cannot be written: {error}", file=sys.stderr)
        faulthandler.dump_traceback(all_threads=True)
