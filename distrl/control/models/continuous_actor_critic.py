"""Networks of off-policy continuous control: policy, ensemble of critics, and a temperature."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from distrl.config.sections.model import ModelConfig
from distrl.control.models.continuous_policy import DeterministicPolicy, SquashedPolicy
from distrl.control.models.critic_ensemble import CriticEnsemble


class Number(nn.Module):
    """One learned number: the logarithm of a temperature, or the average reward."""

    def __init__(self, value: float):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value]))

    def forward(self) -> Tensor:
        """(1,)."""
        return self.value


class ContinuousActorCritic(nn.Module):
    """Policy (deterministic with noise unless `stochastic`), critics and a shared number."""

    policy: Any

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: ModelConfig,
        *,
        stochastic: bool,
        normalize_obs: bool = False,
        clip_obs: float = 10.0,
        number: float = 0.0,
        policy_options: dict[str, Any] | None = None,
        critic_options: dict[str, Any] | None = None,
    ):
        super().__init__()
        policy_class: type[SquashedPolicy | DeterministicPolicy] = SquashedPolicy if stochastic else DeterministicPolicy
        self.policy = policy_class(
            observation_space, action_space, model_config, normalize_obs, clip_obs, **(policy_options or {})
        )
        size = self.policy.actions.size
        self.critics = CriticEnsemble(observation_space, size, model_config, **(critic_options or {}))
        self.number = Number(number)


def build_continuous_actor_critic(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    model_config: ModelConfig,
    *,
    seed: int = 0,
    **options: Any,
) -> ContinuousActorCritic:
    """Build the networks from a seed, without touching torch's own generator.

    The module's `remake(seed=...)` builds another one, for learners that reset their networks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = ContinuousActorCritic(observation_space, action_space, model_config, **options)
    model.remake = partial(  # type: ignore[assignment]
        build_continuous_actor_critic, observation_space, action_space, model_config, **options
    )
    return model
