"""Files of lines: flushed at once, cut on resume, one warning while the disk is full."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from distrl.base.errors import ResourceError
from distrl.base.files import to_json, write_atomic

Line = dict[str, Any]
Report = Callable[[str], None]
RETRY_SECONDS = 30.0  # after which a disk that failed is tried again


class Sink:
    """An output on disk that may fail without ending the run; `report` gets one warning."""

    def __init__(self, name: str, report: Report):
        self.name = name
        self.alive = True
        self._report = report
        self._retry_at = 0.0  # time.monotonic(); 0 while all is well

    def attempt(self, action: Callable[[], object], *, again: bool = True) -> None:
        """Run `action`; after a disk error, skip the actions of the next half minute.

        With `again=False`, a failure closes this sink for the rest of the run.
        """
        if not self.alive or (self._retry_at and time.monotonic() < self._retry_at):
            return
        try:
            action()
        except (OSError, ResourceError) as error:
            failed_before, self._retry_at = self._retry_at, time.monotonic() + RETRY_SECONDS
            self.alive = again
            if not failed_before:
                self._report(f"{self.name} is no longer written: {_reason(error)}. Training continues without it.")
            return
        if self._retry_at:
            self._retry_at = 0.0
            self._report(f"{self.name} is written again.")


class LineFile(Sink):
    """A text file that grows by whole lines; a torn last line (a crash while writing) is ended.

    With `keep`, only earlier lines for which it holds stay; the file is rewritten atomically.
    """

    def __init__(self, path: Path, report: Report, keep: Callable[[Line], bool] | None = None):
        super().__init__(path.name, report)
        self._path = path
        self._handle = -1
        if keep is not None:
            self.attempt(lambda: _rewrite(path, keep), again=False)
        self.attempt(self._open, again=False)

    def write(self, line: str) -> None:
        """Append one line; the operating system has it when this returns."""
        self.attempt(lambda: self._write(line))

    def write_json(self, value: Line) -> None:
        """Append one JSON object."""
        self.write(json_line(value))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self.alive = False
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _open(self) -> None:
        self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if _is_torn(self._path):
            os.write(self._handle, b"\n")

    def _write(self, line: str) -> None:
        write_all(self._handle, line.encode() + b"\n")


def write_all(handle: int, data: bytes) -> None:
    """Append all of `data` or nothing, even if the disk fills up in between."""
    written = 0
    try:
        while written < len(data):
            written += os.write(handle, data[written:])
    except OSError:
        with suppress(OSError):  # not every file has a length
            os.ftruncate(handle, os.fstat(handle).st_size - written)
        raise


def json_line(value: Line) -> str:
    """Format a JSON object as one line; NaN and infinities become null.

    >>> json_line({"loss/value": float("nan"), "update": 3})
    '{"loss/value": null, "update": 3}'
    """
    try:
        return to_json(value, allow_nan=False)
    except ValueError:
        return to_json(_without_nan(json.loads(to_json(value))))


def read_lines(path: str | os.PathLike[str]) -> list[Line]:
    """Read the objects of a metrics.jsonl or events.jsonl, without torn lines."""
    path = Path(path)
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().split(b"\n"):
        try:
            value = json.loads(line)
        except ValueError:  # a torn line, or not text at all
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _rewrite(path: Path, keep: Callable[[Line], bool]) -> None:
    if path.exists():
        write_atomic(path, "".join(json_line(value) + "\n" for value in read_lines(path) if keep(value)))


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _reason(error: OSError | ResourceError) -> str:
    if isinstance(error, ResourceError):
        return error.problem.rstrip(".")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or str(error)
