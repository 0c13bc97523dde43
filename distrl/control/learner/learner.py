"""The learner of environment rollouts, with normalizer statistics.

Fragments carry raw moments, which are merged in (sequence, stream) order and published inside the weights. Rewards are
scaled here; observations arrive as the policy saw them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from distrl.base.columns import Columns
from distrl.base.pack import State
from distrl.base.phases import Phases
from distrl.experience.fragment import FragmentData, Unit
from distrl.experience.moments import Moments
from distrl.experience.rollout import cat_rollouts
from distrl.experience.weights import Weights
from distrl.learning.algorithm import Algorithm
from distrl.learning.learner_base import Learner


class ControlLearner(Learner):
    """Updates of one algorithm from rollouts.

    Args:
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
        super().__init__(algorithm, seed, phases=phases)
        self.normalize_obs, self.normalize_reward, self.clip_reward = normalize_obs, normalize_reward, clip_reward
        self.obs_moments: Moments | None = None  # (D,) in the normalizer's order; begins with the first batch
        self.return_moments = Moments.prior()
        self._before: tuple[Moments | None, Moments] = self.obs_moments, self.return_moments
        self._stream: torch.cuda.Stream | None = None
        self._staged: tuple[tuple[Unit, ...], Columns] | None = None

    def state(self) -> State:
        return {
            **super().state(),
            "obs_moments": None if self.obs_moments is None else self.obs_moments.to_state(),
            "return_moments": self.return_moments.to_state(),
        }

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.obs_moments = None if state["obs_moments"] is None else Moments.from_state(state["obs_moments"])
        self.return_moments = Moments.from_state(state["return_moments"])

    def warm_start(self, weights: Weights) -> None:
        """Begin with other weights and their normalizer statistics; the optimizer starts fresh."""
        super().warm_start(weights)
        normalizer = self.algorithm.policy.normalizer
        if normalizer.enabled:
            count, mean, var = float(normalizer.count), normalizer.mean.cpu().numpy(), normalizer.var.cpu().numpy()
            self.obs_moments = Moments(count, mean.copy(), var * count)

    def stage(self, units: Sequence[Unit], fragments: Sequence[FragmentData]) -> None:
        """Move the probable next batch to the device during the present update; from another thread."""
        rollout = cat_rollouts([fragment.rollout for fragment in fragments])
        if self.algorithm.device.type == "cuda":
            self._stream = self._stream or torch.cuda.Stream(self.algorithm.device)
            with torch.cuda.stream(self._stream):
                staged = self._to_device(rollout)
                torch.cuda.current_stream().synchronize()
        else:
            staged = self._to_device(rollout)
        self._staged = tuple(units), staged

    def _batch(self, fragments: Sequence[FragmentData], units: tuple[Unit, ...]) -> Columns:
        """Join fragments into one rollout on the learner's device, rewards scaled."""
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

    def _begin_update(self) -> None:
        self._before = self.obs_moments, self.return_moments

    def _rollback(self) -> None:
        """Restore the moments: the batch may come again and must not count twice."""
        self.obs_moments, self.return_moments = self._before
        normalizer = self.algorithm.policy.normalizer
        if normalizer.enabled:
            moments = self.obs_moments or Moments.prior((normalizer.size,))
            normalizer.load(moments.mean, moments.var, moments.count)


def _as_tensor(leaf: np.ndarray) -> torch.Tensor:
    # Arrays that arrive through shared memory are read-only; torch warns, but nothing here writes to a batch.
    if not leaf.flags.writeable:
        leaf = leaf.copy()
    return torch.from_numpy(leaf)
