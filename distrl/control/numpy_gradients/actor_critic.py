"""The gradient of an actor-critic loss on a CPU without autograd.

Derivatives of the row losses are in `derivatives`, of the networks in `dense`, of the distributions in `actions`. Where
one of the three is missing, autograd computes the gradient; it is also the reference in tests.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from distrl.base.columns import Columns
from distrl.control.numpy_gradients.actions import (
    ActionGradient,
    CategoricalGradient,
    GaussianGradient,
    has_action_gradient,
)
from distrl.control.numpy_gradients.dense import NumpyActorCritic
from distrl.control.numpy_gradients.derivatives import differentiate, has_derivative
from distrl.models.parameters.flat import FlatParameters

#: columns of the training rows that minibatches need, where present
COLUMNS = ("obs", "action", "logp", "advantage", "returns", "value", "mask", "valid")


class ActorCriticLoss(Protocol):
    """The parts of an on-policy algorithm that define its loss."""

    config: Any
    model: Any
    policy: Any
    flat: FlatParameters
    device: torch.device
    bf16: bool
    objective_input: ClassVar[str]

    def actor_objective(self, batch: Any) -> partial[Tensor]: ...

    def critic_loss(self, batch: Any) -> partial[Tensor]: ...


class _NoRows:
    """A batch whose columns are all empty."""

    def __getattr__(self, name: str) -> np.ndarray:
        return np.empty(0, np.float32)

    def __contains__(self, name: str) -> bool:
        return False


class NumpyGradient:
    """The gradient of an algorithm that `supports` accepts, from a minibatch of numpy columns."""

    def __init__(self, algorithm: ActorCriticLoss):
        self.algorithm = algorithm
        self.network = NumpyActorCritic(algorithm.model, algorithm.flat)

    @staticmethod
    def supports(algorithm: ActorCriticLoss) -> bool:
        """Return True if device, distribution, network and row losses have derivatives here."""
        return (
            algorithm.device.type == "cpu"
            and not algorithm.bf16
            and has_action_gradient(algorithm.policy.actions)
            and NumpyActorCritic.fits(algorithm.model)
            and has_derivative(algorithm.actor_objective(_NoRows()))
            and has_derivative(algorithm.critic_loss(_NoRows()))
        )

    @staticmethod
    def rows(rows: Columns) -> Columns:
        """Return the columns that minibatches need, as numpy."""
        return rows.only(*COLUMNS).map(lambda leaf: leaf.numpy())

    def gradient(self, batch: Columns) -> tuple[float, dict[str, float]]:
        """Write the gradient of one shard (a numpy `Minibatch`); returns the loss and its terms."""
        config, network = self.algorithm.config, self.network
        head, value = network.forward(batch.obs)
        actions: ActionGradient
        if network.log_std is None:
            actions = CategoricalGradient(head, batch.action, batch.get("mask"))
        else:
            actions = GaussianGradient(head, batch.action, network.log_std)
        named: dict[str, np.ndarray] = {}
        objective = self.algorithm.actor_objective(batch)
        if self.algorithm.objective_input == "logp":
            gain, d_logp = differentiate(objective, actions.logp)
            named["actor"], d_logp = -gain, -d_logp
        else:
            log_ratio = actions.logp - batch.logp
            ratio = np.exp(log_ratio)
            gain, d_ratio = differentiate(objective, ratio)
            named["actor"], d_logp = -gain, -d_ratio * ratio  # d ratio / d logp = ratio
            if getattr(config, "target_kl", None) is not None:
                named["kl"] = ratio - 1.0 - log_ratio
        named["critic"], d_value = differentiate(self.algorithm.critic_loss(batch), value)
        valid = batch.get("valid")
        weight = 1.0 / batch.count if valid is None else valid * np.float32(1.0 / batch.count)
        d_head, d_log_std = actions.backward(
            d_logp * weight, -config.entropy_coef * weight if config.entropy_coef else 0.0
        )
        network.backward(d_head, d_value * (config.value_coef * weight), d_log_std)
        if config.entropy_coef:
            named["entropy"] = actions.entropy()
        terms = {name: float((loss * weight).sum()) for name, loss in named.items()}
        total = terms["actor"] + config.value_coef * terms["critic"] - config.entropy_coef * terms.get("entropy", 0.0)
        return total, terms

    def clip(self, max_norm: float | None) -> float:
        """Scale the gradient to this norm at most; returns the norm before."""
        grad = self.network.grad
        norm = math.sqrt(np.dot(grad, grad))
        if max_norm is not None and norm > max_norm:
            grad *= max_norm / (norm + 1e-6)
        return norm
