"""Tracks pending orders, nodes and disk space; reports unusual waits and problems."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from distrl.runtime.loop.elastic import Elastic
from distrl.runtime.loop.lost_data import LostData
from distrl.runtime.loop.recovery import Recovery
from distrl.runtime.loop.state import RunState, Services
from distrl.runtime.protocol.orders import Wait

REPORT_SECONDS = 10.0  # a wait is reported from then on, or from three times the longest of its kind so far
CHECK_SECONDS = 5.0  # between two checks of nodes and disk
LOW_DISK = 2**28


class Waits:
    """Watches orders and machines; `problems` describe the object store and slow streams."""

    def __init__(
        self,
        state: RunState,
        services: Services,
        recovery: Recovery,
        lost_data: LostData,
        elastic: Elastic,
        problems: tuple[Callable[[], str], Callable[[], str]],
    ):
        self.state, self.backend, self.monitor = state, services.backend, services.monitor
        self.folder = services.folder
        self.recovery, self.lost_data, self.elastic = recovery, lost_data, elastic
        self.pending: list[Wait] = []
        self.problems: dict[str, str] = {}  # kind -> description
        self._checks = dict(zip(("object store", "slow streams"), problems, strict=True))
        self._longest: dict[str, float] = {}
        self._report_at: dict[tuple[str, str], float] = {}
        self._nodes: dict[str, str] = {}
        self._checked = 0.0

    def poll(self) -> None:
        """Update the pending orders, and check the machines if that is due."""
        before, self.pending = self.pending, self.backend.waits()
        there = {(wait.process, wait.what) for wait in self.pending}
        for wait in before:
            if (wait.process, wait.what) not in there:
                self._longest[wait.kind] = max(self._longest.get(wait.kind, 0.0), wait.seconds)
                self._report_at.pop((wait.process, wait.what), None)
        for wait in self.pending:
            self._report_long(wait)
        if time.monotonic() - self._checked >= CHECK_SECONDS:
            self._checked = time.monotonic()
            self._check_nodes()
            self._check_disk()
            for kind, describe in self._checks.items():
                self._set_problem(kind, describe())

    def line(self) -> str:
        """Describe the longest wait that holds up the run, or return an empty string."""
        if self.recovery.restart_at is not None:
            return "the run waits for a new learner"
        learning = self.state.queue.learning
        waits = [wait for wait in self.pending if wait.kind in ("update" if learning else "fragments", "start")]
        if not waits:
            return ""
        longest = max(waits, key=lambda wait: wait.seconds)
        return f"{'the samplers wait' if learning else 'the learner waits'} for {longest}"

    def record(self) -> dict[str, str | Sequence[object]]:
        return {
            "line": self.line(),
            "orders": [{**asdict(wait), "seconds": round(wait.seconds, 1)} for wait in self.pending],
            "problems": list(self.problems.values()),
        }

    def _report_long(self, wait: Wait) -> None:
        key = (wait.process, wait.what)
        usual = max(REPORT_SECONDS, 3 * self._longest.get(wait.kind, 0.0))
        if wait.seconds >= self._report_at.get(key, usual):
            self._report_at[key] = 3 * wait.seconds
            facts = {"process": wait.process, "what": wait.what, "seconds": round(wait.seconds, 1)}
            self.monitor.event("waiting", **facts, given_up_after=wait.limit, cause=wait.cause or "not known")

    def _check_nodes(self) -> None:
        nodes = self.backend.nodes()
        lost, new = self._nodes.keys() - nodes.keys(), nodes.keys() - self._nodes.keys()
        slots = [slot for slot in self.state.pool.slots if slot.state != "gone"]
        for node in lost:
            hosted = [slot.index for slot in slots if slot.node == node]
            self.monitor.event("node_lost", node=node, address=self._nodes[node], samplers=hosted)
        first, self._nodes = not self._nodes, nodes
        if lost:
            self.lost_data.probe()
            self.recovery.node_lost()
        for node in () if first else new:
            self.monitor.event("node_joined", node=node, address=nodes[node])
        if new and not first:
            self.elastic.node_joined()

    def _check_disk(self) -> None:
        try:
            free = shutil.disk_usage(self.folder.path).free
        except OSError as error:
            self._set_problem("disk", f"the run folder cannot be reached: {error}")
        else:
            low = f"the run folder's disk is nearly full: {free / 2**20:.0f} MiB free"
            self._set_problem("disk", low if free < LOW_DISK else "")

    def _set_problem(self, kind: str, text: str) -> None:
        """Report a problem once when it appears, and once when it is over."""
        if text and kind not in self.problems:
            self.monitor.event("problem", of=kind, text=text)
        if not text and self.problems.pop(kind, ""):
            self.monitor.event("problem_over", of=kind)
        if text:
            self.problems[kind] = text
