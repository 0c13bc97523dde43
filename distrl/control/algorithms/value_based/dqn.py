"""Deep Q-networks, with the additions of Rainbow as switches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from gymnasium import Space
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.schedule import Schedule, Scheduled
from distrl.config.sections.base import DERIVED
from distrl.config.sections.heads import ReturnHeadConfig, RiskConfig
from distrl.control.algorithms.off_policy import OffPolicyConfig
from distrl.control.algorithms.value_based.base import ValueBased
from distrl.control.models.q_network import QModel, QPolicy
from distrl.functional.atoms import Atoms, atoms_mean, bellman
from distrl.functional.bellman.next_action import check_temperature, munchausen, next_distribution, take_action
from distrl.functional.distributions.base import Scalar
from distrl.models.parameters.seeded import seeded


class DQNConfig(OffPolicyConfig):
    """Each addition to DQN has its own switch; all of them on are Rainbow."""

    learning_rate: Scheduled[float] = Field(5e-4, ge=0)
    """Step size of Adam. Usual: 6e-5 (images) to 2e-3 (small tasks)."""
    max_grad_norm: float | None = Field(10.0, gt=0)
    """Gradients longer than this are scaled down to it; null turns that off. Usual: 10."""
    batch_size: int = Field(64, ge=1)
    """Transitions of one gradient step. Usual: 32-256."""
    target_interval: int = Field(250, ge=1)
    """Gradient steps between two copies to the target network. Usual: 10 (tiny tasks) to 10000."""
    next_action: Literal["greedy", "double", "soft"] = "greedy"
    """Rule for the next action in the target: chosen by the target network, by the online network (double DQN), or all
    actions by softmax(Q / temperature) with an entropy bonus."""
    head: ReturnHeadConfig = ReturnHeadConfig(name="scalar", kappa=1.0)
    """Return distribution of each action: `scalar`, `quantile`, `{name: quantile, size: 32}`, ... Keys without a name
    change the default head."""
    risk: RiskConfig | None = None
    """Risk measure that acting maximizes instead of the mean: `{name: cvar, level: 0.1}`. Not for scalar heads."""
    dueling: bool = False
    """Separate streams for the value of the state and the advantages of the actions."""
    noisy: bool = False
    """Explore by learned noise on the head's weights instead of epsilon."""
    epsilon: Scheduled[float] = Field(DERIVED, ge=0, le=1)
    """Probability of a random action. Default: 1 falling to 0.05 over 10000 steps, or 0 with `noisy`. Usual: to
    0.01-0.1, over 10 % of the run."""
    temperature: float = Field(0.03, ge=0)
    """Of soft and Munchausen targets. Higher stays more random. Usual: 0.01-0.1."""
    munchausen: float = Field(0.0, ge=0, le=1)
    """Weight of the log-probability that is added to rewards; 0 turns it off. Usual: 0.9, with next_action soft."""

    @field_validator("head", mode="before")
    @classmethod
    def _head_of_this_preset(cls, value: object) -> object:
        if isinstance(value, dict) and "name" not in value:
            default: ReturnHeadConfig = cls.model_fields["head"].default
            return {**default.model_dump(exclude_none=True), **value}
        return value

    @model_validator(mode="after")
    def _joint_distributions(self) -> DQNConfig:
        if self.head.name == "joint" and (self.n_step > 1 or self.munchausen or self.next_action == "soft"):
            raise ConfigError(
                "head joint learns several reward channels, step by step and without entropy.",
                "Set n_step=1, munchausen=0, and next_action to greedy or double.",
            )
        return self

    @field_validator("epsilon", mode="before")
    @classmethod
    def _default_epsilon(cls, value: object, info: ValidationInfo) -> object:
        if value is not None:
            return value
        return 0.0 if info.data.get("noisy") else Schedule(1.0, 0.05, 10_000)


@register.algorithm("dqn", paper="Human-level control through deep reinforcement learning, Mnih et al. 2015")
class DQN(ValueBased):
    """Deep Q-network. Mnih et al. 2015.

    Double: van Hasselt et al. 2016; dueling: Wang et al. 2016; noisy: Fortunato et al. 2018; Munchausen: Vieillard et
    al. 2020.
    """

    Config = DQNConfig
    policy_class: ClassVar[type[QPolicy]] = QPolicy

    @classmethod
    def build_model(cls, observation_space: Space, action_space: Space, model: Any, config: Any, **options: Any) -> Any:
        options |= cls.policy_options(config)
        with seeded(options.pop("seed")):
            return cls.make_model(partial(cls.policy_class, observation_space, action_space, model, **options), config)

    @classmethod
    def policy_options(cls, config: DQNConfig) -> dict[str, object]:
        """Return options of the policy's class."""
        check_temperature(config.next_action, config.temperature, config.munchausen)
        return {name: getattr(config, name) for name in ("head", "risk", "dueling", "noisy")}

    @classmethod
    def make_model(cls, make_policy: Callable[[], QPolicy], config: DQNConfig) -> nn.Module:
        """Build the module of all networks."""
        return QModel(make_policy())

    @classmethod
    def replay_columns(cls, config: DQNConfig) -> dict[str, int]:  # type: ignore[override]
        channels = config.head.options().get("channels", 1)
        return {"reward_channels": channels} if channels > 1 else {}

    def loss(
        self, batch: Columns, target_noise: Tensor | None, noise: Tensor | None, online: QPolicy, target: QPolicy
    ) -> tuple[Tensor, Tensor | None]:
        values, probs = self.td_target(batch, target_noise, online, target)
        params = take_action(online.returns(batch.obs, noise), batch.action)
        loss = self.distribution.loss(params, values, probs)
        return loss, self.priorities(loss, params, values, probs)

    @torch.no_grad()
    def td_target(self, batch: Columns, noise: Tensor | None, online: QPolicy, target: QPolicy) -> Atoms:
        """Return r + discount * Z'(s', a'), the next action by the rule: atoms (N, M)."""
        params = target.returns(batch.next_obs, noise)
        # Random levels are for the distribution; actions are chosen from the head's own, even ones.
        scores = target.score(params) if noise is None else target.values(batch.next_obs)
        own = online.values(batch.next_obs) if self.config.next_action == "double" else scores
        choice = self.next_action(scores, own, batch.get("next_mask"), self.config.temperature)
        next_return = next_distribution(choice, *self.distribution.target_atoms(params))
        return Atoms(bellman(self.rewards(batch), batch.discount, next_return.values), next_return.probs)

    def rewards(self, batch: Columns) -> Tensor:
        """Return transformed n-step rewards: (N,), or (N, K) for heads of K channels."""
        if self.distribution.channels > 1:
            return batch.reward_channels
        if not self.config.munchausen:
            return batch.reward
        scale, temperature = self.config.munchausen, self.config.temperature
        values = self.target.values(batch.obs)
        return munchausen(batch.reward, values, batch.action, batch.get("mask"), scale=scale, temperature=temperature)

    @torch.no_grad()
    def priorities(self, row_loss: Tensor, params: Tensor, values: Tensor, probs: Tensor) -> Tensor | None:
        """Return new priorities (N,): sizes of errors, or losses of distributions."""
        if not self.config.prioritized:
            return None
        if isinstance(self.distribution, Scalar):
            return (self.distribution.mean(params) - atoms_mean(values, probs)).abs()
        return row_loss.detach().clamp_min(0.0)

    @property
    def one_step_td(self) -> bool:
        own = all(getattr(type(self), name) is getattr(DQN, name) for name in ("loss", "td_target", "rewards"))
        return own and not self.config.munchausen
