"""What `distrl status` shows of a run: one plain record, made by the loop about once a second."""

from __future__ import annotations

import os
import platform
import time
from typing import Any


class StatusWriter:
    """Makes status records, and remembers what the previous one counted, for rates.

    Args:
        attempt: Number of this attempt, from 1.
    """

    def __init__(self, attempt: int):
        self.attempt = attempt
        self._made: dict[int, tuple[float, int]] = {}  # sampler -> time and env_steps when its rate was last read

    def record(self, loop: Any, state: str = "running") -> dict[str, Any]:
        """The run at this moment, as values that JSON can hold.

        Args:
            state: `running`, or how it ended.
        """
        progress, view = loop.progress, loop.monitor.view()
        stop = loop.config.stop
        return {
            "name": loop.config.name,
            "state": state,
            "attempt": self.attempt,
            "time": time.time(),
            "host": platform.node(),
            "pid": os.getpid(),
            "folder": str(loop.saver.folder.path.absolute()),
            "backend": loop.config.backend,
            "env": loop.config.env.id,
            "algorithm": loop.config.algorithm["name"],
            "wall_s": round(progress.wall_seconds, 1),
            "env_steps": progress.env_steps,
            "goal": {"env_steps": stop.env_steps, "updates": stop.updates, "return_mean": stop.return_mean},
            "version": progress.version,
            "updating": loop.updating,
            "env_steps_per_s": round(view.steps_per_s, 1),
            "updates_per_s": round(view.updates_per_s, 3),
            "return_mean": progress.return_mean,
            "eval_return_mean": progress.last_eval,
            "staleness": view.facts.get("staleness"),
            "staleness_max": loop.ledger.staleness_max,
            "staleness_bound": loop.config.store.max_staleness,
            "waiting": len(loop.queue),
            "waits": loop.waits.record(),
            "limit": view.facts.get("limit", ""),
            "time_shares": _rounded(view.facts.get("phases", {})),
            "samplers": [self._sampler(loop, slot) for slot in loop.pool.slots if slot.state != "gone"],
            "streams": [
                {
                    "stream": stream,
                    "sampler": loop.pool.sampler_of(stream),
                    "next_fragment": next_seq,
                    "running_on": loop.pool.running.get(stream),
                }
                for stream, next_seq in enumerate(loop.queue.next_seq)
            ],
            "ledger": loop.ledger.read(),
            "checkpoint": str(loop.saver.last_path) if loop.saver.last_path else None,
            "checkpoint_age_s": round(loop.saver.seconds_since_save(), 1),
            "checkpoint_problem": loop.saver.problem,
            "events": loop.monitor.recent_events(),
        }

    def _sampler(self, loop: Any, slot: Any) -> dict[str, Any]:
        now = time.monotonic()
        before, made = self._made.get(slot.index, (now, slot.env_steps))
        rate = (slot.env_steps - made) / (now - before) if now > before else 0.0
        self._made[slot.index] = now, slot.env_steps
        return {
            "sampler": slot.index,
            "state": ("hosting a slow stream" if slot.isolated >= 0 else slot.state)
            if slot.ready or slot.state != "hosting"
            else "starting",
            "pid": slot.pid,
            "node": slot.node,
            "streams": list(slot.streams),
            "busy_s": round(now - slot.busy_since, 1) if slot.busy else 0.0,
            "fragments": slot.fragments,
            "env_steps_per_s": round(rate, 1),
            "losses": slot.losses,
        }


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(share, 3) for name, share in shares.items()}
