"""The command channel of a run: how `scale`, `stop` and `status` reach a loop that is at work.

A *box* is where commands come in and the status goes out. Every run has one in its run folder (`FolderBox`): plain
files, each written beside and renamed, so that nobody reads half of one. A run on a shared Ray cluster has an actor
besides (`control_actor.py`). The loop looks into its boxes about once a second, between two of its turns.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from distrl.base.errors import UserError
from distrl.runtime.commands.files import (
    CONTROL_FOLDER,
    STATUS_FILE,
    TURN_SECONDS,
    VERBS,
    Answer,
    Command,
    put,
    put_over,
)
from distrl.runtime.loop.status import StatusWriter
from distrl.runtime.protocol.orders import STOP, STOP_NOW

STATUS_BYTES = 16_384  # so that a status that grows has room on a full disk


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
        self.show(loop)

    def show(self, loop: Any) -> None:
        """Give the newest status to every box."""
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
            try:
                put(self.folder / STATUS_FILE, status, STATUS_BYTES)
            except OSError:
                put_over(self.folder / STATUS_FILE, status)

    def close(self) -> None:
        """The last status stays, for those who ask later."""
