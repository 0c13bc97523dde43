"""Base of the action-value algorithms: one network and its target."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distrl.base.columns import Columns
from distrl.base.registry import register
from distrl.control.algorithms.off_policy import OffPolicy
from distrl.control.models.q_network import QPolicy
from distrl.control.numpy_gradients.q_network import NumpyQGradient
from distrl.functional.distributions.base import ReturnDistribution
from distrl.learning.algorithm import Update
from distrl.learning.support_watch import SupportWatch
from distrl.models.parameters.trained import TrainedModule


class ValueBased(OffPolicy):
    """Base of the action-value algorithms. A subclass defines `loss`."""

    compiles = True
    target: QPolicy
    numpy_gradient: NumpyQGradient | None = None

    def make_modules(self) -> dict[str, TrainedModule]:
        trained = TrainedModule(self.policy, target=True, eps=self.config.adam_eps)
        assert trained.target_flat is not None
        self.target = trained.target
        self._read_config()
        if self.one_step_td and not (self.compile or self.bf16):
            networks = self.policy, trained.flat, self.target, trained.target_flat
            self.numpy_gradient = NumpyQGradient.build(*networks, self.next_action)
        return {"policy": trained}

    def _read_config(self) -> None:
        self.distribution: ReturnDistribution = self.policy.distribution
        self.next_action = register.get("next_action", self.config.next_action)
        self.support = SupportWatch(self.distribution, "algorithm.head")
        self._loss = self.compiled(self.loss)

    def loss(
        self, batch: Columns, target_noise: Tensor | None, noise: Tensor | None, online: QPolicy, target: QPolicy
    ) -> tuple[Tensor, Tensor | None]:
        """Return losses (N,) and, if prioritized, priorities (N,), without random draws.

        `target_noise` and `noise` are random levels (N, S) of the networks' heads, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss()")

    @property
    def one_step_td(self) -> bool:
        """True if `loss` is the plain TD error r + discount * max Q'(s', .) - Q(s, a)."""
        return False

    def update(self, batch: Columns, rng: np.random.Generator) -> Update:
        if self.policy.noisy:
            self.policy.redraw_noise(rng)
            self.target.redraw_noise(rng)
        if self.numpy_gradient is not None:
            loss, errors = self.numpy_gradient(batch)
            norm = self.modules["policy"].step(float(self.config.learning_rate), self.config.max_grad_norm)
            self.record_norm(norm)
            update = Update({"loss/critic": loss}, errors)
        else:
            row_loss, priorities = self.row_loss(batch, rng, self.policy, self.target)
            total = (row_loss * batch.weight).mean()
            self.minimize("policy", total)
            update = Update({"loss/critic": total.detach()}, priorities)
        self.move_targets()
        return update

    def row_loss(
        self, batch: Columns, rng: np.random.Generator, online: QPolicy, target: QPolicy
    ) -> tuple[Tensor, Tensor | None]:
        """Draw the heads' noise and compute `loss`."""
        drawn = [self.policy.head.draw_noise(rng, (len(batch.action),)) for _ in range(2)]
        target_noise, noise = (None if levels is None else self.draw(levels) for levels in drawn)
        return self._loss(batch.without("index", "generation", "probability"), target_noise, noise, online, target)

    def set_exploration(self, rng: np.random.Generator) -> None:
        self.policy.epsilon.fill_(float(self.config.epsilon))
        if self.policy.noisy:
            self.policy.redraw_noise(rng)

    @torch.no_grad()
    def diagnose(self, batch: Columns) -> dict[str, float]:
        values = self.policy.values(batch.obs)
        chosen = values.gather(-1, batch.action.unsqueeze(-1))
        if self.support.watching:
            means = self.distribution.mean(self.target.returns(batch.next_obs))
            self.support.observe(batch.reward.unsqueeze(-1) + batch.discount.unsqueeze(-1) * means)
            self.warnings += self.support.warnings()
        return {
            "policy/value": float(chosen.mean()),
            "policy/value_gap": float((values.amax(-1) - values.mean(-1)).mean()),
            "policy/epsilon": float(self.policy.epsilon),
        }
