"""Weights of several rewards that change while the run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns, Tree
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.language import LanguageConfig
from distrl.language.algorithms.base import ComponentConfig, LanguageAlgorithm, LanguageAlgorithmConfig
from distrl.language.rewards.plan import combine
from distrl.language.rewards.weights import (
    dynamic_reward_weighting,
    extend_front,
    gradient_influence,
    hypervolume,
    hypervolume_factor,
    mirror_step,
    pareto_front,
)


class DynamicRewardConfig(LanguageAlgorithmConfig):
    """Dynamic reward weighting: by hypervolume, or by the gradients of the rewards."""

    mode: Literal["hypervolume", "gradient"] = "gradient"
    """`gradient` weighs rewards by how much each one's gradient helps all; `hypervolume` keeps the weights of `reward`
    and learns more from batches that reach new trade-offs."""
    reference_point: float = 0.0
    """hypervolume: what every component must exceed to count."""
    regularizer: float = Field(1e-3, gt=0)
    """gradient: mu; weights move by learning_rate / mu times the influence. Smaller moves faster."""
    accumulate: int = Field(1, ge=1)
    """gradient: batches whose influence is averaged for one move of the weights."""
    least_weight: float = Field(1e-3, ge=0)
    """gradient: no reward's weight falls below it."""
    influence_parameters: str = ""
    """gradient: only parameters whose name contains this are compared; all by default. Less memory."""
    advantage: ComponentConfig = "grpo"
    """Of the combined reward, and in mode gradient of each reward alone."""


@register.algorithm("dynamic_reward_weighting", paper="Dynamic Reward Weighting, 2025", entries=[30])
class DynamicRewardWeighting(LanguageAlgorithm):
    """GRPO for several rewards with weights that change during training.

    A new point of the front: a batch's mean components, of answers to fresh prompts made after the last update.
    """

    Config = DynamicRewardConfig
    all_components = True

    def begin(self, components: Sequence[str], settings: LanguageConfig) -> None:
        super().begin(components, settings)
        count = len(self.plan.names)
        if count < 2:
            raise ConfigError(
                f"dynamic_reward_weighting weighs several rewards; there is {', '.join(self.plan.names)} alone.",
                "Name more components in algorithm.reward.components, or choose a task that gives more.",
            )
        self.by_gradient = self.schedules.mode == "gradient"
        first = torch.tensor(self.plan.weights or [1.0] * count, dtype=torch.float64)
        if bool((first <= 0).any()):
            raise ConfigError(
                f"dynamic_reward_weighting: weights {first.tolist()} in algorithm.reward.components; expected > 0."
            )
        self.part_weights = first / first.sum()
        self.influence = torch.zeros(count, dtype=torch.float64)  # summed over `measured` batches
        self.measured = 0
        self.front = torch.zeros(0, count, dtype=torch.float64)  # trade-offs reached so far
        self._next: dict[str, object] = {}  # state after the update
        self._metrics: dict[str, float] = {}  # of the current batch
        if self.by_gradient:
            self.plan = replace(self.plan, combination=dynamic_reward_weighting)

    def prepare(self, batch: Columns) -> Columns:
        batch = super().prepare(batch)
        if self.by_gradient:
            return batch
        return batch.with_(advantage=batch.advantage * self._hypervolume_factor(batch))

    def _hypervolume_factor(self, batch: Columns) -> float:
        """Compute the factor on advantages from this batch's gain of hypervolume; 1 at first."""
        point = batch.components.double().mean(0).cpu()
        reference = torch.full_like(point, self.config.reference_point)
        longer, gain = extend_front(self.front, point, reference)
        factor = hypervolume_factor(gain) if len(self.front) else 1.0
        front = pareto_front(longer)
        self._next = {"front": front}
        self._metrics = {"policy/reward_factor": factor, "policy/hypervolume": hypervolume(front, reference)}
        return factor

    def add_columns(self, batch: Columns) -> Columns:
        """In mode gradient: weights that this batch's gradients have moved combine its reward."""
        if not self.by_gradient:
            return batch
        influence = self.influence + gradient_influence(self.part_gradients(batch)).double().cpu()
        measured, weights = self.measured + 1, self.part_weights
        if measured == self.config.accumulate:
            rate = float(self.config.learning_rate) / self.config.regularizer
            weights = mirror_step(weights, influence / measured, rate, self.config.least_weight)
            influence, measured = torch.zeros_like(influence), 0
        self._next = {"part_weights": weights, "influence": influence, "measured": measured}
        self._metrics = {f"policy/weight_{name}": float(w) for name, w in zip(self.plan.names, weights, strict=True)}
        order = [self.components.index(name) for name in self.plan.names]
        plan = replace(self.plan, weights=weights.tolist())
        rewards = combine(plan, batch.raw_reward_components[:, order], batch.mask.sum(1))
        return batch.with_(value=rewards.value, reward=rewards.reward)

    def part_gradients(self, batch: Columns) -> Tensor:
        """Gradients of the loss with each component as the only reward, (K, P)."""
        gradients = []
        for component in batch.components.unbind(1):
            alone = batch.with_(reward=component)
            if self.credit is not None:
                alone = alone.with_(token_reward=self.credit(alone))
            alone = alone.with_(advantage=self.advantage(alone, **self.component_arguments()))
            with torch.enable_grad():
                self.text_gradient(self.add_loss_weights(alone))
            wanted = self.config.influence_parameters
            chosen = [g.flatten() for name, g in self.flat.views(self.flat.grad).items() if wanted in name]
            if not chosen:
                raise ConfigError(f"algorithm.influence_parameters is {wanted!r}; no parameter's name contains it.")
            gradients.append(torch.cat(chosen))
        return torch.stack(gradients)

    def after_update(self, batch: Columns, metrics: Mapping[str, float]) -> dict[str, float]:
        for name, value in self._next.items():
            setattr(self, name, value)
        return self._metrics

    def state(self) -> dict[str, Tree]:
        own = {name: getattr(self, name) for name in ("part_weights", "influence", "measured", "front")}
        return {**super().state(), **own}

    def load_state(self, state: Mapping[str, Tree]) -> None:
        super().load_state(state)
        for name in ("part_weights", "influence", "front"):
            setattr(self, name, torch.as_tensor(state[name]).double().cpu())
        self.measured = int(state["measured"])
