"""Networks of value-based learners: a policy that acts on action values."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError
from distrl.config.sections.heads import ReturnHeadConfig, RiskConfig
from distrl.config.sections.model import ModelConfig
from distrl.control.models.actions.epsilon_greedy import EpsilonGreedy
from distrl.functional.distributions.base import ReturnDistribution, Scalar
from distrl.functional.distributions.categorical import TwoHot
from distrl.functional.risk.measures import make_risk
from distrl.models.heads.base import LinearHead, ReturnHead
from distrl.models.heads.make import make_return_head
from distrl.models.layers.noisy import NoisyLinear, redraw_noise
from distrl.models.layers.normalizer import Normalizer
from distrl.models.layers.torsos import MLP, build_torso
from distrl.models.parameters.precision import HiddenPrecision


class QPolicy(nn.Module, HiddenPrecision):
    """Return distributions of all actions, with the interface of `Policy`.

    Args:
        head: Config, or a family for one linear layer.
        risk: Measure that acting maximizes; None is the mean.
    """

    recurrent = False
    epsilon: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: ModelConfig,
        head: ReturnHeadConfig | ReturnDistribution,
        risk: RiskConfig | None = None,
        dueling: bool = False,
        noisy: bool = False,
        normalize_obs: bool = False,
        clip_obs: float = 10.0,
    ):
        super().__init__()
        self.actions = EpsilonGreedy(discrete_actions(action_space))
        self.normalizer = Normalizer(observation_space, normalize_obs, clip_obs)
        self.torso = small_first_weights(build_torso(observation_space, model_config))
        make_linear = NoisyLinear if noisy else nn.Linear
        sizes = int(self.torso.output_size), self.actions.n
        if isinstance(head, ReturnDistribution):
            self.head: ReturnHead = LinearHead(head, *sizes, dueling, make_linear)
        else:
            self.head = make_return_head(head, *sizes, dueling, make_linear)
        self.distribution: ReturnDistribution = self.head.distribution
        self.score = self.distribution.mean
        if risk is not None and risk.name != "mean":
            require_distribution(self.distribution)
            self.score = partial(self.distribution.risk, measure=make_risk(risk.name, **risk.options()))
        self.noisy = noisy
        self.register_buffer("epsilon", torch.ones(()))

    def normalize(self, obs: Tree) -> Tree:
        """Raw observations to what `forward` takes."""
        return self.normalizer(obs)

    def initial_state(self, batch: int) -> None:
        """No memory."""
        return

    def returns(self, obs: Tree, noise: Tensor | None = None) -> Tensor:
        """Compute return parameters (N, A, P); noise (N, S) is for heads with random levels."""
        if not self.bf16:
            return self.head(self.torso(obs), noise)
        with self.hidden_precision(self.epsilon.device):
            features = self.torso(obs)
        return self.head(features.float(), noise)

    def values(self, obs: Tree) -> Tensor:
        """Compute the mean or risk (N, A) that acting maximizes."""
        return self.score(self.returns(obs))

    def forward(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, None]:
        """Parameters of the action distribution (B, A + 1), and no state."""
        return self.actions.join_epsilon(self.values(obs), self.epsilon), None

    def redraw_noise(self, rng: np.random.Generator) -> None:
        """New noise in noisy layers."""
        redraw_noise(self, rng)


class QModel(nn.Module):
    """Learned module of value-based learners: the policy alone."""

    def __init__(self, policy: QPolicy):
        super().__init__()
        self.policy = policy


def small_first_weights(module: Any) -> Any:
    """Reset layers to torch's own uniform weights, +-1/sqrt(inputs), and return the module.

    Orthogonal layers with gain sqrt(2) would make the first bootstrap targets large.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.reset_parameters()
    return module


def discrete_actions(space: spaces.Space) -> int:
    """Return the number of actions of a Discrete space; ConfigError for any other."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    raise ConfigError(
        f"value-based learners choose among the actions of a Discrete space; this one is {space}.",
        "For continuous actions use sac, td3, ddpg or ppo; for several choices at once ppo.",
    )


def require_distribution(distribution: ReturnDistribution) -> None:
    """Raise ConfigError for a head that predicts a mean only."""
    if isinstance(distribution, Scalar | TwoHot):
        raise ConfigError(
            f"a risk measure needs a return distribution; {type(distribution).__name__} gives its mean only.",
            "Use algorithm.head=quantile (or iqn, fqf, categorical, gaussian, mixture), or leave out algorithm.risk.",
        )


def plain_scalar(policy: QPolicy) -> bool:
    """Return True for an MLP with one number per action, which has an explicit implementation."""
    torso, head = policy.torso, policy.head
    return (
        type(head) is LinearHead
        and type(head.distribution) is Scalar
        and type(head.layer) is nn.Linear
        and head.value_layer is None
        and head.offset is None
        and type(torso) is MLP
        and torso.flatten is None
    )
