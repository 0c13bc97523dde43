"""One learning run in a process of its own: start or resume, watch, record."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from cells import Cell
from code_hash import REPOSITORY, digest, forget_files
from common import kill_group, machine_facts
from records import Places, make_record, outcome, write_record

from distrl.base.errors import UserError
from distrl.base.files import read_json

INTERRUPT_SECONDS = 30.0
#: Exit code of a run whose checkpoints cannot be used (CheckpointError).
BAD_CHECKPOINT = 4


class Job:
    """A (cell, seed) under way.

    Args:
        cell, seed: What is run.
        places: Where its run folder and its record go.
        timeout: Seconds until it counts as hung.
        fresh: Do not continue an interrupted run.

    Attributes:
        problem: Why there is no record; empty where there is one.
        again: The checkpoints were of no use and are gone: start it once more.
    """

    def __init__(self, cell: Cell, seed: int, places: Places, timeout: float, fresh: bool = False):
        self.cell, self.seed, self.places, self.timeout, self.fresh = cell, seed, places, timeout, fresh
        self.name = f"{cell.name}-seed{seed}"
        self.hashes: dict[str, str] = {}
        self.run_folder = places.runs / self.name
        self.log = places.runs / f"{self.name}.log"
        self.resumed = self.again = False
        self.problem = self.report = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.deadline = 0.0

    @property
    def shown_command(self) -> list[str]:
        """The command line of the run, without its run folder."""
        return ["distrl", "train", f"examples/{self.cell.example}.yaml", *self.cell.words(self.seed)]

    def start(self) -> None:
        """Start the process, from the newest checkpoint of the same code and config if any."""
        self.again, self.problem = False, ""
        forget_files()  # a long benchmark may see the code change between two runs
        try:
            self.hashes = self.cell.hashes(self.seed)
        except UserError as error:
            self.problem = str(error)
            return
        # Another state of the code is another run: its checkpoints must not be continued.
        self.run_folder = self.places.runs / f"{self.name}-{digest(self.hashes)}"
        for old in self.places.runs.glob(f"{self.name}-*"):
            if self.fresh or old != self.run_folder or not any(old.glob("checkpoints/update_*/manifest.json")):
                shutil.rmtree(old)
        self.fresh = False
        self.resumed = self.run_folder.exists()
        (self.run_folder / "summary.json").unlink(missing_ok=True)
        self.places.runs.mkdir(parents=True, exist_ok=True)
        place = ["--name", self.run_folder.name, "--runs-dir", str(self.places.runs)]
        command = [sys.executable, "-m", *self.shown_command, *place, *(["--resume"] if self.resumed else [])]
        with self.log.open("ab" if self.resumed else "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
                start_new_session=True,
            )
        self.deadline = time.monotonic() + self.timeout

    def ended(self) -> bool:
        """Look after the process; when it has ended, write the record or note the problem."""
        if self.process is None:
            self.report = f"failed: {self.problem}"
            return True
        code = self.process.poll()
        if code is None:
            if time.monotonic() < self.deadline:
                return False
            self.problem = f"did not end within {self.timeout:g} s"
        kill_group(self.process)
        if code == 0:
            self._record()
        elif code == BAD_CHECKPOINT and self.resumed:
            shutil.rmtree(self.run_folder)
            self.again, self.report = True, "its checkpoints cannot be used; it starts anew"
        else:
            self.problem = self.problem or f"exited with {code}"
            self.report = f"failed: {self.problem}\n{self._tail()}"
        return True

    def _record(self) -> None:
        facts = {
            "command": shlex.join(self.shown_command),
            "attempts": len(read_json(self.run_folder / "attempts.json")),
            "machine": machine_facts(),
        }
        record = self.result(read_json(self.run_folder / "summary.json"), facts)
        write_record(self.places, self.cell, self.seed, record)
        shutil.rmtree(self.run_folder)
        verdict = "passed" if record["passed"] else "MISSED"
        self.report = f"{verdict}: {outcome(self.cell, 'current', record)}, {record['wall_s']:.0f} s"

    def result(self, summary: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
        """The record of a run that has ended."""
        return make_record(self.cell, self.seed, self.hashes, summary, facts)

    def _tail(self, lines: int = 8) -> str:
        return "\n".join(self.log.read_text(errors="replace").rstrip().splitlines()[-lines:])

    def interrupt(self) -> None:
        """Ask for a checkpoint and a clean end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def wait_or_kill(self) -> None:
        """Give the process time to save, then end it."""
        if self.process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(INTERRUPT_SECONDS)
        kill_group(self.process)
