"""The policy: observations to parameters of an action distribution."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from distrl.base.columns import tree_leaves, tree_map
from distrl.control.models.actions.for_space import ActionDistribution, action_distribution
from distrl.models.layers.dense import orthogonal
from distrl.models.layers.normalizer import Normalizer
from distrl.models.layers.recurrent import Memory, build_memory
from distrl.models.layers.torsos import build_torso, through_head

#: A small gain makes the first policy close to uniform, or to its mean at zero (Common base CB6).
POLICY_GAIN = 0.01


class Policy(nn.Module):
    """Torso, optional memory, head.

    Observations that reach `forward` and `unroll` are normalized already: the sampler calls `normalize` once, with the
    statistics of its weight version, and records what the policy saw; the learner must not normalize again.
    Whoever acts from raw observations writes `policy(policy.normalize(obs))`.

    Args:
        observation_space: Of one environment.
        action_space: Of one environment.
        model_config: Reads torso, hidden, activation, recurrent, recurrent_size, log_std_init.
        normalize_obs: Whether float observations are normalized.
        clip_obs: Bound of normalized observations.

    Attributes:
        actions: The distribution that the parameters belong to.
        recurrent: Whether the policy carries a state.
        feature_size: Width of what the head reads, `features`.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: Any,
        normalize_obs: bool = False,
        clip_obs: float = 10.0,
    ):
        super().__init__()
        self.actions: ActionDistribution = action_distribution(action_space)
        self.normalizer = Normalizer(observation_space, normalize_obs, clip_obs)
        self.torso = build_torso(observation_space, model_config)
        self.memory: Memory | None = build_memory(self.torso.output_size, model_config)
        self.recurrent = self.memory is not None
        self.feature_size = self.memory.size if self.memory is not None else int(self.torso.output_size)
        self.head = orthogonal(nn.Linear(self.feature_size, self.actions.head_size), POLICY_GAIN)
        self.log_std: nn.Parameter | None = None
        if self.actions.log_std_size:
            self.log_std = nn.Parameter(torch.full((self.actions.log_std_size,), float(model_config.log_std_init)))

    def normalize(self, obs: Any) -> Any:
        """Raw observations (..., leaf shape) to what `forward` takes; float64 becomes float32 in any case."""
        return self.normalizer(obs)

    def initial_state(self, batch: int) -> Any:
        """The state before an episode: a tree of zeros (B, ...), or None without memory."""
        return None if self.memory is None else self.memory.initial_state(batch)

    def forward(self, obs: Any, state: Any = None, first: Tensor | None = None) -> tuple[Tensor, Any]:
        """One step.

        Args:
            obs: Normalized observations, tree (B, ...).
            state: State after the step before, tree (B, ...); None begins episodes everywhere.
            first: (B,) bool, the state is reset before the step. None resets nothing.

        Returns:
            Distribution parameters (B, P), and the state after the step (None without memory).
        """
        if self.memory is None:
            return self.actions.join(through_head(self.torso, self.head, obs), self.log_std), None
        features, state = self.features(obs, state, first)
        return self.params(features), state

    def unroll(self, obs: Any, state: Any = None, first: Tensor | None = None) -> tuple[Tensor, Any]:
        """Whole fragments: the same as T calls of `forward`.

        Args:
            obs: Normalized observations, tree (T, B, ...).
            state: State before step 0, tree (B, ...).
            first: (T, B) bool, the state is reset before step t.

        Returns:
            Parameters (T, B, P), and the states after each step, tree (T, B, ...), before any reset by the next one:
            with `states[t, b]` the true final observation of step t can be valued.
        """
        features, states = self.unroll_features(obs, state, first)
        return self.params(features), states

    def features(self, obs: Any, state: Any = None, first: Tensor | None = None) -> tuple[Tensor, Any]:
        """What the heads read after one step, (B, feature_size), and the state after it."""
        features = self.torso(obs)
        return (features, None) if self.memory is None else self.memory(features, state, first)

    def unroll_features(self, obs: Any, state: Any = None, first: Tensor | None = None) -> tuple[Tensor, Any]:
        """What the heads read at every step, (T, B, feature_size), and the states after each step."""
        steps, batch = tree_leaves(obs)[0].shape[:2]
        rows = self.torso(tree_map(lambda leaf: leaf.flatten(0, 1), obs))
        features = rows.unflatten(0, (steps, batch))
        return (features, None) if self.memory is None else self.memory.unroll(features, state, first)

    def params(self, features: Tensor) -> Tensor:
        """Distribution parameters (..., P) from features (..., feature_size)."""
        return self.actions.join(F.linear(features, self.head.weight, self.head.bias), self.log_std)
