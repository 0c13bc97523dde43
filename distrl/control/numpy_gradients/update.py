"""The gradient of an actor-critic loss on a CPU without autograd.

Every objective here is a function of one log-probability and one value per row. An algorithm that knows their
derivatives says so in `row_losses`; the networks' own derivatives are in `dense`, the distributions' in
`actions`. Where one of the three is missing, autograd does the work, and it is what tests compare with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distrl.base.columns import Columns
from distrl.control.numpy_gradients.actions import action_slopes, has_slopes
from distrl.control.numpy_gradients.dense import WrittenOutActorCritic

#: What a minibatch needs of a batch's rows, as far as it is there.
COLUMNS = ("obs", "action", "logp", "advantage", "returns", "value", "mask", "valid")


@dataclass
class RowLosses:
    """The losses of a minibatch row by row, each (N,), with their derivatives; nothing is averaged or masked.

    Attributes:
        actor, d_logp: What the policy minimizes, and its derivative by log pi(a|s).
        critic, d_value: What the critic minimizes, and its derivative by the value.
        others: Further numbers to report, by name.
    """

    actor: np.ndarray
    d_logp: np.ndarray
    critic: np.ndarray
    d_value: np.ndarray
    others: dict[str, np.ndarray] = field(default_factory=dict)


class WrittenOutGradient:
    """Fills an algorithm's `flat.grad` from a minibatch of numpy columns.

    Args:
        algorithm: One that `applies`.
    """

    def __init__(self, algorithm: Any):
        self.algorithm = algorithm
        self.network = WrittenOutActorCritic(algorithm.model, algorithm.flat)

    @staticmethod
    def applies(algorithm: Any) -> bool:
        """Whether everything is written out for this algorithm, network and device.

        `row_losses` must be the class's own: a subclass that changes the loss would inherit wrong derivatives.
        """
        return (
            "row_losses" in type(algorithm).__dict__
            and algorithm.device.type == "cpu"
            and not algorithm.bf16
            and has_slopes(algorithm.policy.actions)
            and WrittenOutActorCritic.fits(algorithm.model)
        )

    @staticmethod
    def rows(rows: Columns) -> Columns:
        """The training rows that minibatches need, as numpy."""
        return rows.only(*COLUMNS).map(lambda leaf: leaf.numpy())

    def gradient(self, batch: Any) -> tuple[float, dict[str, float]]:
        """Write the gradient of one shard's loss; returns the loss and its parts.

        Args:
            batch: A `Minibatch` of numpy columns: rows of the shard, count of valid rows in the whole minibatch.
        """
        config, network = self.algorithm.config, self.network
        head, value = network.forward(batch.obs)
        slopes = action_slopes(head, batch.action, batch.get("mask"), network.log_std)
        rows = self.algorithm.row_losses(batch, slopes.logp, value)
        valid = batch.get("valid")
        weight = 1.0 / batch.count if valid is None else valid * np.float32(1.0 / batch.count)
        d_head, d_log_std = slopes.backward(
            rows.d_logp * weight, -config.entropy_coef * weight if config.entropy_coef else 0.0
        )
        network.backward(d_head, rows.d_value * (config.value_coef * weight), d_log_std)
        named = {"actor": rows.actor, "critic": rows.critic, **rows.others}
        if config.entropy_coef:
            named["entropy"] = slopes.entropy()
        parts = {name: float((loss * weight).sum()) for name, loss in named.items()}
        total = parts["actor"] + config.value_coef * parts["critic"] - config.entropy_coef * parts.get("entropy", 0.0)
        return total, parts

    def clip(self, max_norm: float | None) -> float:
        """Scale the gradient to this norm at most; returns the norm before."""
        grad = self.network.grad
        norm = math.sqrt(np.dot(grad, grad))
        if max_norm is not None and norm > max_norm:
            grad *= max_norm / (norm + 1e-6)
        return norm
