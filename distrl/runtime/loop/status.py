"""`StatusWriter`: the record behind `distrl status`, made about once a second."""

from __future__ import annotations

import os
import platform
import time
from typing import cast

from distrl.runtime.loop.loop import Loop
from distrl.runtime.loop.pool import SamplerSlot
from distrl.runtime.loop.state import RunState


class StatusWriter:
    """Makes status records; keeps the previous counts for rates."""

    def __init__(self, attempt: int):
        self.attempt = attempt
        self._made: dict[int, tuple[float, int]] = {}  # sampler -> time and env_steps when its rate was last read

    def record(self, loop: Loop, state: str = "running") -> dict[str, object]:
        """Return the present status as JSON values; `state` is `running`, or how the run ended."""
        run, config, saver = loop.state, loop.config, loop.saver
        progress, stop, view = run.progress, config.stop, loop.monitor.view()
        phases = cast(dict[str, float], view.facts.get("phases", {}))
        return {
            "name": config.name,
            "state": state,
            "attempt": self.attempt,
            "time": time.time(),
            "host": platform.node(),
            "pid": os.getpid(),
            "folder": str(loop.services.folder.path.absolute()),
            "backend": config.backend,
            "env": config.env_or_task,
            "algorithm": config.algorithm["name"],
            "wall_s": round(progress.wall_seconds, 1),
            "env_steps": progress.env_steps,
            "goal": {"env_steps": stop.steps, "updates": stop.updates, "return_mean": stop.return_mean},
            "version": progress.version,
            "updating": run.updating,
            "env_steps_per_s": round(view.steps_per_s, 1),
            "updates_per_s": round(view.updates_per_s, 3),
            "return_mean": progress.return_mean,
            "eval_return_mean": progress.last_eval,
            "staleness": view.facts.get("staleness"),
            "staleness_max": run.ledger.staleness_max,
            "staleness_bound": config.store.max_staleness,
            "waiting": len(run.queue),
            "waits": loop.waits.record(),
            "limit": view.facts.get("limit", ""),
            "time_shares": {name: round(share, 3) for name, share in phases.items()},
            "samplers": [self._sampler(slot) for slot in run.pool.slots if slot.state != "gone"],
            "streams": [self._stream(run, stream) for stream in range(len(run.queue.next_seq))],
            "ledger": run.ledger.read(),
            "checkpoint": str(saver.last_path) if saver.last_path else None,
            "checkpoint_age_s": round(saver.seconds_since_save(), 1),
            "checkpoint_problem": saver.problem,
            "events": loop.monitor.recent_events(),
        }

    @staticmethod
    def _stream(run: RunState, stream: int) -> dict[str, object]:
        facts = {"stream": stream, "sampler": run.pool.sampler_of(stream), "next_fragment": run.queue.next_seq[stream]}
        return {**facts, "running_on": run.pool.running.get(stream)}

    def _sampler(self, slot: SamplerSlot) -> dict[str, object]:
        now = time.monotonic()
        before, made = self._made.get(slot.index, (now, slot.env_steps))
        rate = (slot.env_steps - made) / (now - before) if now > before else 0.0
        self._made[slot.index] = now, slot.env_steps
        starting = slot.state == "hosting" and not slot.ready
        return {
            "sampler": slot.index,
            "state": "starting" if starting else "hosting a slow stream" if slot.isolated >= 0 else slot.state,
            "pid": slot.pid,
            "node": slot.node,
            "streams": list(slot.streams),
            "busy_s": round(now - slot.busy_since, 1) if slot.busy else 0.0,
            "fragments": slot.fragments,
            "env_steps_per_s": round(rate, 1),
            "losses": slot.losses,
        }
