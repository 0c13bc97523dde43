"""A learner that died is built again, and nothing that it learned is lost.

The loop keeps the learner's full state in its own memory, and references to the batches that were learned from since.
A new process loads the state, makes the same updates again, which count nowhere, and goes on with the batch under way:
updates are functions of (state, batch, seed, number), so it has the same bits as the one that died.

An off-policy learner's replay is too large for that. Its state is the newest checkpoint's, replay files included; the
batches since are kept, and a checkpoint is made when they grow too many.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrl.base.errors import ResourceError
from distrl.control.learner.learner import Progress
from distrl.runtime.protocol.orders import RecoveryPoint, UpdateOrder

COST_SHARE = 0.03  # of the run's time, at most, for keeping the state
LOG_BYTES = 2**28  # of batches, before the state is renewed at any cost
LOG_UPDATES = 10_000
MAX_DEATHS = 3  # in a row, without a new update between
LONGEST_BACKOFF = 30.0


def backoff(failures: int) -> float:
    """Seconds to wait before what failed so often in a row is started again.

    >>> [backoff(failures) for failures in (1, 2, 3, 9)]
    [0.0, 1.0, 2.0, 30.0]
    """
    return 0.0 if failures < 2 else min(2.0 ** (failures - 2), LONGEST_BACKOFF)


@dataclass
class Credit:
    """Time that keeping the state may take: a share of all time.

    >>> credit = Credit(0.1)
    >>> credit.earn(5.0); credit.spend(1.0)
    False
    >>> credit.earn(5.0); credit.spend(1.0)
    True
    """

    share: float
    seconds: float = 0.0

    def earn(self, elapsed: float) -> None:
        self.seconds += self.share * elapsed

    def spend(self, cost: float) -> bool:
        """Whether there is enough; then it is gone. What is left over beyond one more is not saved up."""
        if self.seconds < cost:
            return False
        self.seconds = min(self.seconds - cost, cost)
        return True


class Recovery:
    """Keeps what a new learner needs, and builds one.

    Args:
        loop: The loop whose learner this is.
    """

    def __init__(self, loop: Any):
        self.loop = loop
        self.every: int | None = loop.config.learner.recover_every
        self.enabled = loop.backend.recovers and self.every != 0
        self.off_policy = loop.plan.off_policy
        self.base: RecoveryPoint | None = None
        self.since: list[UpdateOrder] = []  # updates made since `base`, oldest first
        self.current: UpdateOrder | None = None  # the update under way
        self.deaths = 0  # in a row
        self.restart_at: float | None = None
        self._pending: tuple[int, Any] | None = None  # version and handle of a state that is on its way
        self._hurry = False
        self._credit = Credit(COST_SHARE)
        self._cost = 0.0  # seconds that the newest state took
        self._at = time.monotonic()

    # ---- keeping ---------------------------------------------------------------------------------------------------

    def begin(self, folder: Path | None) -> None:
        """The learner stands; `folder`: the checkpoint that it came from."""
        if not self.enabled:
            return
        if self.off_policy and folder is not None:
            self.base = RecoveryPoint(self.loop.progress.version, folder=folder)
        else:
            self._ask()

    def ordered(self, data: Sequence[Any], progress: Progress) -> None:
        """An update begins."""
        self.current = UpdateOrder(data, progress)

    def done(self, nbytes: int) -> None:
        """The update under way was made; `nbytes`: size of its batch."""
        self.deaths = 0
        if not self.enabled or self.current is None:
            return
        self.since.append(UpdateOrder(self.current.data, self.current.progress, nbytes))
        self._take()
        now = time.monotonic()
        self._credit.earn(now - self._at)
        self._at = now
        full = self._hurry or len(self.since) >= LOG_UPDATES or self.nbytes() >= self._most_bytes()
        if self.off_policy:
            self._hurry = False
            if full and self.loop.saver.save(self.loop) is None:
                self.base, self.since = None, []  # no disk, no recovery; the checkpoint's problem was told
        elif self._pending is None and (full or self._due()):
            self._hurry = False
            self._ask()

    def withdrawn(self) -> None:
        """The update under way is not made."""
        self.current = None

    def machine_lost(self) -> None:
        """Batches since the newest state may be gone: keep a new one at the next boundary."""
        self._hurry = True

    def saved(self, folder: Path) -> None:
        """A checkpoint of the present boundary was written."""
        if self.enabled and self.off_policy:
            self._pending = None
            self._rebase(RecoveryPoint(self.loop.progress.version, folder=folder))

    def learner_state(self) -> Any:
        """The learner's state at this boundary: the kept one, if it is of here; else the learner is asked."""
        self._take()
        if self.base and self.base.state is not None and self.base.version == self.loop.progress.version:
            return self.loop.backend.unpacked(self.base.state)
        return self.loop.backend.learner_state()

    def nbytes(self) -> int:
        """Size of the batches that are kept."""
        return sum(batch.nbytes for batch in self.since)

    def _most_bytes(self) -> int:
        capacity = self.loop.backend.store_bytes()
        return min(LOG_BYTES, capacity // 5) if capacity else LOG_BYTES

    def _due(self) -> bool:
        if self.every is not None:
            return not self.base or self.since[-1].progress.update + 1 - self.base.version >= self.every
        return self._credit.spend(self._cost)

    def _ask(self) -> None:
        self._pending = self.loop.progress.version, self.loop.backend.keep_state()

    def _take(self) -> None:
        """Use the state that was asked for, if it is here."""
        if self._pending is None:
            return
        version, handle = self._pending
        kept = self.loop.backend.kept_state(handle)
        if kept is not None:
            self._cost, state = kept
            self._pending = None
            self._rebase(RecoveryPoint(version, state))

    def _rebase(self, base: RecoveryPoint) -> None:
        self.base = base
        self.since = [batch for batch in self.since if batch.progress.update >= base.version]

    # ---- building again --------------------------------------------------------------------------------------------

    def lost(self, reason: str, process: str = "learner") -> None:
        """The learner died or hung, or a part of it; its successor begins in a later turn.

        Raises:
            ResourceError: It cannot be built again, or dies again and again.
        """
        self._take()
        self._pending = None
        self.deaths += 1
        self.loop.monitor.event("died", process=process, reason=reason, version=self.loop.progress.version)
        problem = self._problem()
        if problem:
            self.loop.updating = False
            raise ResourceError(f"the {process} died: {reason}; {problem}", "Start again with --resume.")
        self.restart_at = time.monotonic() + backoff(self.deaths)

    def _problem(self) -> str:
        """Why it cannot be built again, or an empty string."""
        if not self.enabled:
            return "it is not built again (learner.recover_every is 0)."
        if self.deaths > MAX_DEATHS:
            return f"it is given up after {self.deaths} deaths in a row without an update between."
        if self.base is None:
            return "none of its states was kept yet."
        return ""

    def turn(self) -> None:
        """Called between the loop's turns: a successor begins when its time has come."""
        if self.restart_at is None or time.monotonic() < self.restart_at:
            return
        loop, base, self.restart_at = self.loop, self.base, None
        assert base is not None
        published = loop.backend.rebuild_learner(base, self.since)
        for version in published.keys() & loop.weights.keys():
            if not loop.backend.intact(loop.weights[version]):  # its node died with the learner
                loop.weights[version] = published[version]
        if loop.updating and self.current is not None:
            loop.backend.update(self.current.data, self.current.progress)
        loop.monitor.event(
            "restarted", process="learner", state_of_version=base.version, updates_made_again=len(self.since)
        )
