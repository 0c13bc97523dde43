"""Policies of off-policy continuous control, with the interface of `Policy`.

Exploration settings (`warmup`, `sigma`, `exploration`) are buffers, which the learner sets before it publishes.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from distrl.base.columns import Tree, tree_leaves, tree_map
from distrl.base.errors import ConfigError
from distrl.config.sections.model import ModelConfig
from distrl.control.models.actions.squashed import (
    DeterministicNoise,
    SquashedGaussian,
    StateDependentGaussian,
    squashed_sample,
)
from distrl.control.models.observation_vector import ObservationVector
from distrl.models.layers.dense_ensemble import DenseEnsemble
from distrl.models.layers.normalizer import Normalizer

#: Bounds of a squashed Gaussian's log_std: below the lower one it is deterministic, above the upper one only the
#: bounds of the space are ever chosen (Haarnoja et al.'s code).
LOG_STD_RANGE = (-20.0, 2.0)

#: With state-dependent exploration the mean stays in this range before the squashing, where tanh has a slope left.
STATE_DEPENDENT_MEAN_RANGE = (-2.0, 2.0)

#: Added to its variance, which is zero where all features are.
LEAST_VARIANCE = 1e-6


class ContinuousPolicy(nn.Module):
    """Base class: torso, linear head of `head_size`, exploration buffers."""

    warmup: Tensor
    recurrent = False
    actions: Any

    def __init__(
        self,
        observation_space: spaces.Space,
        head_size: int,
        model_config: ModelConfig,
        normalize_obs: bool = False,
        clip_obs: float = 10.0,
    ):
        super().__init__()
        if getattr(model_config, "recurrent", None) is not None:
            raise ConfigError(
                f"model.recurrent is {model_config.recurrent!r}; this algorithm learns from single steps.",
                "Use model.recurrent=null (and env.frame_stack for memory), or ppo.",
            )
        self.normalizer = Normalizer(observation_space, normalize_obs, clip_obs)
        self.encoder = ObservationVector(observation_space, model_config)
        # An ensemble of one: it has the fast backward pass.
        self.dense = DenseEnsemble(1, self.encoder.output_size, model_config.hidden, head_size, model_config.activation)
        self.feature_size = self.dense.feature_size
        self.register_buffer("warmup", torch.zeros(1))

    def normalize(self, obs: Tree) -> Tree:
        """Raw observations (..., leaf shape) to what `forward` takes."""
        return self.normalizer(obs)

    def initial_state(self, batch: int) -> None:
        """No memory, no state."""

    def network(self, obs: Tree) -> Tensor:
        """Apply torso and head to normalized observations: (N, head_size)."""
        return self.dense(self.encoder(obs)).squeeze(0)  # type: ignore[no-any-return]

    def forward(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, None]:
        """Distribution parameters (N, P) of normalized observations, tree (N, ...), and no state."""
        raise NotImplementedError

    def unroll(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, None]:
        """Parameters (T, B, P) of whole fragments, tree (T, B, ...)."""
        lead = tree_leaves(obs)[0].shape[:2]
        return self(tree_map(lambda leaf: leaf.flatten(0, 1), obs))[0].unflatten(0, lead), None

    def explore(self, *, warmup: bool, sigma: float = 0.0) -> None:
        """Set uniform warm-up actions, and the noise width in unit actions, of the next version."""
        self.warmup.fill_(float(warmup))


class SquashedPolicy(ContinuousPolicy):
    """Squashed Gaussian policy.

    Args:
        state_dependent: Explore with a matrix (gSDE): log_std is a learned matrix, and the standard deviation of u is
            sqrt(features^2 exp(2 log_std)).
        log_std_init: First entries of that matrix.
    """

    exploration: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: ModelConfig,
        normalize_obs: bool = False,
        clip_obs: float = 10.0,
        state_dependent: bool = False,
        log_std_init: float = -3.0,
    ):
        actions = (StateDependentGaussian if state_dependent else SquashedGaussian)(action_space)
        size = actions.size
        head_size = size if state_dependent else 2 * size
        super().__init__(observation_space, head_size, model_config, normalize_obs, clip_obs)
        self.actions: SquashedGaussian = actions
        self.state_dependent = state_dependent
        if state_dependent:
            self.log_std = nn.Parameter(torch.full((self.feature_size, size), log_std_init))
            self.register_buffer("exploration", torch.zeros(self.feature_size, size))

    def sample(self, obs: Tree, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Sample unit actions (N, size) and their log-density (N,), with gradients."""
        mean, log_std, _ = self.gaussian(obs)
        return squashed_sample(mean, log_std, noise)

    def gaussian(self, obs: Tree) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compute mean and log_std of u, each (N, size); with gSDE also the deviation (N, size)."""
        if not self.state_dependent:
            mean, log_std = self.network(obs).chunk(2, -1)
            return mean, log_std.clamp(*LOG_STD_RANGE), None
        features = self.dense.features(self.encoder(obs))
        mean = self.dense.head(features).squeeze(0).clamp(*STATE_DEPENDENT_MEAN_RANGE)
        # Features are not moved in order to explore more or less (Raffin et al. 2021, section 3), hence the detach.
        features = features.squeeze(0).detach()
        variance = features.square() @ (2.0 * self.log_std).exp()
        return mean, 0.5 * (variance + LEAST_VARIANCE).log(), features @ self.exploration

    def forward(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, None]:
        mean, log_std, deviation = self.gaussian(obs)
        parts = [mean, log_std, self.warmup.expand(mean.shape[0], 1)]
        return torch.cat(parts if deviation is None else [*parts, deviation], -1), None

    def new_exploration(self, noise: Tensor) -> None:
        """Draw a new exploration matrix from standard normal `noise` (feature_size, size)."""
        with torch.no_grad():
            self.exploration.copy_(self.log_std.exp() * noise)


class DeterministicPolicy(ContinuousPolicy):
    """tanh of a linear head, with normal noise of width `sigma` in unit actions."""

    sigma: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: ModelConfig,
        normalize_obs: bool = False,
        clip_obs: float = 10.0,
    ):
        actions = DeterministicNoise(action_space)
        super().__init__(observation_space, actions.size, model_config, normalize_obs, clip_obs)
        self.actions: DeterministicNoise = actions
        self.register_buffer("sigma", torch.zeros(1))

    def action(self, obs: Tree) -> Tensor:
        """Unit actions (N, size), with gradients."""
        return torch.tanh(self.network(obs))

    def forward(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, None]:
        mean = self.action(obs)
        exploring = torch.cat((self.sigma, self.warmup))
        return torch.cat((mean, exploring.expand(mean.shape[0], 2)), -1), None

    def explore(self, *, warmup: bool, sigma: float = 0.0) -> None:
        super().explore(warmup=warmup)
        self.sigma.fill_(sigma)
