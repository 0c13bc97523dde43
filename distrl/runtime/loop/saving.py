"""`Saver`: checkpoints of a running loop, and their restoration."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from distrl.base.errors import CheckpointError, ResourceError
from distrl.deploy.policy_file import POLICY_FILE, SavedPolicy
from distrl.experience.fragment import fragment_from_state, fragment_to_state
from distrl.experience.ledger import Ledger
from distrl.experience.weights import Weights
from distrl.runtime.loop.lost_data import LostData
from distrl.runtime.loop.recovery import Recovery
from distrl.runtime.loop.state import RunState, Services
from distrl.runtime.protocol.events import DataLost
from distrl.runtime.run.checkpoint import REPLAY_FOLDER, CheckpointStates, write_checkpoint
from distrl.runtime.run.progress import RunProgress
from distrl.store.queue import Waiting


class Saver:
    """Writes checkpoints at update boundaries, and restores them."""

    def __init__(
        self,
        state: RunState,
        services: Services,
        recovery: Recovery,
        lost_data: LostData,
        on_checkpoint: Callable[[Path], None],
    ):
        self.state, self.services, self.recovery, self.lost_data = state, services, recovery, lost_data
        self.on_checkpoint = on_checkpoint
        self.saved_at = time.monotonic()
        self.saved_version = -1
        self.last_path: Path | None = None
        self.problem: str | None = None  # error of the newest attempt to save

    def seconds_since_save(self) -> float:
        return time.monotonic() - self.saved_at

    def due(self) -> bool:
        settings, progress = self.state.config.checkpoint, self.state.progress
        by_steps = settings.interval and progress.env_steps - progress.checkpointed_at >= settings.interval
        return bool(by_steps or (settings.every_seconds and self.seconds_since_save() >= settings.every_seconds))

    def save(self) -> Path | None:
        """Write a checkpoint of this boundary; a full disk returns None and ends nothing."""
        services, progress = self.services, self.state.progress
        with services.phases("checkpoint"):
            self.saved_at = time.monotonic()
            if self.saved_version == progress.version:
                return self.last_path
            services.monitor.flush()
            try:
                path = self._write_available()
            except ResourceError as error:
                services.monitor.event("checkpoint_failed", error=str(error))
                self.problem = str(error)
                progress.checkpointed_at = progress.env_steps  # retried when the next one is due
                return None
            if self.state.plan.off_policy:
                services.backend.ask_learner("files_saved", path / REPLAY_FOLDER)
            self.problem = None
            self.saved_version = progress.version
            progress.checkpointed_at = progress.env_steps
            self.last_path = path
            self.recovery.record_checkpoint(path)
            services.monitor.event("checkpoint", path=path.name, env_steps=progress.env_steps)
            self.on_checkpoint(path)
            return path

    def _write_available(self) -> Path:
        """Write; if fragments turn out to be lost, write without them."""
        try:
            return self._write()
        except DataLost:
            if not self.lost_data.probe():
                raise
            return self._write()

    def _write(self) -> Path:
        state, backend = self.state, self.services.backend
        plan, progress = state.plan, state.progress
        weights = {version: backend.fetch(handle) for version, handle in state.weights.items()}
        waiting = [fragment_to_state(item.meta, backend.fetch(item.data)) for item in state.queue.waiting()]
        # Running units are collected again after a resume, so their streams continue from these units.
        next_seq = list(state.queue.next_seq)
        for unit in state.ledger.running:
            next_seq[unit.stream] = min(next_seq[unit.stream], unit.seq)
        counters = progress.to_state()
        if state.evaluations_pending:  # a resumed run orders them again
            counters["evaluated_at"] = progress.evals[-1][0] if progress.evals else 0
        published = [item.to_state() for item in weights.values()]
        streams = {"next_seq": next_seq, "snapshots": state.pool.snapshots, "waiting": waiting, "weights": published}
        facts = {"env_steps": progress.env_steps, "run": plan.config.name}
        policy = self._policy(weights[progress.version], {**facts, "update": progress.version})
        counts = {"counters": counters, "ledger": state.ledger.to_state()}
        files = {POLICY_FILE: policy.save}
        if plan.off_policy:
            files[REPLAY_FOLDER] = partial(backend.ask_learner, "save_files")
        return write_checkpoint(
            self.services.folder.checkpoints,
            progress.version,
            {"learner": self.recovery.learner_state(), "streams": streams, "progress": counts},
            files,
            facts,
            plan.config.checkpoint.keep,
        )

    def save_best(self, weights: Weights, facts: dict[str, object]) -> None:
        try:
            policy = self._policy(weights, {**facts, "run": self.state.config.name})
            policy.save(self.services.folder.best / POLICY_FILE)
        except ResourceError as error:
            self.services.monitor.warn(str(error))

    def _policy(self, weights: Weights, facts: dict[str, object]) -> SavedPolicy:
        plan = self.state.plan
        return SavedPolicy(plan.config, plan.observation_space, plan.action_space, weights, facts)

    def restore(self, states: CheckpointStates) -> None:
        state, backend = self.state, self.services.backend
        streams, progress, wanted = states["streams"], states["progress"], state.config.streams
        if len(streams["next_seq"]) != wanted:
            raise CheckpointError(f"the checkpoint has {len(streams['next_seq'])} streams, the config {wanted}.")
        backend.ask_learner("load_state", states["learner"])
        if state.plan.off_policy:
            backend.ask_learner("load_files", states["folder"] / REPLAY_FOLDER)
        state.progress = RunProgress.from_state(state.config.stop.window, progress["counters"])
        state.queue.ledger = Ledger.from_state(progress["ledger"])
        state.ledger.take_over(self.services.folder.live_ledger)
        state.updates_started = state.progress.version
        items = [fragment_from_state(fragment) for fragment in streams["waiting"]]
        state.queue.restore(streams["next_seq"], [Waiting(meta, backend.put(data)) for meta, data in items])
        state.pool.snapshots = list(streams["snapshots"])
        versions = [Weights.from_state(weights) for weights in streams["weights"]]
        state.weights = {weights.version: backend.put(weights) for weights in versions}
        self.saved_version = state.progress.version
