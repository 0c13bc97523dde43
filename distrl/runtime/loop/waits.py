"""Who waits for whom, for how long, and why: for the status, and as events once a wait is longer than usual."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from typing import Any

from distrl.runtime.protocol.orders import Wait

TELL_SECONDS = 10.0  # a wait is told from then on, or from three times the longest one of its kind so far
LOOK_SECONDS = 5.0  # between two looks at nodes and disk
LOW_DISK = 2**28


class Waits:
    """Watches the orders of a loop.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: Any):
        self.loop = loop
        self.now: list[Wait] = []
        self.problems: dict[str, str] = {}  # kind -> what is wrong with the machines
        self._longest: dict[str, float] = {}
        self._tell_at: dict[tuple[str, str], float] = {}
        self._nodes: dict[str, str] = {}
        self._looked = 0.0

    def turn(self) -> None:
        """Look at every order, and now and then at the machines."""
        before, self.now = self.now, self.loop.backend.waits()
        there = {(wait.process, wait.what) for wait in self.now}
        for wait in before:
            if (wait.process, wait.what) not in there:
                self._longest[wait.kind] = max(self._longest.get(wait.kind, 0.0), wait.seconds)
                self._tell_at.pop((wait.process, wait.what), None)
        for wait in self.now:
            self._tell(wait)
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._look()

    def line(self) -> str:
        """One sentence: who waits for whom."""
        loop = self.loop
        if loop.recovery.restart_at is not None:
            return "the run waits for a new learner"
        parts = "fragments" if not loop.queue.learning else "update"
        waits = [wait for wait in self.now if wait.kind in (parts, "start")]
        if not waits:
            return ""
        longest = max(waits, key=lambda wait: wait.seconds)
        return f"{'the samplers wait' if loop.queue.learning else 'the learner waits'} for {longest}"

    def record(self) -> dict[str, Any]:
        """For the status."""
        return {
            "line": self.line(),
            "orders": [{**asdict(wait), "seconds": round(wait.seconds, 1)} for wait in self.now],
            "problems": list(self.problems.values()),
        }

    def _tell(self, wait: Wait) -> None:
        key = (wait.process, wait.what)
        usual = max(TELL_SECONDS, 3 * self._longest.get(wait.kind, 0.0))
        if wait.seconds >= self._tell_at.get(key, usual):
            self._tell_at[key] = 3 * wait.seconds
            facts = {"process": wait.process, "what": wait.what, "seconds": round(wait.seconds, 1)}
            self.loop.monitor.event("waiting", **facts, given_up_after=wait.limit, cause=wait.cause or "not known")

    # ---- the machines ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        nodes = self.loop.backend.nodes()
        lost, new = self._nodes.keys() - nodes.keys(), nodes.keys() - self._nodes.keys()
        for node in lost:
            lived = [slot.index for slot in self.loop.pool.slots if slot.node == node and slot.state != "gone"]
            self.loop.monitor.event("node_lost", node=node, address=self._nodes[node], samplers=lived)
        first, self._nodes = not self._nodes, nodes
        if lost:
            self.loop.losses.look()
            self.loop.recovery.machine_lost()
        for node in () if first else new:
            self.loop.monitor.event("node_joined", node=node, address=nodes[node])
        if new and not first:
            self.loop.elastic.room()
        try:
            free = shutil.disk_usage(self.loop.saver.folder.path).free
        except OSError as error:
            self._problem("disk", f"the run folder cannot be reached: {error}")
        else:
            low = f"the run folder's disk is nearly full: {free / 2**20:.0f} MiB free"
            self._problem("disk", low if free < LOW_DISK else "")
        self._problem("object store", self.loop.admission.problem())
        self._problem("slow streams", self.loop.slow.problem())

    def _problem(self, kind: str, text: str) -> None:
        """Told once when it comes, and once when it goes."""
        if text and kind not in self.problems:
            self.loop.monitor.event("problem", of=kind, text=text)
        if not text and self.problems.pop(kind, ""):
            self.loop.monitor.event("problem_over", of=kind)
        if text:
            self.problems[kind] = text
