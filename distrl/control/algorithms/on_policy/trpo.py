"""Trust region policy optimization."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.algorithm import AlgorithmConfig
from distrl.config.schedule import Scheduled
from distrl.control.algorithms.on_policy.base import Minibatch, OnPolicy, valid_rows
from distrl.control.models.actor_critic import ActorCritic
from distrl.functional.policy.conjugate_gradient import conjugate_gradient, trust_region_scale
from distrl.functional.policy.objectives import value_loss
from distrl.functional.returns.state_values import Steps, gae
from distrl.functional.statistics import masked_normalize
from distrl.learning.algorithm import Update
from distrl.models.layers.dense import Dense


class TRPOConfig(AlgorithmConfig):
    """The size of a policy step is given by a divergence; `learning_rate` is the critic's alone."""

    learning_rate: Scheduled[float] = Field(1e-3, ge=0)
    """Step size of the critic's Adam. Too large diverges, too small crawls. Usual: 3e-4 to 1e-3."""
    rollout_steps: int = Field(256, ge=1)
    """Time steps of each environment in one batch. A batch gives one policy step, so it is large: 1,000-50,000."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Gradients of the critic longer than this are scaled down to it; null turns that off. Usual: null."""
    max_kl: Scheduled[float] = Field(0.01, gt=0)
    """Radius of the trust region in nats. Larger moves faster and breaks sooner. Usual: 0.005-0.05."""
    lam: Scheduled[float] = Field(0.97, ge=0, le=1)
    """GAE's lambda. Lower: less variance, more bias. Usual: 0.92-0.98."""
    cg_iterations: int = Field(10, ge=1)
    """Products with the Fisher matrix that the step's direction may take. More: closer to the natural gradient.
    Usual: 10-20."""
    cg_damping: float = Field(0.1, ge=0)
    """Added to the Fisher matrix's diagonal. More: steadier, closer to the plain gradient. Usual: 0.01-0.1."""
    backtracks: int = Field(10, ge=1)
    """Step lengths tried before the batch's step is given up. Usual: 10-15."""
    backtrack_factor: float = Field(0.8, gt=0, lt=1)
    """Each length tried is this part of the one before. Usual: 0.5-0.8."""
    critic_epochs: int = Field(10, ge=1)
    """Passes of the critic over each batch. Usual: 5-20."""
    minibatches: int = Field(4, ge=1)
    """Optimizer steps of the critic per pass. Usual: 1-32."""


@register.algorithm("trpo", paper="Trust Region Policy Optimization, Schulman et al. 2015", entries=[13])
class TRPO(OnPolicy):
    """Policy steps within a trust region. Schulman et al. 2015, eq. 14 and appendix C.

    Maximizes mean(ratio A) subject to mean KL(old || new) <= max_kl. Policy and critic need separate parameters.
    """

    Config = TRPOConfig

    def __init__(self, config: TRPOConfig, model: ActorCritic, **options: Any):
        super().__init__(config, model, **options)
        if self.model.shared:
            kind = "a recurrent policy" if self.policy.recurrent else "model.shared: true"
            raise ConfigError(
                f"trpo with {kind}: policy and critic share parameters, and fitting the critic would move the policy.",
                "Use model.shared=false and no model.recurrent, or algorithm.name=ppo.",
            )
        for module in self.policy.modules():  # Fisher-vector products are gradients of gradients
            if isinstance(module, Dense):
                module.twice_differentiable = True
        self.policy_parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        self.policy_names = [name for name in names if name.startswith("policy.")]

    def update(self, rollout: Columns, rng: np.random.Generator) -> Update:
        """Take one step of the policy on the whole batch, then epochs of the critic's."""
        self.trained.remember()
        self.set_learning_rates()
        with torch.no_grad():
            rows = self.training_rows(self.prepare(rollout))
        metrics, gradient_norm = self.policy_step(rows)
        norms: list[float | Tensor] = [gradient_norm]
        parts: Mapping[str, float | Tensor] = {}
        for minibatches in self.epochs(rows, self.config.critic_epochs, rng):
            for minibatch in minibatches:
                norm, parts = self.step(minibatch)
                norms.append(norm)
        self.check_norms(norms, rollout, rows)
        metrics |= {f"loss/{name}": float(value) for name, value in parts.items()}
        return Update(metrics | {"loss/grad_norm": float(gradient_norm)})

    def prepare(self, rollout: Columns) -> Columns:
        """Add advantages, normalized over the batch, and the old distribution."""
        value, next_value = self.values(rollout)
        steps = Steps(rollout.reward, value, next_value, rollout.terminated, rollout.truncated)
        advantage, returns = gae(steps, self.config.gamma, self.config.lam)
        advantage = masked_normalize(advantage, rollout.get("valid"))
        return rollout.with_(advantage=advantage, returns=returns, old_params=self.rollout_params(rollout))

    def loss(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return half the squared error of the critic."""
        critic = batch.mean(value_loss(self.model.value(batch.obs), batch.returns))
        return critic, {"critic": critic}

    def policy_step(self, rows: Columns) -> tuple[dict[str, float], Tensor]:
        """Take a scaled natural gradient step, with backtracking; returns metrics and the norm."""
        self.gradient(rows, self.negative_surrogate)
        ascent = -self.flat.grad
        norm = torch.linalg.vector_norm(ascent)
        metrics = {"policy/step_scale": 0.0, "policy/step_kl": 0.0}
        if not bool(torch.isfinite(norm)):
            return metrics, norm
        shards = self.cut(rows)
        fisher, damping = self.fisher_product(shards), self.config.cg_damping
        direction = conjugate_gradient(lambda v: fisher(v) + damping * v, ascent, self.config.cg_iterations)
        # the undamped product: the step is as long as the trust region allows
        step = trust_region_scale(direction, fisher(direction), self.config.max_kl) * direction
        if bool(step.any()):
            metrics |= self.line_search(shards, step)
        return metrics, norm

    def line_search(self, shards: list[Minibatch], step: Tensor) -> dict[str, float]:
        """Take the longest of step * factor^j that improves within the trust region, or none."""
        start = self.flat.data.clone()
        surrogate_before, _ = self.measure(shards)
        scale = 1.0
        for _ in range(self.config.backtracks):
            self.flat.data.copy_(start + scale * step)
            surrogate, kl = self.measure(shards)
            if kl <= self.config.max_kl and surrogate > surrogate_before:
                improved = surrogate - surrogate_before
                return {"policy/step_scale": scale, "policy/step_kl": kl, "policy/improvement": improved}
            scale *= self.config.backtrack_factor
        self.flat.data.copy_(start)
        return {"policy/step_scale": 0.0, "policy/step_kl": 0.0, "policy/improvement": 0.0}

    def negative_surrogate(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return -mean(ratio A), eq. 14's objective."""
        log_ratio = self.policy.actions.logp(self.policy(batch.obs)[0], batch.action, batch.get("mask")) - batch.logp
        return -batch.mean(log_ratio.exp() * batch.advantage), {}

    def divergence(self, batch: Minibatch) -> Tensor:
        """Return the mean KL(old || new), eq. 14's constraint."""
        return batch.mean(self.policy.actions.kl(batch.old_params, self.policy(batch.obs)[0], batch.get("mask")))

    @torch.no_grad()
    def measure(self, shards: list[Minibatch]) -> tuple[float, float]:
        """Return surrogate and divergence at the present weights, over all shards."""
        parts = [torch.stack([-self.negative_surrogate(shard)[0], self.divergence(shard)]) for shard in shards]
        surrogate, kl = self.shards.sum(parts).tolist()
        return surrogate, kl

    def fisher_product(self, shards: list[Minibatch]) -> Callable[[Tensor], Tensor]:
        """Return v -> F v, with F the Hessian of the divergence at the old policy. Appendix C.1."""
        first_derivative = partial(
            torch.autograd.grad, inputs=self.policy_parameters, create_graph=True, materialize_grads=True
        )
        # these graphs are kept, so that a product costs one backward pass
        first_order = [first_derivative(self.divergence(shard)) for shard in shards]

        def product(v: Tensor) -> Tensor:
            views = self.flat.views(v)
            vectors = []
            for gradient in first_order:
                self.flat.zero_grad()
                pairs = zip(gradient, self.policy_names, strict=True)
                dot = torch.stack([(g * views[name]).sum() for g, name in pairs]).sum()
                dot.backward(retain_graph=True, inputs=self.policy_parameters)
                vectors.append(self.flat.grad.clone())
            return self.shards.sum(vectors)

        return product

    def cut(self, rows: Columns) -> list[Minibatch]:
        """Return this process's shards of the batch."""
        if self.shards.count == 1:
            return [Minibatch.whole(rows)]
        index = torch.arange(len(rows.logp), device=self.device)
        return [Minibatch.of(self.select(rows, part), valid_rows(rows)) for part in self.shards.split(index)]
