"""The policy: observations to parameters of an action distribution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from distrl.base.columns import Tree, tree_leaves, tree_map
from distrl.config.sections.model import ModelConfig
from distrl.control.models.actions.for_space import ActionDistribution, action_distribution
from distrl.models.layers.dense import orthogonal
from distrl.models.layers.normalizer import Normalizer
from distrl.models.layers.recurrent import Memory, build_memory
from distrl.models.layers.torsos import build_torso, through_head

#: A small gain makes the first policy close to uniform, or to its mean at zero (Common base CB6).
POLICY_GAIN = 0.01


class Policy(nn.Module):
    """Torso, optional memory, head.

    `forward` and `unroll` take normalized observations: samplers call `normalize` once, with the statistics of their
    weight version, and record the result. `features` have width `feature_size`.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: ModelConfig,
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

    def normalize(self, obs: Tree) -> Tree:
        """Normalize raw observations (..., leaf shape); float64 becomes float32 in any case."""
        return self.normalizer(obs)

    def initial_state(self, batch: int) -> Tree:
        """The state before an episode: a tree of zeros (B, ...), or None without memory."""
        return None if self.memory is None else self.memory.initial_state(batch)

    def forward(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, Tree]:
        """Take one step: distribution parameters (B, P), and the state after it.

        `state` None begins episodes everywhere; where `first` (B,) is true it is reset before the step.
        """
        if self.memory is None:
            return self.actions.join(through_head(self.torso, self.head, obs), self.log_std), None
        features, state = self.features(obs, state, first)
        return self.params(features), state

    def unroll(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, Tree]:
        """Evaluate fragments of observations (T, B, ...), from the state (B, ...) before step 0.

        Returns parameters (T, B, P), and the states (T, B, ...) after each step, before any reset by the next one:
        `states[t, b]` serves to value the true final observation of step t.
        """
        features, states = self.unroll_features(obs, state, first)
        return self.params(features), states

    def features(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, Tree]:
        """Compute the heads' input (B, feature_size) of one step, and the state after it."""
        features = self.torso(obs)
        return (features, None) if self.memory is None else self.memory(features, state, first)

    def unroll_features(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, Tree]:
        """Compute the heads' input (T, B, feature_size), and the states after each step."""
        steps, batch = tree_leaves(obs)[0].shape[:2]
        rows = self.torso(tree_map(lambda leaf: leaf.flatten(0, 1), obs))
        features = rows.unflatten(0, (steps, batch))
        return (features, None) if self.memory is None else self.memory.unroll(features, state, first)

    def params(self, features: Tensor) -> Tensor:
        """Distribution parameters (..., P) from features (..., feature_size)."""
        return self.actions.join(F.linear(features, self.head.weight, self.head.bias), self.log_std)
