"""Time by process and phase, and the bottleneck of a run."""

from __future__ import annotations

from collections.abc import Mapping

from distrl.base.phases import Phases


class TimeShares:
    """Phase times of all processes, as totals and as shares since the last reading."""

    def __init__(self, phases: Phases):
        self.phases = phases
        self.totals: dict[str, dict[str, float]] = {}
        self._read: dict[str, dict[str, float]] = {}

    def add(self, process: str, seconds: Mapping[str, float]) -> None:
        """Add the times of a sampler or learner since its last report."""
        total = self.totals.setdefault(process, {})
        for name, value in seconds.items():
            total[name] = total.get(name, 0.0) + value

    def seconds(self) -> dict[str, dict[str, float]]:
        """Return the seconds by process and phase, this process included."""
        return {"loop": self.phases.read(), **self.totals}

    def since_last(self) -> dict[str, dict[str, float]]:
        """Return the shares by process and phase since the last call; they sum to 1 per process."""
        shares: dict[str, dict[str, float]] = {}
        now = {process: dict(phases) for process, phases in self.seconds().items()}
        for process, phases in now.items():
            before = self._read.get(process, {})
            spent = {name: value - before.get(name, 0.0) for name, value in phases.items()}
            total = sum(spent.values())
            if total > 0:
                shares[process] = {name: value / total for name, value in spent.items()}
        self._read = now
        return shares


def limit(shares: Mapping[str, Mapping[str, float]]) -> str:
    """Name the bottleneck: the process that waits least, and its largest phase.

    >>> limit({"loop": {"wait": .9}, "learner": {"wait": .7, "learn": .3}, "sampler": {"env": .8, "policy": .2}})
    'sampler: env 80%'
    """
    workers = {process: phases for process, phases in shares.items() if process != "loop"} or shares
    if not workers:
        return ""
    process = min(workers, key=lambda name: workers[name].get("wait", 0.0))
    phase = max((name for name in workers[process] if name != "wait"), key=lambda name: workers[process][name])
    return f"{process}: {phase} {workers[process][phase]:.0%}"
