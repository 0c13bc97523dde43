"""The learner of off-policy algorithms, with a replay.

One update inserts the fragments in (sequence, stream) order, takes the gradient steps that are due, and publishes. The
replay keeps raw observations and rewards; both are normalized when they are drawn, with the newest statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distrl.base.columns import Columns, tree_leaves
from distrl.base.errors import NonFiniteError
from distrl.base.pack import State
from distrl.base.seeds import generator
from distrl.control.algorithms.off_policy import OffPolicy
from distrl.control.learner.learner import ControlLearner
from distrl.experience.fragment import FragmentData, Unit
from distrl.experience.weights import Weights
from distrl.learning.learner_base import Progress
from distrl.store.limiter import Limiter
from distrl.store.replay.hindsight import Hindsight
from distrl.store.replay.sharded import ShardedReplay

#: The most minibatches, and bytes, of one draw.
DRAWN_AT_ONCE = 16
DRAWN_BYTES = 2**22


class ReplayLearner(ControlLearner):
    """Updates of one off-policy algorithm; rewards are scaled as n-step sums.

    Args:
        hindsight: Draws from the replay with new goals.
        total: The run's `stop.env_steps`, for schedules `over: run`.
    """

    algorithm: OffPolicy

    def __init__(
        self,
        algorithm: OffPolicy,
        replay: Any,
        seed: int,
        *,
        hindsight: Hindsight | None = None,
        total: int | None = None,
        **options: Any,
    ):
        super().__init__(algorithm, seed, **options)
        self.replay = replay
        self.draw: Callable[..., Columns] = replay.sample if hindsight is None else partial(hindsight.sample, replay)
        config = algorithm.schedules
        self.limiter = Limiter(config.replay_ratio, config.learning_starts)
        self.sharded = isinstance(replay, ShardedReplay)
        self._lost: set[int] = set()  # shards that a warning named
        self.prioritized = bool(config.prioritized)
        self.total = total
        self._held: set[Unit] = set()  # inserted by an update that was refused: they come again
        algorithm.resolve(0, total)

    def weights(self, version: int) -> Weights:
        self.algorithm.warming_up = not self.limiter.warm
        self.algorithm.set_exploration(generator(self.seed, "exploration", version))
        return super().weights(version)

    def warm_start(self, weights: Weights) -> None:
        """Begin with another policy; critics that it does not hold start fresh."""
        super().warm_start(weights)
        self.algorithm.sync_targets()

    def _insert(self, fragments: Sequence[FragmentData], units: Sequence[Unit]) -> int:
        """Insert fragments, each once; returns the environment steps of the batch."""
        total = 0
        for unit, fragment in zip(units, fragments, strict=True):
            rollout = fragment.rollout
            steps = int(rollout.valid.sum()) if "valid" in rollout else rollout.reward.size
            total += steps
            if unit not in self._held:
                self.replay.insert(rollout, unit.stream, unit.seq)
                self.limiter.insert(steps)
                self._held.add(unit)
        return total

    def _learn(self, fragments: Sequence[FragmentData], progress: Progress) -> tuple[dict[str, float], Columns | None]:
        with self.phases("insert"):
            self._merge_moments(fragments)
            steps = self._insert(fragments, progress.units)
        self.algorithm.resolve(progress.env_steps + steps, self.total)
        with self.phases("learn"):
            metrics, batch = self._gradient_steps(progress.update)
        self._held.clear()
        if self.sharded and self.replay.lost:
            metrics["replay/lost_with_shard"] = float(self.replay.ledger()["lost_with_shard"])
        return metrics, batch

    def _gradient_steps(self, update: int) -> tuple[dict[str, float], Columns | None]:
        """Take the gradient steps that are due; returns the last one's metrics and batch."""
        due = self.limiter.due() if len(self.replay) else 0
        if not due:
            return {}, None
        rng = generator(self.seed, "learner", update)
        self.algorithm.begin_steps()
        for batch in self._batches(due, rng):
            result = self.algorithm.update(batch, rng)
            if self.prioritized and result.priorities is not None:
                self._set_priorities(batch, result.priorities)
        self.algorithm.end_steps(batch)
        self.limiter.done(due)
        return {name: float(value) for name, value in result.metrics.items()}, batch

    def _set_priorities(self, batch: Columns, priorities: np.ndarray | torch.Tensor) -> None:
        if isinstance(priorities, torch.Tensor):
            priorities = priorities.detach().cpu().numpy()
        if not np.isfinite(priorities).all():
            self.algorithm.rollback()
            raise NonFiniteError(
                f"{int((~np.isfinite(priorities)).sum())} of {len(priorities)} new priorities are not finite.",
                "The weights are those before this update; lower learning_rate, or check rewards.",
            )
        self.replay.update_priorities(batch.index.numpy(), batch.generation.numpy(), priorities)

    def _batches(self, count: int, rng: np.random.Generator) -> Iterator[Columns]:
        """Yield `count` minibatches on the device; without priorities, several are drawn at once."""
        config = self.algorithm.config
        size, gamma = config.batch_size, float(config.gamma)
        if self.prioritized:
            for _ in range(count):
                yield self._prepared(self.draw(size, rng, gamma, beta=float(config.priority_beta)))
            return
        at_once = 1
        while count:
            part = min(count, at_once)
            rows = self.draw(part * size, rng, gamma)
            if self.sharded and part > 1:  # mixes the shards within every minibatch
                rows = rows[rng.permutation(part * size)]
            drawn = self._prepared(rows)
            for start in range(0, part * size, size):
                yield drawn if part == 1 else drawn[start : start + size]
            count -= part
            bytes_each = sum(leaf.nbytes for leaf in tree_leaves(drawn)) // part
            at_once = max(1, min(DRAWN_AT_ONCE, DRAWN_BYTES // bytes_each))

    def _prepared(self, drawn: Columns) -> Columns:
        """Return a drawn batch on the device: rewards scaled, observations normalized."""
        columns = drawn.without("relabeled").to_dict()
        if self.normalize_reward:
            scale = np.float32(1.0 / np.sqrt(self.return_moments.var + 1e-8))
            bound = self.clip_reward * self.algorithm.config.n_step
            columns["reward"] = np.clip(drawn.reward * scale, -bound, bound)
        host = {name: columns.pop(name) for name in ("index", "generation") if name in columns}
        batch = self._to_device(Columns(**columns))
        normalize = self.algorithm.policy.normalize
        obs, next_obs = normalize(batch.obs), normalize(batch.next_obs)
        kept = {name: torch.from_numpy(value) for name, value in host.items()}
        return batch.with_(obs=obs, next_obs=next_obs, **kept)

    def state(self) -> State:
        return {
            **super().state(),
            "limiter": self.limiter.state(),
            "held": [tuple(unit) for unit in sorted(self._held)],
        }

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.limiter.load_state(state["limiter"])
        self._held = {Unit(*unit) for unit in state["held"]}

    def save_files(self, folder: Path) -> None:
        self.replay.save(folder)

    def files_saved(self, folder: Path) -> None:
        if not self.sharded:  # the next checkpoint links whole segments from here
            self.replay.saved_at(folder)

    def load_files(self, folder: Path) -> None:
        self.replay.load(folder)

    def _warnings(self) -> list[str]:
        lost = self.replay.lost if self.sharded else {}
        texts = [
            f"replay shard {name} died with {counts['resident']:,} transitions; training goes on with the others."
            for name, counts in lost.items()
            if name not in self._lost
        ]
        self._lost.update(lost)
        return [*super()._warnings(), *texts]

    def _diagnose(self, batch: Columns | None) -> dict[str, float]:
        return {
            **super()._diagnose(batch),
            "replay/transitions": float(len(self.replay)),
            "replay/gradient_steps": float(self.algorithm.gradient_steps),
        }

    def stage(self, units: Sequence[Unit], fragments: Sequence[FragmentData]) -> None:
        """Do nothing: fragments go into the replay, not to the device."""
