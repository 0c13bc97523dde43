"""Policy and critic as one module: what policy-gradient learners train."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from distrl.base.columns import Tree, tree_map
from distrl.config.sections.heads import ReturnHeadConfig, RiskConfig
from distrl.config.sections.model import ModelConfig
from distrl.control.models.critic import Critic, DistributionalCritic
from distrl.control.models.policy import Policy
from distrl.functional.returns.lambda_targets import replacement_size
from distrl.functional.risk.measures import make_risk
from distrl.models.heads.make import make_return_head
from distrl.models.layers.torsos import build_torso


class ActorCritic(nn.Module):
    """Policy and critic, with separate torsos or a shared one; observations are normalized.

    With memory, torso and memory are always shared, so one recurrent state serves both. The critic returns values (...)
    or with `critic_head` parameters (..., P), which `critic.value` maps to values.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: ModelConfig,
        normalize_obs: bool = False,
        clip_obs: float = 10.0,
        critic_head: ReturnHeadConfig | None = None,
        risk: RiskConfig | None = None,
    ):
        super().__init__()
        self.policy = Policy(observation_space, action_space, model_config, normalize_obs, clip_obs)
        self.recurrent = self.policy.recurrent
        self.shared = self.recurrent or bool(model_config.shared)
        torso = None if self.shared else build_torso(observation_space, model_config)
        width = self.policy.feature_size if torso is None else int(torso.output_size)
        self.critic = build_critic(torso, width, critic_head, risk)

    def forward(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same as `evaluate`."""
        return self.evaluate(obs, state, first)

    def critic_forward(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> Tensor:
        """The critic's output (N,) or (N, P); arguments as for `value`."""
        if not self.shared:
            return self.critic(obs)
        return self.critic.of_features(self.policy.features(obs, state, first)[0])

    def value(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> Tensor:
        """Compute values (N,) of single observations.

        With memory, `state` is the one after the step before: `states[t, b]` of `unroll` for the final observation of
        step (t, b).
        """
        return self.critic.value(self.critic_forward(obs, state, first))

    def evaluate(
        self, obs: Tree, state: Tree = None, first: Tensor | None = None, levels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute distribution parameters (N, P) and the critic's output (N, ...)."""
        if not self.shared:
            return self.policy(obs)[0], self.critic(obs, levels)
        features, _ = self.policy.features(obs, state, first)
        return self.policy.params(features), self.critic.of_features(features, levels)

    def unroll(
        self, obs: Tree, state: Tree = None, first: Tensor | None = None, levels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tree]:
        """Evaluate fragments as `Policy.unroll`; the critic's output (T, B, ...) comes second.

        `levels (T, B, noise_size)` are for critic heads that learn at random levels.
        """
        features, states = self.policy.unroll_features(obs, state, first)
        params = self.policy.params(features)
        if self.shared:
            return params, self.critic.of_features(features, levels), states
        rows = tree_map(lambda leaf: leaf.flatten(0, 1), obs)
        values = self.critic(rows, None if levels is None else levels.flatten(0, 1))
        return params, values.unflatten(0, features.shape[:2]), states


def build_critic(
    torso: nn.Module | None, width: int, head: ReturnHeadConfig | None, risk: RiskConfig | None
) -> Critic | DistributionalCritic:
    """Build a critic with its own torso, or one on shared features where `torso` is None."""
    risk = risk or RiskConfig()
    if head is None or (head.name == "scalar" and head.kappa is None and risk.name == "mean"):
        return Critic(torso, width)
    return_head = make_return_head(head, width)
    replacement_size(return_head.distribution)  # refuses distributions of several reward channels
    return DistributionalCritic(torso, return_head, make_risk(risk.name, **risk.options()))


def build_actor_critic(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    model_config: ModelConfig,
    normalize_obs: bool = False,
    seed: int = 0,
    clip_obs: float = 10.0,
    critic_head: ReturnHeadConfig | None = None,
    risk: RiskConfig | None = None,
) -> ActorCritic:
    """Build a policy and critic from a seed, without touching torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return ActorCritic(observation_space, action_space, model_config, normalize_obs, clip_obs, critic_head, risk)
