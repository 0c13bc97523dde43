"""The command channel of a run: how `scale`, `stop` and `status` reach a loop that is at work.

A *box* is where commands come in and the status goes out. Every run has one in its run folder (`FolderBox`): plain
files, each written beside and renamed, so that nobody reads half of one. A run on a shared Ray cluster has an actor
besides (`control_actor.py`). The loop looks into its boxes about once a second, between two of its turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from distrl.base.errors import ConfigError, ResourceError, UserError
from distrl.base.files import to_json
from distrl.runtime.loop import STOP, STOP_NOW
from distrl.runtime.status import StatusWriter

TURN_SECONDS = 1.0  # between two looks into the boxes
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


class Box(Protocol):
    """Where commands come in and the status goes out."""

    def take(self) -> list[Command]:
        """Commands since the last call; never waits."""

    def answer(self, command: Command, answer: Answer) -> None:
        """Tell the sender what became of it."""

    def show(self, status: dict[str, Any]) -> None:
        """The newest status; never waits, never raises."""

    def close(self) -> None:
        """The run ends."""


class Control:
    """Looks into the boxes of a loop and obeys.

    Args:
        boxes: The run folder's, and the actor's where there is one.
        attempt: Number of this attempt.
    """

    def __init__(self, boxes: Sequence[Box], attempt: int):
        self.boxes = list(boxes)
        self.status = StatusWriter(attempt)
        self._next = 0.0

    def turn(self, loop: Any) -> None:
        """Called between the loop's turns; does nothing most of the time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + TURN_SECONDS
        for box in self.boxes:
            for command in box.take():
                box.answer(command, obey(loop, command))
        record = self.status.record(loop)
        for box in self.boxes:
            box.show(record)

    def close(self, loop: Any, state: str) -> None:
        """Show how the run ended, and close the boxes."""
        record = self.status.record(loop, state)
        for box in self.boxes:
            box.show(record)
            box.close()


def obey(loop: Any, command: Command) -> Answer:
    """Carry out a command, or say why not."""
    loop.monitor.event("command", verb=command.verb, samplers=command.samplers)
    try:
        match command.verb:
            case "scale":
                return Answer(True, loop.elastic.scale(int(command.samplers or 0), "a command"))
            case "stop":
                loop.asked_to_stop = STOP
                return Answer(True, "the run writes a checkpoint at its next update boundary and ends.")
            case "stop_now":
                loop.asked_to_stop = STOP_NOW
                kept = f"its newest checkpoint is {loop.saver.last_path}." if loop.saver.last_path else "it has none."
                return Answer(True, f"the run ends without a further checkpoint; {kept}")
    except UserError as error:
        return Answer(False, error.problem, error.fix)
    return Answer(False, f"unknown command {command.verb!r}.", f"This run knows {', '.join(VERBS)}.")


class FolderBox:
    """Commands as files of the run folder: `control/ID.command.json` is answered by `control/ID.answer.json`.

    Args:
        folder: The run folder. What an earlier attempt was told and has not read is thrown away.
    """

    def __init__(self, folder: Path):
        self.folder, self.control = folder, folder / CONTROL_FOLDER
        self.control.mkdir(exist_ok=True)
        for file in self.control.iterdir():
            file.unlink(missing_ok=True)

    def take(self) -> list[Command]:
        commands = []
        for file in sorted(self.control.glob("*.command.json")):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                commands.append(Command.parse(json.loads(file.read_text())))
            file.unlink(missing_ok=True)
        return commands

    def answer(self, command: Command, answer: Answer) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the run; the sender is told by its deadline
            put(self.control / f"{Path(command.id).name}.answer.json", asdict(answer))

    def show(self, status: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            put(self.folder / STATUS_FILE, status)

    def close(self) -> None:
        """The last status stays, for those who ask later."""


def put(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees all of it. Not flushed to the disk: it need not outlive a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(to_json(value))
    temporary.replace(path)


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
