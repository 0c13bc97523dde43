"""Deep Q-networks, with everything that Rainbow adds as switches of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.schedule import Schedule, Scheduled
from distrl.config.sections.base import DERIVED
from distrl.config.sections.heads import ReturnHeadConfig, RiskConfig
from distrl.control.algorithms.off_policy import OffPolicy, OffPolicyConfig
from distrl.control.models.q_network import QModel, QPolicy
from distrl.control.numpy_gradients.dense import DenseChain
from distrl.control.numpy_gradients.q_network import written_out_q
from distrl.functional.atoms import Atoms, atoms_mean, bellman
from distrl.functional.bellman.next_action import check_temperature, munchausen, next_law, take_action
from distrl.functional.distributions.base import ReturnDistribution, Scalar
from distrl.learning.algorithm import Update
from distrl.learning.support_watch import SupportWatch
from distrl.models.parameters.seeded import seeded
from distrl.models.parameters.trained import TrainedModule


class DQNConfig(OffPolicyConfig):
    """Each addition to DQN has its own switch; all of them on are Rainbow."""

    learning_rate: Scheduled[float] = Field(5e-4, ge=0)
    """Step size of Adam. Usual: 6e-5 (pictures) to 2e-3 (small tasks)."""
    max_grad_norm: float | None = Field(10.0, gt=0)
    """Gradients longer than this are scaled down to it; null turns that off. Usual: 10."""
    batch_size: int = Field(64, ge=1)
    """Transitions of one gradient step. Usual: 32-256."""
    target_interval: int = Field(250, ge=1)
    """Gradient steps between two copies to the target network. Usual: 10 (tiny tasks) to 10000."""
    next_action: Literal["greedy", "double", "soft"] = "greedy"
    """How the next action is chosen in the target: by the target network, by the online network (double DQN), or all
    actions by softmax(Q / temperature) with an entropy bonus."""
    head: ReturnHeadConfig = ReturnHeadConfig(name="scalar", kappa=1.0)
    """What the network says about the return of each action: `scalar`, `quantile`, `{name: quantile, size: 32}`, ...
    Keys without a name change the default head."""
    risk: RiskConfig | None = None
    """What acting maximizes instead of the mean: `{name: cvar, level: 0.1}`. Not for scalar heads."""
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
    def _head_of_this_preset(cls, value: Any) -> Any:
        if isinstance(value, dict) and "name" not in value:
            default: ReturnHeadConfig = cls.model_fields["head"].default
            return {**default.model_dump(exclude_none=True), **value}
        return value

    @model_validator(mode="after")
    def _joint_laws(self) -> DQNConfig:
        if self.head.name == "joint" and (self.n_step > 1 or self.munchausen or self.next_action == "soft"):
            raise ConfigError(
                "head joint learns several reward channels, step by step and without entropy.",
                "Set n_step=1, munchausen=0, and next_action to greedy or double.",
            )
        return self

    @field_validator("epsilon", mode="before")
    @classmethod
    def _default_epsilon(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            return value
        return 0.0 if info.data.get("noisy") else Schedule(1.0, 0.05, 10_000)


@register.algorithm(
    "dqn",
    paper="Human-level control through deep reinforcement learning, Mnih et al. 2015",
)
class DQN(OffPolicy):
    """Deep Q-network. Mnih et al. 2015; double: van Hasselt et al. 2016; dueling: Wang et al. 2016; noisy: Fortunato et
    al. 2018; Munchausen: Vieillard et al. 2020."""

    Config = DQNConfig
    compiles = True

    @classmethod
    def build_model(cls, observation_space: Any, action_space: Any, model: Any, config: Any, **options: Any) -> QModel:
        seed = options.pop("seed")
        check_temperature(config.next_action, config.temperature, config.munchausen)
        switches = {name: getattr(config, name) for name in ("head", "risk", "dueling", "noisy")}
        with seeded(seed):
            return QModel(QPolicy(observation_space, action_space, model, **switches, **options))

    @classmethod
    def replay_columns(cls, config: Any) -> dict[str, int]:
        channels = config.head.options().get("channels", 1)
        return {"reward_channels": channels} if channels > 1 else {}

    def make_modules(self) -> dict[str, TrainedModule]:
        trained = TrainedModule(self.policy, target=True, eps=self.config.adam_eps)
        assert trained.target_flat is not None
        self.target: QPolicy = trained.target
        self.distribution: ReturnDistribution = self.policy.distribution
        self.next_action = register.get("next_action", self.config.next_action)
        self.support = SupportWatch(self.distribution, "algorithm.head")
        self._fit: Callable[..., Any] = self.compiled(self.fit)
        self.plain: DenseChain | None = None
        self.plain_target: DenseChain | None = None
        autograd = self.compile or self.bf16 or self.config.munchausen
        if self.config.next_action != "soft" and not autograd:
            self.plain = written_out_q(self.policy, trained.flat)
            self.plain_target = written_out_q(self.target, trained.target_flat)
        return {"policy": trained}

    def set_exploration(self, rng: np.random.Generator) -> None:
        self.policy.epsilon.fill_(float(self.config.epsilon))
        if self.policy.noisy:
            self.policy.redraw_noise(rng)

    def update(self, batch: Columns, rng: np.random.Generator) -> Update:
        if self.policy.noisy:
            self.policy.redraw_noise(rng)
            self.target.redraw_noise(rng)
        if self.plain is not None:
            update = self._written_out_update(batch)
        else:
            row_loss, priorities = self.row_loss(batch, rng, self.policy, self.target)
            loss = (row_loss * batch.weight).mean()
            self.minimize("policy", loss)
            update = Update({"loss/critic": loss.detach()}, priorities)
        self.move_targets()
        return update

    def row_loss(
        self, batch: Columns, rng: np.random.Generator, online: QPolicy, target: QPolicy
    ) -> tuple[Tensor, Tensor | None]:
        """How badly a network fits the target law of another: (N,), and new priorities (N,) where they are wanted."""
        noise = [self.head_noise(batch, rng) for _ in range(2)]
        return self._fit(batch.without("index", "generation", "probability"), *noise, online, target)

    def fit(
        self, batch: Columns, goal_noise: Tensor | None, own_noise: Tensor | None, online: QPolicy, target: QPolicy
    ) -> tuple[Tensor, Tensor | None]:
        """`row_loss` once the heads' noise was drawn: no randomness, so that it can be compiled."""
        values, probs = self.goal(batch, goal_noise, online, target)
        params = take_action(online.returns(batch.obs, own_noise), batch.action)
        loss = self.distribution.loss(params, values, probs)
        return loss, self.priorities(loss, params, values, probs)

    @torch.no_grad()
    def goal(self, batch: Columns, noise: Tensor | None, online: QPolicy, target: QPolicy) -> Atoms:
        """The target law r + discount * Z'(s', a'), the next action by the rule: atoms (N, M).

        `noise` is the head's, (N, S), or None.
        """
        params = target.returns(batch.next_obs, noise)
        # Random levels are for the law; actions are chosen from the head's own, even ones.
        scores = target.score(params) if noise is None else target.values(batch.next_obs)
        own = online.values(batch.next_obs) if self.config.next_action == "double" else scores
        choice = self.next_action(scores, own, batch.get("next_mask"), self.config.temperature)
        law = next_law(choice, *self.distribution.target_atoms(params))
        return Atoms(bellman(self.rewards(batch), batch.discount, law.values), law.probs)

    def rewards(self, batch: Columns) -> Tensor:
        """n-step sums of rewards, transformed: (N,), or (N, K) for heads of K reward channels."""
        if self.distribution.channels > 1:
            return batch.reward_channels
        if not self.config.munchausen:
            return batch.reward
        scale, temperature = self.config.munchausen, self.config.temperature
        values = self.target.values(batch.obs)
        return munchausen(batch.reward, values, batch.action, batch.get("mask"), scale=scale, temperature=temperature)

    def head_noise(self, batch: Columns, rng: np.random.Generator) -> Tensor | None:
        """What the head draws for a batch, if it draws anything."""
        noise = self.policy.head.draw_noise(rng, (len(batch.action),))
        return None if noise is None else self.draw(noise)

    @torch.no_grad()
    def priorities(self, row_loss: Tensor, params: Tensor, values: Tensor, probs: Tensor) -> Tensor | None:
        """New priorities (N,): the size of the error, or the loss where the head gives a law (CB8)."""
        if not self.config.prioritized:
            return None
        if isinstance(self.distribution, Scalar):
            return (self.distribution.mean(params) - atoms_mean(values, probs)).abs()
        return row_loss.detach().clamp_min(0.0)

    def _written_out_update(self, batch: Columns) -> Update:
        """The same step without autograd, for a multi-layer perceptron with a scalar head on a CPU."""
        assert self.plain is not None
        assert self.plain_target is not None
        next_obs, action, weight = batch.next_obs.numpy(), batch.action.numpy(), batch.weight.numpy()
        rows, mask = np.arange(len(action)), batch.get("next_mask")
        values = self.plain_target.forward(next_obs)
        scores = self.plain.forward(next_obs) if self.config.next_action == "double" else values
        best = (scores if mask is None else np.where(mask.numpy(), scores, -np.inf)).argmax(1)
        goal = batch.reward.numpy() + batch.discount.numpy() * values[rows, best]
        online = self.plain.forward(batch.obs.numpy())
        error = online[rows, action] - goal
        size, loss, slope = np.abs(error), *huber_and_slope(error, self.distribution.kappa)  # type: ignore[attr-defined]
        gradient = np.zeros_like(online)
        gradient[rows, action] = slope * weight / len(rows)
        self.plain.backward(gradient)
        self.record_norm(self.modules["policy"].step(float(self.config.learning_rate), self.config.max_grad_norm))
        return Update({"loss/critic": float((loss * weight).mean())}, size)

    @torch.no_grad()
    def diagnose(self, rollout: Columns) -> dict[str, float]:
        values = self.policy.values(rollout.obs)
        chosen = values.gather(-1, rollout.action.unsqueeze(-1))
        self._watch_support(rollout)
        return {
            "policy/value": float(chosen.mean()),
            "policy/value_gap": float((values.amax(-1) - values.mean(-1)).mean()),
            "policy/epsilon": float(self.policy.epsilon),
        }

    def _watch_support(self, batch: Columns) -> None:
        """A grid that the mean targets leave cannot hold the returns: say so, once."""
        if self.support.watching:
            means = self.distribution.mean(self.target.returns(batch.next_obs))
            self.support.observe(batch.reward.unsqueeze(-1) + batch.discount.unsqueeze(-1) * means)
            self.warnings += self.support.warnings()


def huber_and_slope(error: np.ndarray, kappa: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Huber's loss (N,) of errors (N,) and its derivative; None squares, 0 is the absolute error."""
    if kappa is None:
        return 0.5 * np.square(error), error
    if kappa == 0:
        return np.abs(error), np.sign(error)
    slope = np.clip(error, -kappa, kappa)
    return slope * (error - 0.5 * slope), slope
