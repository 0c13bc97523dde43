"""Base of the actor-critics for continuous actions, with an ensemble of critics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import Space
from pydantic import Field, model_validator
from torch import Tensor, nn

from distrl.base.columns import Columns, Tree
from distrl.base.errors import ConfigError
from distrl.config.schedule import Scheduled
from distrl.config.sections.heads import ReturnHeadConfig, RiskConfig
from distrl.control.algorithms.off_policy import OffPolicy, OffPolicyConfig
from distrl.control.models.continuous_actor_critic import ContinuousActorCritic, build_continuous_actor_critic
from distrl.functional.atoms import Atoms
from distrl.functional.bellman.ensembles import critic_rule
from distrl.functional.distributions.base import Scalar
from distrl.functional.distributions.gaussian import Gaussian, Mixture
from distrl.functional.risk.measures import Mean, make_risk
from distrl.learning.support_watch import SupportWatch
from distrl.models.layers.dense_ensemble import Members
from distrl.models.parameters.trained import TrainedModule


class ContinuousConfig(OffPolicyConfig):
    """Keys that every off-policy learner of continuous control has."""

    learning_rate: Scheduled[float] = Field(3e-4, ge=0)
    """Step size of Adam, for policy and critics. Usual: 3e-4 (MuJoCo) to 1e-3 (small tasks)."""
    actor_learning_rate: Scheduled[float] | None = Field(None, ge=0)
    """Another step size for the policy; null is `learning_rate`. Usual: null."""
    tau: float = Field(0.005, gt=0, le=1)
    """Step of the target networks at each of their updates. Usual: 0.005-0.02."""
    critics: int = Field(2, ge=1, le=100)
    """Networks in the ensemble. More are more cautious; each costs as much. Usual: 1-10."""
    critic_head: ReturnHeadConfig = Field(default_factory=ReturnHeadConfig)
    """Return distribution of the critics: `scalar`, `quantile`, `gaussian`, ... or `{name: quantile, size: 25}`."""
    critic_hidden: list[int] | None = None
    """Layer sizes of the critics in place of `model.hidden`. Usual: null."""
    layer_norm: bool = False
    """Normalize the critics' hidden layers: keeps values in bounds at high replay ratios."""
    ensemble: Literal["min", "mean", "truncate", "quantile_min", "subset"] = "min"
    """Rule that makes one target of the critics: `min` takes the distribution with the lowest mean, `mean` mixes all,
    `truncate` pools the atoms and drops the largest, `quantile_min` takes the lowest quantile by quantile, `subset` the
    minimum over a few drawn at random."""
    drop: int = Field(2, ge=0)
    """truncate: atoms dropped per critic. More are more pessimistic. Usual: 0-5 of 25."""
    subset: int = Field(2, ge=1)
    """subset: how many critics are drawn. Usual: 2."""
    policy_interval: int = Field(1, ge=1)
    """Gradient steps of the critics between two of the policy. Usual: 1-2, or 20 at high replay ratios."""
    risk: RiskConfig = Field(default_factory=RiskConfig)
    """Objective of the policy: the `mean` of the return, or a risk measure of its distribution."""
    reset_every: int | None = Field(None, ge=1)
    """Gradient steps after which all networks are reset, with the replay kept: sustains learning at high replay ratios.
    Usual: null, or 100000-200000."""

    @model_validator(mode="after")
    def _check_ensemble(self) -> ContinuousConfig:
        if self.ensemble == "subset" and self.subset > self.critics:
            raise ConfigError(
                f"algorithm.subset is {self.subset}, of {self.critics} critics.",
                "Use more critics or a smaller subset.",
            )
        size = self.critic_head.options().get("size") or 1
        if self.ensemble == "truncate" and self.drop >= size:
            raise ConfigError(
                f"algorithm.drop is {self.drop}, of {size} atoms per critic: nothing would be left.",
                "Set algorithm.drop below algorithm.critic_head.size.",
            )
        return self


class ContinuousLearner(OffPolicy):
    """Base of the actor-critics: critics and their targets. A subclass defines `update`."""

    Config = ContinuousConfig
    compiles = True
    stochastic: ClassVar[bool] = True

    @classmethod
    def build_model(
        cls, observation_space: Space, action_space: Space, model: Any, config: Any, **options: Any
    ) -> ContinuousActorCritic:
        critics = {"critics": config.critics, "hidden": config.critic_hidden, "layer_norm": config.layer_norm}
        options |= {"critic_options": critics | {"head": config.critic_head}, "stochastic": cls.stochastic}
        options |= {"policy_options": cls.policy_options(config), "number": cls.first_number(config)}
        return build_continuous_actor_critic(observation_space, action_space, model, **options)

    @classmethod
    def policy_options(cls, config: ContinuousConfig) -> dict[str, object]:
        """Return options of the policy's class."""
        return {}

    @classmethod
    def first_number(cls, config: ContinuousConfig) -> float:
        """Return the initial value of the scalar that is learned beside the networks, if any."""
        return 0.0

    def make_modules(self) -> dict[str, TrainedModule]:
        config = self.config
        modules = {
            "policy": TrainedModule(self.policy, target=not self.stochastic, eps=config.adam_eps),
            "critics": TrainedModule(self.model.critics, target=True, eps=config.adam_eps),
        }
        self.critics, self.target_critics = self.model.critics, modules["critics"].target
        self.distribution = self.critics.distribution
        self.support = SupportWatch(self.distribution, "algorithm.critic_head")
        self.scale = self.policy.actions.scale
        if self.compile:
            self._compile_networks(modules["policy"].target)
        self.rule: Callable[[Tensor, Tensor], Atoms] = critic_rule(config.ensemble, config.drop)
        risk = make_risk(config.risk.name, **config.risk.options())
        self.risk = None if isinstance(risk, Mean) else risk
        if self.risk is not None and isinstance(self.distribution, Scalar):
            raise ConfigError(
                f"algorithm.risk is {config.risk.name}, but a scalar critic learns the mean of the return only.",
                "Use another algorithm.critic_head, for example quantile.",
            )
        return modules

    def _compile_networks(self, target_policy: nn.Module | None) -> None:
        """Compile networks and losses; random draws and ensemble rules stay eager."""
        self.critics.compile(dynamic=False)
        if self.config.ensemble != "subset":  # any two of ten networks would be a graph of its own
            self.target_critics.compile(dynamic=False)
        for policy in (self.policy, target_policy):
            for name in ("sample", "action"):  # a stochastic policy's, a deterministic one's
                if hasattr(policy, name):
                    setattr(policy, name, self.compiled(getattr(policy, name)))
        self.critic_losses = self.compiled(self.critic_losses)  # type: ignore[method-assign]

    def next_return(self, obs: Tree, action: Tensor, rng: np.random.Generator) -> Atoms:
        """Return the target critics' distribution (N, M) of an action, by the ensemble's rule."""
        members = None
        if self.config.ensemble == "subset":
            members = rng.choice(self.config.critics, self.config.subset, replace=False).tolist()
        count = self.config.critics if members is None else len(members)
        noise = self.target_critics.draw_noise(rng, len(action), count)
        params = self.target_critics(obs, action, members=members, noise=None if noise is None else self.draw(noise))
        values, probs = self.distribution.atoms(params)  # (E, N, M)
        return self.rule(values, probs)

    def learn_critics(
        self, batch: Columns, values: Tensor, probs: Tensor, rng: np.random.Generator
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Take one step of all critics towards atoms (N, M); returns metrics and priorities (N,)."""
        if self.support.watching:
            self.support.observe((values * probs).sum(-1))
        noise = self.critics.draw_noise(rng, len(values))
        params = self.critics(
            batch.obs, self.scale.to_unit(batch.action), noise=None if noise is None else self.draw(noise)
        )
        losses = self.critic_losses(params, values, probs)  # (E, N)
        rows = losses.sum(0)
        loss = (rows * batch.weight).mean()
        self.minimize("critics", loss)
        metrics = {"loss/critic": loss.detach()}
        return metrics, self.priorities(params, rows, values, probs) if self.config.prioritized else None

    def critic_losses(self, params: Tensor, values: Tensor, probs: Tensor) -> Tensor:
        """Return the loss (E, N) of each critic's return distribution against the target."""
        return self.distribution.loss(params, values, probs)

    @torch.no_grad()
    def priorities(self, params: Tensor, losses: Tensor, values: Tensor, probs: Tensor) -> Tensor:
        """Return new priorities (N,): mean losses, or absolute errors of means (scalar, densities)."""
        if isinstance(self.distribution, Scalar | Gaussian | Mixture):
            return (self.distribution.mean(params) - (values * probs).sum(-1)).abs().mean(0)
        return losses.detach() / self.config.critics

    def action_value(self, obs: Tree, action: Tensor, members: Members = None) -> Tensor:
        """Return critic values (N,) for the policy's loss, without gradients into the critics."""
        params = self.critics(obs, action, frozen=True, members=members)
        values = self.distribution.mean(params) if self.risk is None else self.distribution.risk(params, self.risk)
        if len(values) == 1:
            return values.squeeze(0)
        return values.amin(0) if self.config.ensemble in ("min", "quantile_min") else values.mean(0)

    def improve_policy(self, loss: Tensor) -> None:
        """Take one optimizer step of the policy."""
        self.minimize("policy", loss, self.config.actor_learning_rate)

    def step_number(self, gradient: Tensor, learning_rate: float | None) -> None:
        """Take one step of the learned scalar along its gradient; no rate: `learning_rate` of the config."""
        value = self.model.number.value
        value.grad.copy_(gradient)
        rate = self.config.learning_rate if learning_rate is None else learning_rate
        self.record_norm(self.modules["number"].step(float(rate)))

    @property
    def policy_due(self) -> bool:
        """True if this gradient step also updates the policy."""
        return (self.gradient_steps + 1) % int(self.config.policy_interval) == 0

    def finish_step(self, rng: np.random.Generator) -> None:
        """Update targets; reset all networks when it is due."""
        self.move_targets()
        every = self.config.reset_every
        if every is not None and self.gradient_steps % every == 0:
            self.reset_networks(int(rng.integers(2**31)))

    def reset_networks(self, seed: int) -> None:
        """Reset all weights, targets and optimizers. Nikishin et al. 2022."""
        fresh = self.model.remake(seed=seed).to(self.device)
        for name, trained in self.modules.items():
            trained.reset(getattr(fresh, name))

    @torch.no_grad()
    def diagnose(self, rollout: Columns) -> dict[str, float]:
        params = self.critics(rollout.obs, self.scale.to_unit(rollout.action))
        means = self.distribution.mean(params)
        metrics = {"policy/value": float(means.mean())}
        if len(means) > 1:
            metrics["policy/critic_spread"] = float(means.std(0).mean())
        self.warnings += self.support.warnings()
        return metrics
