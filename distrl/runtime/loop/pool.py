"""Which sampler hosts which streams, what each may do next, and where each stream stands.

Samplers come and go by command while the run goes on: a newcomer hosts nothing until it is ready, then streams move to
it; a sampler that leaves hosts nothing from then on and goes once its running fragments are done. A stream moves
between two of its fragments, with its snapshot, so where it lives changes speed and never its experience.

A slow stream can be set apart: it keeps its sampler, where its fragment goes on, and its siblings leave at once. What
the call was making of them is taken back, and made again elsewhere from the same snapshots.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distrl.base.errors import ConfigError, EnvError, ResourceError
from distrl.experience.fragment import CollectRequest, FragmentMeta, Unit
from distrl.store.queue import Queue

MAX_LOSSES = 3  # of one sampler in a row, without a finished fragment between
MAX_BLAMED = 3  # of samplers while they made nothing but one stream's fragment, in a row
ISOLATED_SHARE = 4  # one stream can be set apart for every so many samplers, and always one

#: hosting: has streams, or will as soon as it is back. joining: has none before it is ready. draining: has none any
#: more, its last call runs. gone: no process.
State = Literal["hosting", "joining", "draining", "gone"]


class Quarantined(EnvError):
    """A stream whose environments end their sampler again and again.

    Args:
        stream: Which.
        reason: How the sampler ended the last time.
    """

    def __init__(self, problem: str, fix: str, stream: int = -1):
        super().__init__(problem, fix)
        self.stream = stream


@dataclass
class SamplerSlot:
    """One sampler as the loop sees it. Its index is its name for the whole run."""

    index: int
    streams: list[int]
    state: State = "hosting"
    ready: bool = False
    busy: bool = False
    busy_since: float = 0.0  # time.monotonic()
    hosts: set[int] = field(default_factory=set)  # streams whose environments it has built
    making: set[Unit] = field(default_factory=set)  # what is wanted of its present call
    isolated: int = -1  # the slow stream that it is kept for; not one of the samplers that were asked for, then
    losses: int = 0
    away_since: float = field(default_factory=time.monotonic)  # while it is not ready
    restart_at: float | None = None  # time.monotonic() at which a lost process gets its successor
    pid: int = 0
    node: str = ""
    env_steps: int = 0  # made by this slot, all its processes together
    fragments: int = 0


@dataclass(frozen=True)
class Change:
    """What a new number of samplers asks of the back end.

    Attributes:
        start: Samplers to start.
        end: Samplers to end now: they have nothing running.
        moved: Stream -> (old sampler, new sampler), for streams that live elsewhere from now on.
    """

    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    moved: dict[int, tuple[int, int]] = field(default_factory=dict)


class Pool:
    """Streams and the samplers they live in.

    Args:
        streams: Number of streams.
        samplers: Number of samplers at the start; stream s lives in sampler s * samplers // streams.
        queue: Decides what may start.
        max_staleness: k.
        deterministic: Fragment n is made with version max(0, n - k), exactly.
    """

    def __init__(self, streams: int, samplers: int, queue: Queue, max_staleness: int, deterministic: bool):
        self.queue = queue
        self.max_staleness = max_staleness
        self.deterministic = deterministic
        self.snapshots: list[Any] = [None] * streams  # of each stream, after its last finished fragment
        self.before: dict[Unit, Any] = {}  # the snapshot before each waiting fragment that might be made again
        self.rolled_back: set[Unit] = (
            set()
        )  # running, but a fragment before them was lost: they will count as rolled_back
        self.slots = [SamplerSlot(index, []) for index in range(samplers)]
        self.wanted = samplers  # beside those that are kept for a slow stream
        #: streams whose last fragment was not finished because the sampler was lost, and how often it was lost with
        #: nothing else to do: each is made alone until it has finished one, so that the guilty one is known
        self.suspects: dict[int, int] = {}
        self.running: dict[int, int] = {}  # stream -> the sampler that makes its next fragment right now
        for stream in range(streams):
            self.slots[stream * samplers // streams].streams.append(stream)

    # ---- who is there ----------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Samplers that are there to stay, those still starting included, those of slow streams not."""
        return len(self._staying())

    def _staying(self) -> list[SamplerSlot]:
        return [slot for slot in self.slots if slot.state in ("hosting", "joining") and slot.isolated < 0]

    def isolated(self) -> list[int]:
        """Streams that are set apart."""
        return [slot.isolated for slot in self.slots if slot.isolated >= 0]

    def idle(self) -> list[SamplerSlot]:
        return [slot for slot in self.slots if slot.ready and not slot.busy]

    def sampler_of(self, stream: int) -> int:
        """The sampler that a stream lives in."""
        return next(slot.index for slot in self.slots if stream in slot.streams)

    def resize(self, samplers: int) -> Change:
        """Ask for another number of samplers.

        Newcomers take the lowest free indices. Those that leave are first the ones still starting, then the highest.

        Raises:
            ConfigError: Fewer than one, or more than streams.
        """
        streams = len(self.snapshots)
        if not 1 <= samplers <= streams:
            raise ConfigError(
                f"{samplers} samplers asked for; a run of {streams} streams can use 1 to {streams}.",
                f"Give a number from 1 to {streams}; for more, start a run with more env.streams.",
            )
        self.wanted = samplers
        start = self._fill()
        leaving = self._leaving(self.size - samplers)
        for slot in leaving:
            slot.state = "draining"
        moved = self.balance()
        return Change(start, tuple(slot.index for slot in leaving if self.take_leave(slot)), moved)

    def isolate(self, stream: int) -> Change | None:
        """Leave a slow stream the sampler that it lives in, and move its siblings; None where it cannot be.

        Another sampler is started, so that those who are not slow have as many as before. Where none of them is ready,
        they stay until one is.
        """
        slot = self.slots[self.sampler_of(stream)]
        most = max(1, self.wanted // ISOLATED_SHARE)
        if slot.state != "hosting" or slot.streams == [stream] or len(self.isolated()) >= most:
            return None
        slot.isolated = stream
        start = self._fill()
        return Change(start, (), self.balance())

    def release(self, stream: int) -> dict[int, tuple[int, int]]:
        """A stream that was set apart is slow no more; its sampler stays. Returns the streams that move."""
        for slot in self.slots:
            if slot.isolated == stream:
                slot.isolated = -1
        return self.balance()

    def _fill(self) -> tuple[int, ...]:
        """Have as many samplers start as were asked for, and find work: those that start, by their indices."""
        start: list[int] = []
        while self.size < min(self.wanted, len(self.snapshots) - len(self.isolated())):
            free = next((slot for slot in self.slots if slot.state == "gone"), None)
            if free is None:
                free = SamplerSlot(len(self.slots), [])
                self.slots.append(free)
            free.state, free.losses, free.restart_at = "joining", 0, None
            start.append(free.index)
        return tuple(start)

    def _leaving(self, count: int) -> list[SamplerSlot]:
        """Those who go: first the ones still starting, then the ones being restarted, then the highest indices."""
        there = self._staying()
        there.sort(key=lambda slot: (slot.state == "joining", not slot.ready, slot.index))
        return there[len(there) - count :] if count > 0 else []

    def take_leave(self, slot: SamplerSlot) -> bool:
        """Whether a draining sampler has nothing running, and so is gone now."""
        if slot.state != "draining" or slot.busy:
            return False
        slot.state, slot.ready, slot.hosts, slot.restart_at = "gone", False, set(), None
        return True

    def joined(self, slot: SamplerSlot, pid: int, node: str) -> dict[int, tuple[int, int]]:
        """A sampler is ready; a newcomer gets its share of the streams. Returns the streams that move."""
        slot.ready, slot.pid, slot.node = True, pid, node
        if slot.state == "joining":
            slot.state = "hosting"
            return self.balance()
        return {}

    def reassign(self, away: Sequence[SamplerSlot]) -> dict[int, tuple[int, int]]:
        """Samplers that are not there give their streams to those that are, until they join again."""
        for slot in away:
            slot.state, slot.isolated = "joining", -1
        return self.balance()

    def balance(self) -> dict[int, tuple[int, int]]:
        """Spread the streams evenly over hosting samplers, moving as few as can be; stream -> (old, new) sampler.

        A sampler that is kept for a slow stream hosts that one, as soon as there is another for its siblings.
        """
        hosting = [slot for slot in self._staying() if slot.state == "hosting"]
        if not hosting:
            return {}
        share, rest = divmod(len(self.snapshots) - len(self.isolated()), len(hosting))
        # Whoever has most keeps the larger share: that moves fewest.
        hosting.sort(key=lambda slot: (-len(slot.streams), slot.index))
        shares = {slot.index: share + (place < rest) for place, slot in enumerate(hosting)}
        before = {stream: slot.index for slot in self.slots for stream in slot.streams}
        homeless: list[int] = []
        for slot in self.slots:
            kept = slot.streams[: shares.get(slot.index, 0)] if slot.isolated < 0 else [slot.isolated]
            homeless += [stream for stream in slot.streams if stream not in kept]
            slot.streams = kept
        for slot in sorted(hosting, key=lambda slot: slot.index):
            taken = shares[slot.index] - len(slot.streams)
            slot.streams = sorted(slot.streams + homeless[:taken])
            homeless = homeless[taken:]
        moved = {}
        for slot in hosting:
            for stream in slot.streams:
                if before[stream] != slot.index:
                    moved[stream] = (before[stream], slot.index)
                    self._leave(self.slots[before[stream]], stream)
        return moved

    def _leave(self, old: SamplerSlot, stream: int) -> None:
        """A stream moves away from a sampler; a call that a slow stream holds up is not waited for."""
        old.hosts.discard(stream)
        if old.isolated < 0:
            return
        for unit in [unit for unit in old.making if unit.stream == stream]:
            old.making.remove(unit)
            self._ended(old, [unit])
            self.queue.cut(unit)

    # ---- work ------------------------------------------------------------------------------------------------------

    def orders(self, slot: SamplerSlot, version: int) -> list[CollectRequest]:
        """What an idle sampler may do now: units of one weight version, one for each of its streams that is not ahead.

        A stream that moves here while its old sampler still makes a fragment of it waits for that.

        Args:
            version: The newest published version.
        """
        units = [self.queue.admit(stream, version) for stream in slot.streams if stream not in self.running]
        wanted = [(unit, self.version_for(unit, version)) for unit in units if unit is not None]
        if not wanted:
            return []
        suspects = [item for item in wanted if item[0].stream in self.suspects]
        wanted = suspects[:1] or wanted
        first = min(needed for _, needed in wanted)
        requests = []
        for unit, needed in wanted:
            if needed != first:
                continue
            home = unit.stream not in slot.hosts
            requests.append(CollectRequest(unit, needed, self.snapshots[unit.stream] if home else None, home))
        return requests

    def version_for(self, unit: Unit, version: int) -> int:
        """The weight version that a unit is made with: the virtual clock's, or the newest."""
        return max(0, unit.seq - self.max_staleness) if self.deterministic else version

    def started(self, slot: SamplerSlot, requests: list[CollectRequest]) -> None:
        slot.busy, slot.busy_since = True, time.monotonic()
        for request in requests:
            self.queue.start(request.unit)
            self.running[request.unit.stream] = slot.index
            slot.making.add(request.unit)
            slot.hosts.add(request.unit.stream)

    def finished(self, slot: SamplerSlot, metas: Sequence[FragmentMeta]) -> list[FragmentMeta]:
        """A sampler answers. Returns what is still wanted of it: some streams may be made elsewhere by now."""
        metas = [meta for meta in metas if meta.unit in slot.making]
        slot.busy, slot.making = False, set()
        slot.losses = 0
        slot.fragments += len(metas)
        slot.env_steps += sum(meta.env_steps for meta in metas)
        self._ended(slot, [meta.unit for meta in metas])
        for meta in metas:
            self.suspects.pop(meta.unit.stream, None)
            if meta.unit not in self.rolled_back:
                if self.queue.ordered:
                    self.before[meta.unit] = self.snapshots[meta.unit.stream]
                self.snapshots[meta.unit.stream] = meta.snapshot
            meta.snapshot = None  # kept here, once
        return metas

    def rewind(self, unit: Unit) -> int | None:
        """The unit will be made again, from the snapshot before it; returns the sampler that is beyond it."""
        self.snapshots[unit.stream] = self.before[unit]
        host = next((slot for slot in self.slots if unit.stream in slot.hosts), None)
        if host is None:
            return None
        host.hosts.discard(unit.stream)
        return host.index

    def consumed(self, metas: Sequence[FragmentMeta]) -> None:
        """These fragments will not be made again."""
        for meta in metas:
            self.before.pop(meta.unit, None)

    def stopped(self, slot: SamplerSlot, requests: Sequence[CollectRequest]) -> None:
        """What the sampler was making will not become whole."""
        units = [request.unit for request in requests if request.unit in slot.making]
        slot.busy = False
        slot.making -= set(units)
        self._ended(slot, units)
        for unit in units:
            self.queue.cut(unit)
            self.rolled_back.discard(unit)

    def lost(self, slot: SamplerSlot, requests: list[CollectRequest], reason: str, hopeless: bool = False) -> bool:
        """The sampler is gone: its unfinished units are cut, and its streams will be built anew from their snapshots.

        Returns:
            Whether a new process should take its place. Not where it was leaving anyway, and not where a newcomer
            never got ready: the run goes on without that one.

        Raises:
            Quarantined: Again and again with one stream.
            ResourceError: It was lost too often in a row, or there is no room for it anywhere.
        """
        if slot.ready:
            slot.away_since = time.monotonic()
        slot.ready = False
        slot.hosts = set()
        slot.losses += 1
        requests = [request for request in requests if request.unit in slot.making]
        self.stopped(slot, requests)
        self._blame(requests, reason)
        if self.take_leave(slot):
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
        """Whose environment may it have been? Alone in its call: that one's."""
        for request in requests:
            self.suspects.setdefault(request.unit.stream, 0)
        if len(requests) != 1:
            return
        unit = requests[0].unit
        self.suspects[unit.stream] += 1
        if self.suspects[unit.stream] >= MAX_BLAMED:
            raise Quarantined(
                f"stream {unit.stream} ended its sampler {MAX_BLAMED} times in a row while nothing but its fragment "
                f"{unit.seq} was made ({reason}). {place(self.snapshots[unit.stream])}",
                "Mend the environment (distrl doctor), or set samplers.timeout higher if its steps are slow; then "
                "continue with --resume: nothing is lost.",
                unit.stream,
            )

    def _ended(self, slot: SamplerSlot, units: Sequence[Unit]) -> None:
        """Nothing of these streams runs any more; a stream that moved away meanwhile is hosted here no longer."""
        for unit in units:
            self.running.pop(unit.stream, None)
            if unit.stream not in slot.streams:
                slot.hosts.discard(unit.stream)


def place(snapshot: Any) -> str:
    """Where a stream stood after its last whole fragment, in words."""
    if not snapshot:
        return "It had not finished a fragment that can be gone back to."
    env = snapshot["env"]
    places = [
        f"environment {index}: episode {episode}, seed {seed}, step {len(actions)}"
        for index, (episode, seed, actions) in enumerate(zip(env["episode"], env["seed"], env["actions"], strict=True))
    ]
    return f"Before that fragment it stood at {'; '.join(places[:4])}{'; ...' if len(places) > 4 else ''}."
