"""`Learner`: fragments in, weights out.

It owns the normalizer statistics: fragments carry raw moments, which are merged here in (sequence, stream) order and
published inside the weights. Rewards are scaled here; observations arrive as the policy saw them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distrl.base.columns import Columns
from distrl.base.errors import NonFiniteError
from distrl.base.phases import Phases
from distrl.base.seeds import generator
from distrl.experience.fragment import FragmentData, Unit
from distrl.experience.moments import Moments
from distrl.experience.rollout import cat_rollouts
from distrl.experience.weights import Weights
from distrl.learning.algorithm import Algorithm
from distrl.models.parameters.published import load_weights, pack_weights


@dataclass
class Progress:
    """Where the run is when an update begins.

    Attributes:
        update: Number of updates before this one; the weights it publishes have version update + 1.
        env_steps: Consumed valid steps before this batch.
        total: The run's `stop.env_steps`, which schedules `over: run` need.
        diagnose: Measure policy movement after the update (does not change learning).
        units: Names of the batch's fragments, by which a staged batch is known again.
    """

    update: int
    env_steps: int
    total: int | None = None
    diagnose: bool = False
    units: tuple[Unit, ...] = ()


@dataclass
class Report:
    """What an update tells the loop."""

    version: int
    metrics: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Learner:
    """Updates one algorithm.

    Args:
        algorithm: Policy, critic, optimizer and update rule.
        seed: The run's seed; minibatches are shuffled by (seed, update).
        normalize_obs: Merge observation moments into the policy's normalizer.
        normalize_reward: Divide rewards by the standard deviation of the running return.
        clip_reward: Bound of a scaled reward.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        seed: int,
        *,
        normalize_obs: bool = False,
        normalize_reward: bool = False,
        clip_reward: float = 10.0,
        phases: Phases | None = None,
    ):
        self.algorithm = algorithm
        self.published = algorithm.acting_model(algorithm.model)  # shares its tensors with the model
        self.seed = seed
        self.normalize_obs = normalize_obs
        self.normalize_reward = normalize_reward
        self.clip_reward = clip_reward
        self.obs_moments: Moments | None = None  # (D,) in the normalizer's order; begins with the first batch
        self.return_moments = Moments.prior()
        self._stream: Any = None
        self._staged: tuple[tuple[Unit, ...], Columns] | None = None
        self.phases = phases or Phases()
        self.own_phases = phases is None

    def update(self, fragments: Sequence[FragmentData], progress: Progress) -> tuple[Report, Weights]:
        """One update on the fragments of a batch, given in (sequence, stream) order.

        Raises:
            NonFiniteError: A loss, gradient or column is not finite; weights, optimizer and normalizers are as before.
        """
        before = self.obs_moments, self.return_moments
        try:
            with self.phases("prepare"):
                batch = self._batch(fragments, progress.units)
            with self.phases("learn"):
                self.algorithm.resolve(progress.env_steps, progress.total)
                update = self.algorithm.update(batch, generator(self.seed, "learner", progress.update))
        except NonFiniteError:
            self._take_back(*before)
            raise
        metrics = update.metrics
        with self.phases("diagnose"):
            if progress.diagnose:
                metrics = {**metrics, **self.algorithm.diagnose(batch), **self._schedule_metrics()}
        with self.phases("publish"):
            weights = self.weights(progress.update + 1)
        seconds = self.phases.reset() if self.own_phases else {}
        if self.own_phases:
            self.phases.switch("wait")  # until the next batch
        told, self.algorithm.warnings = self.algorithm.warnings, []
        return Report(progress.update + 1, metrics, seconds, told), weights

    def weights(self, version: int) -> Weights:
        """The current weights, with normalizer statistics, as version `version`."""
        return pack_weights(self.published, version)

    def state(self) -> dict[str, Any]:
        """Everything that later updates depend on."""
        return {
            "algorithm": self.algorithm.state(),
            "obs_moments": None if self.obs_moments is None else self.obs_moments.to_state(),
            "return_moments": self.return_moments.to_state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.algorithm.load_state(state["algorithm"])
        self.obs_moments = None if state["obs_moments"] is None else Moments.from_state(state["obs_moments"])
        self.return_moments = Moments.from_state(state["return_moments"])

    def save_files(self, folder: Path) -> None:
        """Write what is too large for `state` into a folder that does not exist yet: a replay, where there is one."""

    def files_saved(self, folder: Path) -> None:
        """What `save_files` wrote has its final place now."""

    def load_files(self, folder: Path) -> None:
        """The inverse of `save_files`."""

    def warm_start(self, weights: Weights) -> None:
        """Begin with other weights and their normalizer statistics; the optimizer begins anew."""
        load_weights(self.published, weights)
        normalizer = self.algorithm.policy.normalizer
        if normalizer.enabled:
            count, mean, var = float(normalizer.count), normalizer.mean.cpu().numpy(), normalizer.var.cpu().numpy()
            self.obs_moments = Moments(count, mean.copy(), var * count)

    # ---- batches and normalizers -----------------------------------------------------------------------------------

    def stage(self, units: Sequence[Unit], fragments: Sequence[FragmentData]) -> None:
        """Begin to move the batch that will probably come next to the device, while the present one is learned from.

        Safe from another thread: it touches neither weights nor normalizers. A batch that does not come is forgotten.
        """
        rollout = cat_rollouts([fragment.rollout for fragment in fragments])
        if self.algorithm.device.type == "cuda":
            with torch.cuda.stream(self._copy_stream()):
                staged = self._to_device(rollout)
                torch.cuda.current_stream().synchronize()
        else:
            staged = self._to_device(rollout)
        self._staged = tuple(units), staged

    def _copy_stream(self) -> Any:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.algorithm.device)
        return self._stream

    def _batch(self, fragments: Sequence[FragmentData], units: tuple[Unit, ...]) -> Columns:
        """One rollout on the learner's device, rewards scaled."""
        self._merge_moments(fragments)
        staged, self._staged = self._staged, None
        if staged is not None and staged[0] == units:
            rollout = staged[1]
        else:
            rollout = self._to_device(cat_rollouts([fragment.rollout for fragment in fragments]))
        if self.normalize_reward:
            scale = float(np.sqrt(self.return_moments.var + 1e-8))
            reward = (rollout.reward / scale).clamp(-self.clip_reward, self.clip_reward)
            rollout = rollout.with_(reward=reward)
        return rollout

    def _to_device(self, rollout: Columns) -> Columns:
        device = self.algorithm.device
        if device.type == "cpu":
            return rollout.map(_as_tensor)
        return rollout.map(lambda leaf: _as_tensor(leaf).pin_memory().to(device, non_blocking=True))

    def _merge_moments(self, fragments: Sequence[FragmentData]) -> None:
        for fragment in fragments:
            if self.normalize_reward and fragment.return_moments is not None:
                self.return_moments = self.return_moments.merge(fragment.return_moments)
            if self.normalize_obs and fragment.obs_moments is not None:
                total = self.obs_moments or Moments.prior(fragment.obs_moments.mean.shape)
                self.obs_moments = total.merge(fragment.obs_moments)
        if self.obs_moments is not None:
            moments = self.obs_moments
            self.algorithm.policy.normalizer.load(moments.mean, moments.var, moments.count)

    def _take_back(self, obs_moments: Moments | None, return_moments: Moments) -> None:
        """The batch was refused, so it may come again: its moments must not count twice."""
        self.obs_moments, self.return_moments = obs_moments, return_moments
        normalizer = self.algorithm.policy.normalizer
        if normalizer.enabled:
            moments = obs_moments or Moments.prior((normalizer.size,))
            normalizer.load(moments.mean, moments.var, moments.count)

    def _schedule_metrics(self) -> dict[str, float]:
        """The present values of what the config lets change."""
        names = {"learning_rate", *self.algorithm.schedules.schedules}
        return {f"schedule/{name}": float(getattr(self.algorithm.config, name)) for name in sorted(names)}


def _as_tensor(leaf: np.ndarray) -> torch.Tensor:
    # Arrays that arrive through shared memory are read-only; torch warns, but nothing here writes to a batch.
    if not leaf.flags.writeable:
        leaf = leaf.copy()
    return torch.from_numpy(leaf)
