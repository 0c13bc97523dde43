"""Commands to a run and its status, through the run folder. Imports no torch.

`control.py` is the receiving end, inside the run.
"""

from __future__ import annotations

import errno
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from distrl.base.errors import ConfigError, ResourceError
from distrl.base.files import to_json

#: Status, command or answer as JSON values.
Json: TypeAlias = dict[str, Any]

POLL_SECONDS = 1.0  # between two polls of a run's mailboxes
ANSWER_SECONDS = 60.0  # deadline of an answer: a turn may wait for a long update
CONTROL_FOLDER = "control"
STATUS_FILE = "status.json"
VERBS = ("scale", "stop", "stop_now")


@dataclass(frozen=True)
class Command:
    """A command to a running loop; its id names the answer."""

    verb: str  # `scale`, `stop` (checkpoint and end) or `stop_now` (end)
    samplers: int | None = None  # for `scale`
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def parse(cls, value: Json) -> Command:
        """Parse a command of a mailbox; unknown verbs are refused later."""
        return cls(str(value.get("verb")), value.get("samplers"), str(value.get("id")))


@dataclass(frozen=True)
class Answer:
    """Result of a command: success, a sentence, and the fix of a refused one."""

    ok: bool
    text: str
    fix: str = ""

    def read(self) -> str:
        """Return the sentence; raise a `ConfigError` if the command was refused."""
        if not self.ok:
            raise ConfigError(self.text, self.fix)
        return self.text


def await_answer(pop_answer: Callable[[], Json | None], run: str, seconds: float, fix: str = "") -> str:
    """Wait for the answer to a command; return its sentence."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := pop_answer()) is not None:
            return Answer(**found).read()
        time.sleep(0.05)
    text = f"no answer from {run} within {seconds:g} s; it reads commands between two turns"
    raise ResourceError(f"{text} and obeys when the present one ends.", fix)


def put(path: Path, value: object, pages: int = 0) -> None:
    """Write JSON atomically but unflushed, padded to `pages` bytes for a later `put_over`."""
    text = to_json(value)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text + " " * (-len(text) % pages if pages else 0))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def put_over(path: Path, value: object) -> None:
    """Overwrite JSON in place, for full disks; a reader may briefly see a partial file."""
    with open(path, "r+b", buffering=0) as file:
        text, size = to_json(value).encode(), os.fstat(file.fileno()).st_size
        if len(text) > size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.write(text + b" " * (size - len(text)))


class FolderRun:
    """A run, accessed through its run folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def status(self) -> Json | None:
        """Return the newest status, or None; a run whose process died is `dead`."""
        try:
            record = json.loads((self.folder / STATUS_FILE).read_text())
        except (OSError, ValueError):
            return None
        if record["state"] == "running" and not self._alive(record):
            record["state"] = "dead"
        return record

    def watch(self) -> Iterator[Json]:
        while True:
            record = self.status()
            if record:
                yield record
            if record and record["state"] != "running":
                return
            time.sleep(POLL_SECONDS)

    def send(self, command: Command, seconds: float = ANSWER_SECONDS) -> str:
        status = self.status()
        state = status["state"] if status else "not started"
        if status is None or state != "running":
            raise ConfigError(f"the run {self.folder.name} is not running: {state}.", "distrl ps lists the runs.")
        control = self.folder / CONTROL_FOLDER
        put(control / f"{command.id}.command.json", asdict(command))
        answer = control / f"{command.id}.answer.json"

        def pop_answer() -> Json | None:
            if answer.is_file():
                found: Json = json.loads(answer.read_text())
                answer.unlink(missing_ok=True)
                return found
            if not self._alive(status):
                raise ResourceError(f"the run {self.folder.name} ended before it answered.", "See its log.txt.")
            return None

        fix = f"To end it without waiting: kill -9 {status['pid']} on {status['host']}."
        return await_answer(pop_answer, self.folder.name, seconds, fix)

    @staticmethod
    def _alive(status: Json) -> bool:
        import platform

        import psutil

        if status["host"] != platform.node():
            return True
        try:
            return psutil.Process(status["pid"]).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
