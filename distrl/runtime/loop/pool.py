"""Assignment of streams to samplers, their next units, and the streams' snapshots.

Streams move between two fragments, with their snapshots, so moving affects speed only. The siblings of an isolated
stream move at once: their running fragments are cut and regenerated elsewhere from the same snapshots.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from distrl.base.errors import ConfigError, EnvError, ResourceError
from distrl.experience.fragment import CollectRequest, FragmentMeta, Snapshot, Unit
from distrl.store.queue import Queue

MAX_LOSSES = 3  # of one sampler in a row, without a finished fragment between
MAX_BLAMED = 3  # losses in a row of samplers that collected one stream only
ISOLATED_SHARE = 4  # samplers per isolated stream; one stream can always be isolated

#: hosting: has streams. joining: gets streams once it is ready. draining: has lost its streams, its last call runs.
#: gone: no process.
SlotState = Literal["hosting", "joining", "draining", "gone"]


class Quarantined(EnvError):
    """A stream whose environments ended their sampler several times in a row."""

    def __init__(self, problem: str, fix: str, stream: int = -1):
        super().__init__(problem, fix)
        self.stream = stream


@dataclass
class SamplerSlot:
    """One sampler, known by its index for the whole run; times are those of `time.monotonic()`."""

    index: int
    streams: list[int]
    state: SlotState = "hosting"
    ready: bool = False
    busy: bool = False
    busy_since: float = 0.0
    hosts: set[int] = field(default_factory=set)  # streams whose environments it has built
    making: set[Unit] = field(default_factory=set)  # units of its present call that are still wanted
    isolated: int = -1  # the slow stream that it is reserved for
    losses: int = 0  # in a row
    away_since: float = field(default_factory=time.monotonic)  # while it is not ready
    restart_at: float | None = None  # of a lost process
    pid: int = 0
    node: str = ""
    env_steps: int = 0
    fragments: int = 0


@dataclass(frozen=True)
class Change:
    """Consequences of a change of the pool."""

    start: tuple[int, ...] = ()  # samplers to start
    end: tuple[int, ...] = ()  # samplers to end now
    moved: dict[int, tuple[int, int]] = field(default_factory=dict)  # stream -> (old sampler, new sampler)


class Pool:
    """Streams and their samplers; `samplers` is the initial number."""

    def __init__(self, streams: int, samplers: int, queue: Queue, max_staleness: int, deterministic: bool):
        self.queue, self.max_staleness, self.deterministic = queue, max_staleness, deterministic
        self.snapshots: list[Snapshot] = [None] * streams  # after the last finished fragments
        self.before: dict[Unit, Snapshot] = {}  # snapshots before waiting units that may be regenerated
        self.rolled_back: set[Unit] = set()  # running units after a lost fragment of their stream
        self.slots = [SamplerSlot(index, []) for index in range(samplers)]
        self.wanted = samplers  # without those reserved for isolated streams
        #: Stream -> losses of its sampler while it collected this stream only. Suspects are collected alone until they
        #: finish a fragment, so that the cause of a loss is known.
        self.suspects: dict[int, int] = {}
        self.running: dict[int, int] = {}  # stream -> the sampler that collects it now
        for stream in range(streams):
            self.slots[stream * samplers // streams].streams.append(stream)

    @property
    def size(self) -> int:
        """Number of samplers that stay: starting ones included, those of isolated streams excluded."""
        return len(self._staying())

    def _staying(self) -> list[SamplerSlot]:
        return [slot for slot in self.slots if slot.state in ("hosting", "joining") and slot.isolated < 0]

    def isolated(self) -> list[int]:
        return [slot.isolated for slot in self.slots if slot.isolated >= 0]

    def idle(self) -> list[SamplerSlot]:
        return [slot for slot in self.slots if slot.ready and not slot.busy]

    def sampler_of(self, stream: int) -> int:
        return next(slot.index for slot in self.slots if stream in slot.streams)

    def resize(self, samplers: int) -> Change:
        """Change the number of samplers.

        New samplers take the lowest free indices; starting and restarting ones leave first, then the highest indices.
        """
        streams = len(self.snapshots)
        if not 1 <= samplers <= streams:
            raise ConfigError(
                f"{samplers} samplers requested; a run of {streams} streams can use 1 to {streams}.",
                f"Give a number from 1 to {streams}; for more, start a run with more env.streams.",
            )
        self.wanted = samplers
        start = self._fill()
        there = sorted(self._staying(), key=lambda slot: (slot.state == "joining", not slot.ready, slot.index))
        leaving = there[samplers:]
        for slot in leaving:
            slot.state = "draining"
        moved = self.balance()
        return Change(start, tuple(slot.index for slot in leaving if self.end_if_drained(slot)), moved)

    def isolate(self, stream: int) -> Change | None:
        """Leave a slow stream alone in its sampler; return None if that is not possible.

        Another sampler is started for the siblings, which move once one is ready.
        """
        slot = self.slots[self.sampler_of(stream)]
        most = max(1, self.wanted // ISOLATED_SHARE)
        if slot.state != "hosting" or slot.streams == [stream] or len(self.isolated()) >= most:
            return None
        slot.isolated = stream
        start = self._fill()
        return Change(start, (), self.balance())

    def release(self, stream: int) -> dict[int, tuple[int, int]]:
        """End the isolation of a stream, keeping its sampler; return the streams that move."""
        for slot in self.slots:
            if slot.isolated == stream:
                slot.isolated = -1
        return self.balance()

    def _fill(self) -> tuple[int, ...]:
        """Add the samplers that are missing and can get streams; return the indices to start."""
        start: list[int] = []
        while self.size < min(self.wanted, len(self.snapshots) - len(self.isolated())):
            free = next((slot for slot in self.slots if slot.state == "gone"), None)
            if free is None:
                free = SamplerSlot(len(self.slots), [])
                self.slots.append(free)
            free.state, free.losses, free.restart_at = "joining", 0, None
            start.append(free.index)
        return tuple(start)

    def end_if_drained(self, slot: SamplerSlot) -> bool:
        """Mark a draining sampler without running fragments as gone; return True if it was one."""
        if slot.state != "draining" or slot.busy:
            return False
        slot.state, slot.ready, slot.hosts, slot.restart_at = "gone", False, set(), None
        return True

    def joined(self, slot: SamplerSlot, pid: int, node: str) -> dict[int, tuple[int, int]]:
        """Mark a sampler as ready, and give a new one its share; return the streams that move."""
        slot.ready, slot.pid, slot.node = True, pid, node
        if slot.state == "joining":
            slot.state = "hosting"
            return self.balance()
        return {}

    def reassign(self, away: Sequence[SamplerSlot]) -> dict[int, tuple[int, int]]:
        """Give the streams of absent samplers to the others until they join again."""
        for slot in away:
            slot.state, slot.isolated = "joining", -1
        return self.balance()

    def balance(self) -> dict[int, tuple[int, int]]:
        """Spread the streams evenly with the fewest moves; return stream -> (old, new) sampler.

        A sampler reserved for a slow stream hosts only that one, once another can take its siblings.
        """
        hosting = [slot for slot in self._staying() if slot.state == "hosting"]
        if not hosting:
            return {}
        share, rest = divmod(len(self.snapshots) - len(self.isolated()), len(hosting))
        # Samplers with the most streams keep the larger shares, which moves the fewest.
        hosting.sort(key=lambda slot: (-len(slot.streams), slot.index))
        shares = {slot.index: share + (place < rest) for place, slot in enumerate(hosting)}
        before = {stream: slot.index for slot in self.slots for stream in slot.streams}
        unassigned: list[int] = []
        for slot in self.slots:
            kept = slot.streams[: shares.get(slot.index, 0)] if slot.isolated < 0 else [slot.isolated]
            unassigned += [stream for stream in slot.streams if stream not in kept]
            slot.streams = kept
        for slot in sorted(hosting, key=lambda slot: slot.index):
            taken = shares[slot.index] - len(slot.streams)
            slot.streams = sorted(slot.streams + unassigned[:taken])
            unassigned = unassigned[taken:]
        moved = {}
        for slot in hosting:
            for stream in slot.streams:
                if before[stream] != slot.index:
                    moved[stream] = (before[stream], slot.index)
                    self._leave(self.slots[before[stream]], stream)
        return moved

    def _leave(self, old: SamplerSlot, stream: int) -> None:
        """Remove a moved stream from a sampler; cut its fragment if an isolated stream delays it."""
        old.hosts.discard(stream)
        if old.isolated < 0:
            return
        for unit in [unit for unit in old.making if unit.stream == stream]:
            old.making.remove(unit)
            self._ended(old, [unit])
            self.queue.cut(unit)

    def orders(self, slot: SamplerSlot, version: int) -> list[CollectRequest]:
        """Return requests for an idle sampler: units of one version, at most one per stream.

        A stream that its old sampler still collects is left out. `version` is the newest published one.
        """
        free = [self.queue.admit(stream, version) for stream in slot.streams if stream not in self.running]
        units = [unit for unit in free if unit is not None]
        if self.deterministic:  # fragment n is collected with version max(0, n - k)
            wanted = [(max(0, unit.seq - self.max_staleness), unit) for unit in units]
        else:
            wanted = [(version, unit) for unit in units]
        wanted = [(needed, unit) for needed, unit in wanted if unit.stream in self.suspects][:1] or wanted
        requests = []
        for needed, unit in wanted:
            if needed == min(wanted)[0]:
                new = unit.stream not in slot.hosts
                requests.append(CollectRequest(unit, needed, self.snapshots[unit.stream] if new else None, new))
        return requests

    def started(self, slot: SamplerSlot, requests: list[CollectRequest]) -> None:
        slot.busy, slot.busy_since = True, time.monotonic()
        for request in requests:
            self.queue.start(request.unit)
            self.running[request.unit.stream] = slot.index
            slot.making.add(request.unit)
            slot.hosts.add(request.unit.stream)

    def finished(self, slot: SamplerSlot, metas: Sequence[FragmentMeta]) -> list[FragmentMeta]:
        """Record a sampler's answer; return the fragments that are still wanted from it."""
        metas = [meta for meta in metas if meta.unit in slot.making]
        slot.busy, slot.making, slot.losses = False, set(), 0
        slot.fragments += len(metas)
        slot.env_steps += sum(meta.env_steps for meta in metas)
        self._ended(slot, [meta.unit for meta in metas])
        for meta in metas:
            self.suspects.pop(meta.unit.stream, None)
            if meta.unit not in self.rolled_back:
                if self.queue.ordered:
                    self.before[meta.unit] = self.snapshots[meta.unit.stream]
                self.snapshots[meta.unit.stream] = meta.snapshot
            meta.snapshot = None  # held once, in `snapshots`
        return metas

    def rewind(self, unit: Unit) -> int | None:
        """Restore a stream to the snapshot before `unit`; return the sampler that hosts it, if any."""
        self.snapshots[unit.stream] = self.before[unit]
        for slot in self.slots:
            if unit.stream in slot.hosts:
                slot.hosts.discard(unit.stream)
                return slot.index
        return None

    def consumed(self, metas: Sequence[FragmentMeta]) -> None:
        for meta in metas:
            self.before.pop(meta.unit, None)

    def stopped(self, slot: SamplerSlot, requests: Sequence[CollectRequest]) -> None:
        units = [request.unit for request in requests if request.unit in slot.making]
        slot.busy = False
        slot.making -= set(units)
        self._ended(slot, units)
        for unit in units:
            self.queue.cut(unit)
            self.rolled_back.discard(unit)

    def lost(self, slot: SamplerSlot, requests: list[CollectRequest], reason: str, hopeless: bool = False) -> bool:
        """Record the loss of a sampler: cut its units, and rebuild its streams from snapshots.

        Return True if a new process should replace it; raise after too many losses of the sampler or with one stream.
        """
        if slot.ready:
            slot.away_since = time.monotonic()
        slot.ready, slot.hosts, slot.losses = False, set(), slot.losses + 1
        requests = [request for request in requests if request.unit in slot.making]
        self.stopped(slot, requests)
        self._blame(requests, reason)
        if self.end_if_drained(slot):
            return False
        if (hopeless or slot.losses > MAX_LOSSES) and slot.state == "joining":
            slot.state = "gone"
            return False
        if hopeless:
            raise ResourceError(f"sampler {slot.index} cannot be started: {reason}.", "Set samplers.cpus lower.")
        if slot.losses > MAX_LOSSES:
            raise ResourceError(
                f"sampler {slot.index} (streams {slot.streams}) was lost {slot.losses} times in a row: {reason}",
                "Check the environment with distrl doctor, memory with free, and samplers.timeout if steps are slow.",
            )
        return True

    def _blame(self, requests: Sequence[CollectRequest], reason: str) -> None:
        """Suspect the streams of a failed call; count the loss against a stream alone in it."""
        for request in requests:
            self.suspects.setdefault(request.unit.stream, 0)
        if len(requests) != 1:
            return
        unit = requests[0].unit
        self.suspects[unit.stream] += 1
        if self.suspects[unit.stream] >= MAX_BLAMED:
            raise Quarantined(
                f"stream {unit.stream} ended its sampler {MAX_BLAMED} times in a row while only its fragment "
                f"{unit.seq} was collected ({reason}). {place(self.snapshots[unit.stream])}",
                "Fix the environment (distrl doctor), or set samplers.timeout higher if its steps are slow; then "
                "continue with --resume: nothing is lost.",
                unit.stream,
            )

    def _ended(self, slot: SamplerSlot, units: Sequence[Unit]) -> None:
        """Record that units no longer run; forget streams that moved away meanwhile."""
        for unit in units:
            self.running.pop(unit.stream, None)
            if unit.stream not in slot.streams:
                slot.hosts.discard(unit.stream)


def place(snapshot: Snapshot) -> str:
    """Describe the position of a stream after its last finished fragment."""
    if not snapshot:
        return "It had not finished a fragment before."
    env = snapshot["env"]
    places = [
        f"environment {index}: episode {episode}, seed {seed}, step {len(actions)}"
        for index, (episode, seed, actions) in enumerate(zip(env["episode"], env["seed"], env["actions"], strict=True))
    ]
    return f"Before that fragment it was at {'; '.join(places[:4])}{'; ...' if len(places) > 4 else ''}."
