"""Commands to a run that is at work, and the run seen from outside through its folder. Imports no torch: quick to load.

The other end, inside the run, is `control.py`.
"""

from __future__ import annotations

import errno
import json
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distrl.base.errors import ConfigError, ResourceError
from distrl.base.files import to_json

TURN_SECONDS = 1.0  # between two looks of a run into its boxes
ANSWER_SECONDS = 60.0  # what a command waits for its answer: a turn can hold a long update
CONTROL_FOLDER = "control"
STATUS_FILE = "status.json"
VERBS = ("scale", "stop", "stop_now")


@dataclass(frozen=True)
class Command:
    """Something a running loop is asked to do.

    Attributes:
        verb: `scale`, `stop` (checkpoint and leave) or `stop_now` (leave).
        samplers: For `scale`: how many.
        id: Names the answer.
    """

    verb: str
    samplers: int | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def parse(cls, value: Any) -> Command:
        """A command from what came out of a box; an unknown verb is answered, not obeyed."""
        return cls(str(value.get("verb")), value.get("samplers"), str(value.get("id")))


@dataclass(frozen=True)
class Answer:
    """What became of a command: a sentence, and whether it was obeyed; else what to type instead."""

    ok: bool
    text: str
    fix: str = ""

    def read(self) -> str:
        """The sentence.

        Raises:
            ConfigError: The command was refused.
        """
        if not self.ok:
            raise ConfigError(self.text, self.fix)
        return self.text


def put(path: Path, value: Any, pages: int = 0) -> None:
    """Write JSON so that a reader sees all of it. Not flushed to the disk: it need not outlive a power cut.

    Args:
        pages: Fill up to a multiple of so many bytes with spaces, so that `put_over` has room later.
    """
    text = to_json(value)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text + " " * (-len(text) % pages if pages else 0))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def put_over(path: Path, value: Any) -> None:
    """Write JSON over what is there, which takes no room on a full disk; a reader may see half of it for a moment.

    Raises:
        OSError: It is longer than what is there, which stays.
    """
    with open(path, "r+b", buffering=0) as file:
        text, size = to_json(value).encode(), os.fstat(file.fileno()).st_size
        if len(text) > size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.write(text + b" " * (size - len(text)))


class FolderRun:
    """A run seen from outside, through its run folder.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def status(self) -> dict[str, Any] | None:
        """The newest record; None where the run has not written any. A run that died is `dead`."""
        try:
            record = json.loads((self.folder / STATUS_FILE).read_text())
        except (OSError, ValueError):
            return None
        if record["state"] == "running" and not self._alive(record):
            record["state"] = "dead"
        return record

    def watch(self) -> Iterator[dict[str, Any]]:
        """The status again and again, until the run ends."""
        while True:
            record = self.status()
            if record:
                yield record
            if record and record["state"] != "running":
                return
            time.sleep(TURN_SECONDS)

    def send(self, command: Command, seconds: float = ANSWER_SECONDS) -> str:
        """Give the run a command and wait for its answer.

        Raises:
            ConfigError: The run refused it, or does not run.
            ResourceError: No answer in time; the command stays in the box.
        """
        status = self.status()
        state = status["state"] if status else "not started"
        if status is None or state != "running":
            raise ConfigError(f"the run {self.folder.name} is not running: {state}.", "distrl ps lists the runs.")
        control = self.folder / CONTROL_FOLDER
        put(control / f"{command.id}.command.json", asdict(command))
        answer = control / f"{command.id}.answer.json"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if answer.is_file():
                found = Answer(**json.loads(answer.read_text()))
                answer.unlink(missing_ok=True)
                return found.read()
            if not self._alive(status):
                raise ResourceError(f"the run {self.folder.name} ended before it answered.", "See its log.txt.")
            time.sleep(0.05)
        raise ResourceError(
            f"no answer from {self.folder.name} within {seconds:g} s; it reads commands between two of its turns and "
            f"obeys when the present one ends.",
            f"To end it without waiting: kill -9 {status['pid']} on {status['host']}.",
        )

    @staticmethod
    def _alive(status: dict[str, Any]) -> bool:
        """Whether its process is there, as far as this machine can know."""
        import platform

        import psutil

        if status["host"] != platform.node():
            return True
        try:
            return psutil.Process(status["pid"]).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
