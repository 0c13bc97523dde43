"""Which sampler hosts which streams, what each may do next, and where each stream stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distrl.base.errors import ResourceError
from distrl.experience.fragment import CollectRequest, FragmentMeta, Unit
from distrl.store.queue import Queue

MAX_LOSSES = 3  # of one sampler in a row, without a finished fragment between


@dataclass
class SamplerSlot:
    """One sampler as the loop sees it."""

    index: int
    streams: list[int]
    ready: bool = False
    busy: bool = False
    hosts: set[int] = field(default_factory=set)  # streams whose environments it has built
    losses: int = 0
    pid: int = 0


class Pool:
    """Streams and the samplers they live in.

    Args:
        streams: Number of streams.
        samplers: Number of samplers; stream s lives in sampler s * samplers // streams.
        queue: Decides what may start.
        max_staleness: k.
        deterministic: Fragment n is made with version max(0, n - k), exactly.
    """

    def __init__(self, streams: int, samplers: int, queue: Queue, max_staleness: int, deterministic: bool):
        self.queue = queue
        self.max_staleness = max_staleness
        self.deterministic = deterministic
        self.snapshots: list[Any] = [None] * streams  # of each stream, after its last finished fragment
        self.slots = [SamplerSlot(index, []) for index in range(samplers)]
        for stream in range(streams):
            self.slots[stream * samplers // streams].streams.append(stream)

    def idle(self) -> list[SamplerSlot]:
        return [slot for slot in self.slots if slot.ready and not slot.busy]

    def orders(self, slot: SamplerSlot, version: int) -> list[CollectRequest]:
        """What an idle sampler may do now: units of one weight version, one for each of its streams that is not ahead.

        Args:
            version: The newest published version.
        """
        units = [self.queue.admit(stream, version) for stream in slot.streams]
        wanted = [(unit, self.version_for(unit, version)) for unit in units if unit is not None]
        if not wanted:
            return []
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
        slot.busy = True
        for request in requests:
            self.queue.start(request.unit)
            slot.hosts.add(request.unit.stream)

    def finished(self, slot: SamplerSlot, metas: list[FragmentMeta]) -> None:
        slot.busy = False
        slot.losses = 0
        for meta in metas:
            self.snapshots[meta.unit.stream] = meta.snapshot
            meta.snapshot = None  # kept here, once

    def lost(self, slot: SamplerSlot, requests: list[CollectRequest], reason: str) -> None:
        """The sampler is gone: its unfinished units are cut, and its streams will be built anew from their snapshots.

        Raises:
            ResourceError: It was lost too often in a row.
        """
        slot.ready = slot.busy = False
        slot.hosts = set()
        slot.losses += 1
        for request in requests:
            self.queue.cut(request.unit)
        if slot.losses > MAX_LOSSES:
            raise ResourceError(
                f"sampler {slot.index} (streams {slot.streams}) was lost {slot.losses} times in a row: {reason}",
                "Check the environment with distrl doctor, memory with free, and samplers.timeout if steps are slow.",
            )
