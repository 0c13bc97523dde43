"""Command channel of a running loop: `scale`, `stop` and `status`.

A *mailbox* receives commands and publishes the status. Every run has one in its run folder, a run on a shared
Ray cluster also an actor (`control_actor.py`). The loop polls them about once a second, between two turns.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from distrl.base.errors import UserError
from distrl.runtime.commands import files
from distrl.runtime.commands.files import Answer, Command
from distrl.runtime.loop.loop import Loop
from distrl.runtime.loop.status import StatusWriter
from distrl.runtime.protocol.orders import STOP, STOP_NOW

STATUS_BYTES = 16_384  # reserved, so that a growing status fits on a full disk


class Mailbox(Protocol):
    """Receives commands, and publishes the status."""

    def pop(self) -> list[Command]: ...  # the commands since the last call
    def answer(self, command: Command, answer: Answer) -> None: ...
    def show(self, status: dict[str, object]) -> None: ...  # never waits, never raises
    def close(self) -> None: ...


class Control:
    """Carries out the commands in a loop's mailboxes."""

    def __init__(self, boxes: Sequence[Mailbox], attempt: int):
        self.boxes = list(boxes)
        self.status = StatusWriter(attempt)
        self._next = 0.0

    def poll(self, loop: Loop) -> None:
        """Carry out new commands, at most once a second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + files.POLL_SECONDS
        for box in self.boxes:
            for command in box.pop():
                box.answer(command, execute(loop, command))
        self.show(loop)

    def show(self, loop: Loop) -> None:
        record = self.status.record(loop)
        for box in self.boxes:
            box.show(record)

    def close(self, loop: Loop, state: str) -> None:
        """Publish how the run ended, and close the mailboxes."""
        record = self.status.record(loop, state)
        for box in self.boxes:
            box.show(record)
            box.close()


def execute(loop: Loop, command: Command) -> Answer:
    loop.monitor.event("command", verb=command.verb, samplers=command.samplers)
    try:
        match command.verb:
            case "scale":
                return Answer(True, loop.elastic.scale(int(command.samplers or 0), "a command"))
            case "stop":
                loop.state.stop_requested = STOP
                return Answer(True, "the run writes a checkpoint at its next update boundary and ends.")
            case "stop_now":
                loop.state.stop_requested = STOP_NOW
                kept = f"its newest checkpoint is {loop.saver.last_path}." if loop.saver.last_path else "it has none."
                return Answer(True, f"the run ends without a further checkpoint; {kept}")
    except UserError as error:
        return Answer(False, error.problem, error.fix)
    return Answer(False, f"unknown command {command.verb!r}.", f"Available: {', '.join(files.VERBS)}.")


class FolderMailbox:
    """Commands as files: `control/ID.command.json` is answered by `control/ID.answer.json`.

    Unread commands to an earlier attempt are deleted.
    """

    def __init__(self, folder: Path):
        self.folder, self.control = folder, folder / files.CONTROL_FOLDER
        self.control.mkdir(exist_ok=True)
        for file in self.control.iterdir():
            file.unlink(missing_ok=True)

    def pop(self) -> list[Command]:
        commands = []
        for file in sorted(self.control.glob("*.command.json")):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                commands.append(Command.parse(json.loads(file.read_text())))
            file.unlink(missing_ok=True)
        return commands

    def answer(self, command: Command, answer: Answer) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the run; the sender has a deadline
            files.put(self.control / f"{Path(command.id).name}.answer.json", asdict(answer))

    def show(self, status: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            try:
                files.put(self.folder / files.STATUS_FILE, status, STATUS_BYTES)
            except OSError:
                files.put_over(self.folder / files.STATUS_FILE, status)

    def close(self) -> None:
        """Keep the last status."""
