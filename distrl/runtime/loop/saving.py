"""`Saver`: from a running loop to a checkpoint, and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from distrl.base.errors import CheckpointError, ResourceError
from distrl.base.phases import Phases
from distrl.deploy.policy_file import POLICY_FILE, SavedPolicy
from distrl.experience.fragment import fragment_from_state, fragment_to_state
from distrl.experience.ledger import Ledger
from distrl.experience.weights import Weights
from distrl.runtime.plan.base import Plan
from distrl.runtime.protocol.events import DataLost
from distrl.runtime.run.checkpoint import REPLAY_FOLDER, write_checkpoint
from distrl.runtime.run.folder import RunFolder
from distrl.runtime.run.progress import RunProgress
from distrl.store.queue import Waiting


class Saver:
    """Writes a loop's state at update boundaries, and restores it.

    Args:
        plan: The run.
        folder: Where checkpoints go.
        monitor: Told of every checkpoint and every failure to write one.
        callbacks: Told of every checkpoint.
    """

    def __init__(self, plan: Plan, folder: RunFolder, monitor: Any, callbacks: Any, phases: Phases):
        self.plan, self.folder, self.monitor, self.callbacks, self.phases = plan, folder, monitor, callbacks, phases
        self.saved_at = time.monotonic()
        self.saved_version = -1
        self.last_path: Path | None = None
        self.problem: str | None = None  # why the newest attempt to save failed

    def seconds_since_save(self) -> float:
        return time.monotonic() - self.saved_at

    def save(self, loop: Any) -> Path | None:
        """Write a checkpoint of the present boundary. A full disk is reported, and training goes on without it."""
        with self.phases("checkpoint"):
            self.saved_at = time.monotonic()
            if self.saved_version == loop.progress.version:
                return self.last_path
            self.monitor.flush()
            try:
                path = self._whole(loop)
            except ResourceError as error:
                self.monitor.event("checkpoint_failed", error=str(error))
                self.problem = str(error)
                loop.progress.checkpointed_at = loop.progress.env_steps  # tried again when the next one is due
                return None
            if self.plan.off_policy:
                loop.backend.replay_saved(path / REPLAY_FOLDER)
            self.problem = None
            self.saved_version = loop.progress.version
            loop.progress.checkpointed_at = loop.progress.env_steps
            self.last_path = path
            loop.recovery.saved(path)
            self.monitor.event("checkpoint", path=path.name, env_steps=loop.progress.env_steps)
            if self.callbacks:
                self.callbacks.on_checkpoint(loop, path)
            return path

    def _whole(self, loop: Any) -> Path:
        """Write; where fragments turn out to be gone, without them."""
        try:
            return self._write(loop)
        except DataLost:
            if not loop.losses.look():
                raise
            return self._write(loop)

    def _write(self, loop: Any) -> Path:
        backend, progress = loop.backend, loop.progress
        weights = {version: backend.fetch(handle) for version, handle in loop.weights.items()}
        waiting = [fragment_to_state(item.meta, backend.fetch(item.data)) for item in loop.queue.waiting()]
        # What is running now will be made again, so its stream goes on from the unit itself.
        next_seq = list(loop.queue.next_seq)
        for unit in loop.ledger.running:
            next_seq[unit.stream] = min(next_seq[unit.stream], unit.seq)
        streams = {
            "next_seq": next_seq,
            "snapshots": loop.pool.snapshots,
            "waiting": waiting,
            "weights": [item.to_state() for item in weights.values()],
        }
        facts = {"env_steps": progress.env_steps, "run": self.plan.config.name}
        policy = self._policy(weights[progress.version], {**facts, "update": progress.version})
        files = {POLICY_FILE: policy.save}
        if self.plan.off_policy:
            files[REPLAY_FOLDER] = backend.save_replay
        return write_checkpoint(
            self.folder.checkpoints,
            progress.version,
            {
                "learner": loop.recovery.learner_state(),
                "streams": streams,
                "progress": {"counters": self._counters(loop), "ledger": loop.ledger.to_state()},
            },
            files,
            facts,
            self.plan.config.checkpoint.keep,
        )

    @staticmethod
    def _counters(loop: Any) -> dict[str, Any]:
        """The progress, as if no evaluation were under way: a resumed run orders it again at its next boundary."""
        counters: dict[str, Any] = loop.progress.to_state()
        if loop.evaluations.under_way:
            counters["evaluated_at"] = loop.progress.evals[-1][0] if loop.progress.evals else 0
        return counters

    def save_best(self, weights: Weights, facts: dict[str, Any]) -> None:
        """Keep the policy of the best evaluation."""
        try:
            self._policy(weights, {**facts, "run": self.plan.config.name}).save(self.folder.best / POLICY_FILE)
        except ResourceError as error:
            self.monitor.warn(str(error))

    def _policy(self, weights: Weights, facts: dict[str, Any]) -> SavedPolicy:
        plan = self.plan
        return SavedPolicy(plan.config, plan.observation_space, plan.action_space, weights, facts)

    def restore(self, loop: Any, states: dict[str, Any]) -> None:
        """Bring a fresh loop to a checkpoint's boundary.

        Raises:
            CheckpointError: The checkpoint belongs to a run of another shape.
        """
        backend, streams, progress = loop.backend, states["streams"], states["progress"]
        if len(streams["next_seq"]) != self.plan.config.env.streams:
            raise CheckpointError(
                f"the checkpoint has {len(streams['next_seq'])} streams, the config {self.plan.config.env.streams}."
            )
        backend.load_learner(states["learner"])
        if self.plan.off_policy:
            backend.load_replay(states["folder"] / REPLAY_FOLDER)
        loop.progress = RunProgress.from_state(self.plan.config.stop.window, progress["counters"])
        loop.ledger = loop.queue.ledger = Ledger.from_state(progress["ledger"])
        loop.ledger.take_over(self.folder.live_ledger)
        loop.updates_started = loop.progress.version
        items = [fragment_from_state(state) for state in streams["waiting"]]
        loop.queue.restore(streams["next_seq"], [Waiting(meta, backend.put_data(data)) for meta, data in items])
        loop.pool.snapshots = list(streams["snapshots"])
        loop.weights = {
            weights.version: backend.put_weights(weights)
            for weights in (Weights.from_state(state) for state in streams["weights"])
        }
        self.saved_version = loop.progress.version
