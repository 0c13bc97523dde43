"""Rebuilds a dead learner without losing an update.

An update is a function of (state, batch, seed, number): a new process that loads a kept state and repeats the updates
since reaches a bit-identical one. See docs/internals.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distrl.base.errors import ResourceError
from distrl.base.pack import State, unpack
from distrl.runtime.loop.state import RunState, Services
from distrl.runtime.protocol.orders import Handle, RecoveryPoint, UpdateOrder

COST_SHARE = 0.03  # largest share of the run's time for keeping the state
LOG_BYTES = 2**28  # of batches, before the state is renewed at any cost
LOG_UPDATES = 10_000
MAX_DEATHS = 3  # in a row, without an update between
LONGEST_BACKOFF = 30.0


def backoff(failures: int) -> float:
    """Return the seconds before a restart after this many failures in a row.

    >>> [backoff(failures) for failures in (1, 2, 3, 9)]
    [0.0, 1.0, 2.0, 30.0]
    """
    return 0.0 if failures < 2 else min(2.0 ** (failures - 2), LONGEST_BACKOFF)


@dataclass
class Credit:
    """Time budget for keeping the state: a share of all time."""

    share: float
    seconds: float = 0.0

    def earn(self, elapsed: float) -> None:
        self.seconds += self.share * elapsed

    def spend(self, cost: float) -> bool:
        """Spend `cost` if there is enough; keep at most another `cost` of the rest."""
        if self.seconds < cost:
            return False
        self.seconds = min(self.seconds - cost, cost)
        return True


class Recovery:
    """Keeps the state for a new learner, and rebuilds it; `save` writes a checkpoint."""

    def __init__(self, state: RunState, services: Services, save: Callable[[], Path | None]):
        self.state, self.backend, self.monitor, self.save = state, services.backend, services.monitor, save
        self.every: int | None = state.config.learner.recover_every
        self.enabled = self.backend.recovers and self.every != 0
        self.off_policy = state.plan.off_policy
        self.base: RecoveryPoint | None = None  # the newest state that a new learner can start from
        self.since: list[UpdateOrder] = []  # updates after `base`, oldest first
        self.current: UpdateOrder | None = None  # the running update
        self.deaths = 0  # in a row
        self.restart_at: float | None = None  # time.monotonic() of the next restart
        self._pending: tuple[int, Handle] | None = None  # version and handle of a requested state
        self._urgent = False
        self._credit = Credit(COST_SHARE)
        self._cost = 0.0  # seconds that the newest state took
        self._at = time.monotonic()

    def begin(self, folder: Path | None) -> None:
        """Start with the ready learner and the checkpoint folder that it came from, if any."""
        if not self.enabled:
            return
        if self.off_policy and folder is not None:
            self.base = RecoveryPoint(self.state.progress.version, folder=folder)
        else:
            self._request_state()

    def record_update(self, nbytes: int) -> None:
        """Record the finished update and the size of its batch; renew the state if due."""
        self.deaths = 0
        if not self.enabled or self.current is None:
            return
        self.since.append(UpdateOrder(self.current.data, self.current.progress, nbytes))
        self._receive_state()
        now = time.monotonic()
        self._credit.earn(now - self._at)
        self._at = now
        most_bytes = min(LOG_BYTES, (self.backend.store_bytes() or 5 * LOG_BYTES) // 5)
        full = self._urgent or len(self.since) >= LOG_UPDATES or self.nbytes() >= most_bytes
        if self.off_policy:
            self._urgent = False
            if full and self.save() is None:
                self.base, self.since = None, []  # without a checkpoint no recovery; the saver has reported why
        elif self._pending is None and (full or self._due()):
            self._urgent = False
            self._request_state()

    def node_lost(self) -> None:
        """Renew the state at the next boundary, as kept batches may be gone."""
        self._urgent = True

    def record_checkpoint(self, folder: Path) -> None:
        """Use the checkpoint of this boundary as the new base of an off-policy learner."""
        if self.enabled and self.off_policy:
            self._pending = None
            self._rebase(RecoveryPoint(self.state.progress.version, folder=folder))

    def learner_state(self) -> State:
        """Return the learner's state at this boundary, from the kept one if it is current."""
        self._receive_state()
        if self.base and self.base.state is not None and self.base.version == self.state.progress.version:
            return unpack(*self.base.state)
        return self.backend.ask_learner("state")

    def nbytes(self) -> int:
        return sum(batch.nbytes for batch in self.since)

    def _due(self) -> bool:
        if self.every is not None:
            return not self.base or self.since[-1].progress.update + 1 - self.base.version >= self.every
        return self._credit.spend(self._cost)

    def _request_state(self) -> None:
        self._pending = self.state.progress.version, self.backend.keep_state()

    def _receive_state(self) -> None:
        if self._pending is None:
            return
        version, handle = self._pending
        kept = self.backend.kept_state(handle)
        if kept is not None:
            self._cost, state = kept
            self._pending = None
            self._rebase(RecoveryPoint(version, state))

    def _rebase(self, base: RecoveryPoint) -> None:
        self.base = base
        self.since = [batch for batch in self.since if batch.progress.update >= base.version]

    def learner_lost(self, reason: str, process: str = "learner") -> None:
        """Schedule the restart of a dead or hung learner; raise if it cannot be rebuilt."""
        self._receive_state()
        self._pending = None
        self.deaths += 1
        self.monitor.event("died", process=process, reason=reason, version=self.state.progress.version)
        problem = ""
        if not self.enabled:
            problem = "it is not rebuilt (learner.recover_every is 0)."
        elif self.deaths > MAX_DEATHS:
            problem = f"it is given up after {self.deaths} deaths in a row without an update between."
        elif self.base is None:
            problem = "none of its states has been kept yet."
        if problem:
            self.state.updating = False
            raise ResourceError(f"the {process} died: {reason}; {problem}", "Start again with --resume.")
        self.restart_at = time.monotonic() + backoff(self.deaths)

    def poll(self) -> None:
        """Rebuild the learner if its restart is due."""
        if self.restart_at is None or time.monotonic() < self.restart_at:
            return
        state, base, self.restart_at = self.state, self.base, None
        assert base is not None
        published = self.backend.rebuild_learner(base, self.since)
        for version in published.keys() & state.weights.keys():
            if not self.backend.intact(state.weights[version]):  # its node died with the learner
                state.weights[version] = published[version]
        if state.updating and self.current is not None:
            self.backend.update(self.current.data, self.current.progress)
        facts = {"state_of_version": base.version, "repeated_updates": len(self.since)}
        self.monitor.event("restarted", process="learner", **facts)
