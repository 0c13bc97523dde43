"""CeSoR: policy gradients of episodes' CVaR, with soft risk and a sampler of contexts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import Space
from pydantic import Field, model_validator
from torch import Tensor

from distrl.base.columns import Columns, tree_cat
from distrl.base.errors import ConfigError
from distrl.base.pack import State
from distrl.base.registry import register
from distrl.config.algorithm import AlgorithmConfig
from distrl.config.schedule import Scheduled
from distrl.control.algorithms.off_policy import ActingModel
from distrl.control.algorithms.on_policy.base import Minibatch, OnPolicy
from distrl.control.algorithms.on_policy.episode_memory import EpisodeMemory, episode_returns
from distrl.control.models.context_policy import ContextPolicy, beta_log_density
from distrl.functional.risk.cvar_gradient import clipped_weight, cvar_gradient, soft_risk_level, worst_conditions_mean
from distrl.functional.statistics import effective_sample_size
from distrl.learning.algorithm import Update
from distrl.models.parameters.seeded import seeded


class CesorConfig(AlgorithmConfig):
    """One optimizer step for each `episodes` whole episodes. Needs `store.max_staleness: 0`."""

    learning_rate: Scheduled[float] = Field(1e-2, ge=0)
    """Step size of Adam. Usual: 1e-3 to 1e-2."""
    gamma: Scheduled[float] = Field(1.0, ge=0, le=1)
    """Discount of an episode's return. Usual: 1, or 0.99-0.999."""
    rollout_steps: int = Field(64, ge=1)
    """Time steps of each environment between two collections of whole episodes. Usual: an episode's length."""
    max_grad_norm: float | None = Field(10.0, gt=0)
    """Gradients longer than this are scaled down to it; null turns that off. Usual: 1-40."""
    episodes: int = Field(100, ge=2)
    """Whole episodes of an update, at least. 1 / level of them must still be many. Usual: 50-400."""
    level: float = Field(0.05, gt=0, le=1)
    """Share of the worst episodes whose mean return is maximized; 1 is all of them. Usual: 0.01-0.1."""
    soft_share: float = Field(0.8, ge=0, le=1)
    """Share of the run over which the level falls from 1, so that early updates learn from success. 0 turns it off."""
    cross_entropy: bool = True
    """Sample the contexts of the worst episodes more often, and weight them back."""
    source: float = Field(0.5, gt=0, lt=1)
    """Mean of the environment's context distribution, Beta(2 m, 2 - 2 m) each. 0.5 is uniform."""
    source_share: float = Field(0.2, ge=0, le=1)
    """Share of episodes with contexts of the environment's distribution, which give the quantiles. Usual: 0.2-0.5."""
    tail: float = Field(0.2, gt=0, lt=1)
    """Share of the worst episodes that move the sampler. Usual: 0.1-0.3."""
    weight_clip: float = Field(5.0, ge=1)
    """Importance weights stay between 1 over this and this. Usual: 5."""
    entropy_coef: Scheduled[float] = Field(0.0, ge=0)
    """Weight of the entropy bonus. Usual: 0-0.02."""

    @model_validator(mode="after")
    def _some_source(self) -> CesorConfig:
        if self.cross_entropy and self.source_share == 0:
            raise ConfigError(
                "source_share is 0: no episode estimates quantiles under the environment's distribution.", "Use 0.2."
            )
        return self


@register.algorithm("cesor", paper="Efficient Risk-Averse Reinforcement Learning, Greenberg et al. 2022", entries=[76])
class Cesor(OnPolicy):
    """CVaR policy gradient with cross-entropy sampling. Greenberg et al. 2022, algorithm 1."""

    Config = CesorConfig
    _moment: tuple[int, int | None] = (0, None)

    def __init__(self, config: CesorConfig, model: Any, **options: Any):
        super().__init__(config, model, **options)
        self.memory = EpisodeMemory()

    @classmethod
    def build_model(cls, observation_space: Space, action_space: Space, model: Any, config: Any, **options: Any) -> Any:
        if model.recurrent is not None:
            raise ConfigError(
                f"model.recurrent is {model.recurrent}, but cesor learns from single steps of whole episodes.",
                "Set model.recurrent=null; env.frame_stack shows motion.",
            )
        share = config.source_share if config.cross_entropy else 1.0
        with seeded(options.pop("seed")):
            sampler = {"source": config.source, "source_share": share}
            return ActingModel(ContextPolicy(observation_space, action_space, model, **sampler, **options))

    def resolve(self, env_steps: int, total: int | None) -> None:
        super().resolve(env_steps, total)
        self._moment = env_steps, total

    def level(self) -> float:
        """Return the present level: soft risk."""
        steps, total = self._moment
        if not self.config.soft_share:
            return self.config.level
        if total is None:
            raise ConfigError(
                "cesor lowers its level over the run, which has no length.", "Set stop.env_steps, or soft_share=0."
            )
        return soft_risk_level(steps, total, self.config.level, self.config.soft_share)

    def update(self, rollout: Columns, rng: np.random.Generator) -> Update:
        """Collect episodes; take one step once there are enough."""
        self.trained.remember()
        kept, level = self.memory.copy(), self.level()
        self.set_learning_rates()
        self.memory.add(rollout)
        if len(self.memory) < self.config.episodes:
            return Update({"policy/level": level})
        episodes = self.memory.take()
        batch, metrics, mean = self.episode_batch(episodes, level)
        _, parts = self.gradient(batch, self._loss)
        norm = self.clip_gradient()
        self.trained.optimizer.step()
        if not bool(torch.isfinite(torch.as_tensor(norm))):
            self.trained.rollback()
            self.memory = kept
            raise self.refuse(rollout, batch)
        self.policy.context_mean.copy_(mean)
        losses = {f"loss/{name}": float(value) for name, value in parts.items()}
        return Update({**losses, **metrics, "loss/grad_norm": float(norm)})

    @torch.no_grad()
    def episode_batch(self, episodes: list[Columns], level: float) -> tuple[Columns, dict[str, float], Tensor]:
        """Return the steps of N episodes with coefficients, metrics, and the sampler's means (C,)."""
        config, size = self.config, self.policy.actions.size
        chosen = torch.stack([episode.action["context"][0] for episode in episodes])
        contexts, from_source = chosen[:, :size], chosen[:, size] > 0.5
        drawn_by = torch.stack([episode.params[0, -size:] for episode in episodes])
        source = torch.full_like(drawn_by, config.source)
        log_ratio = (beta_log_density(contexts, source) - beta_log_density(contexts, drawn_by)).sum(-1)
        weight = clipped_weight(log_ratio, from_source, config.weight_clip)
        steps = [episode[1:] for episode in episodes]  # the first step only chooses the context
        returns = episode_returns(steps, float(config.gamma))
        found = cvar_gradient(returns, weight, level, from_source)
        lengths = torch.tensor([len(part.reward) for part in steps], device=returns.device)
        batch = tree_cat(steps).with_(coefficient=found.coefficient.repeat_interleave(lengths))
        mean = self.policy.context_mean
        if config.cross_entropy:
            shares = {"level": config.level, "tail": config.tail, "source_share": config.source_share}
            mean = worst_conditions_mean(contexts, returns, weight, from_source, **shares)
        metrics = {
            "policy/level": level,
            "policy/threshold": float(found.threshold),
            "policy/context_mean": float(mean.mean()),
            "policy/effective_episodes": float(effective_sample_size(weight.log())),
        }
        return batch, metrics, mean

    def loss(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return -sum coefficient * log pi(a|s) over all steps, minus the entropy bonus."""
        params, _ = self.policy(batch.obs)
        actions, mask = self.policy.actions, batch.get("mask")
        total = actor = -(batch.coefficient * actions.logp(params, batch.action, mask)).sum()
        parts = {"actor": actor}
        if self.config.entropy_coef:
            parts["entropy"] = entropy = batch.mean(actions.entropy(params, mask))
            total = total - self.config.entropy_coef * entropy
        return total, parts

    @torch.no_grad()
    def diagnose(self, rollout: Columns) -> dict[str, float]:
        params, actions, mask = self.rollout_params(rollout), self.policy.actions, rollout.get("mask")
        batch = Minibatch.whole(rollout)
        return {
            "policy/kl": float(batch.mean(actions.kl(rollout.params, params, mask))),
            "policy/entropy": float(batch.mean(actions.entropy(params, mask))),
        }

    def state(self) -> State:
        return {**super().state(), "episodes": self.memory.state()}

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.memory.load_state(state["episodes"], self.device)
