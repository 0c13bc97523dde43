"""Derivatives of log-probability and entropy by a distribution's parameters, in numpy.

Arrays are (parameters, N): numpy reduces over a short leading dimension an order of magnitude faster.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from distrl.control.models.actions.base import MASKED_LOGIT, ActionDistribution, Categorical, DiagonalGaussian

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class ActionGradient(Protocol):
    """Log-probabilities of one minibatch and their derivatives by the parameters."""

    logp: np.ndarray  # (N,)

    def entropy(self) -> np.ndarray:
        """Return entropies (N,) in nats."""

    def backward(self, d_logp: np.ndarray, d_entropy: np.ndarray | float) -> tuple[np.ndarray, np.ndarray | None]:
        """Return d loss / d head and d loss / d log_std from those by logp and entropy (N,)."""


class CategoricalGradient:
    """Derivatives by logits: d logp(a) = [j = a] - p_j, d H = -p_j (log p_j + H)."""

    def __init__(self, head: np.ndarray, action: np.ndarray, mask: np.ndarray | None = None):
        logits = head.T if mask is None else np.where(mask.T, head.T, np.float32(MASKED_LOGIT))
        shifted = logits - logits.max(0)
        weights = np.exp(shifted)
        total = weights.sum(0)
        self._logps = shifted - np.log(total)
        self._probs = weights / total
        self._taken = (action, np.arange(len(action)))
        self._mask = mask
        self._entropy: np.ndarray | None = None
        self.logp = self._logps[self._taken]

    def entropy(self) -> np.ndarray:
        if self._entropy is None:
            self._entropy = -(self._probs * self._logps).sum(0)
        return self._entropy

    def backward(self, d_logp: np.ndarray, d_entropy: np.ndarray | float) -> tuple[np.ndarray, None]:
        grad = self._probs * -d_logp
        grad[self._taken] += d_logp
        if not isinstance(d_entropy, float) or d_entropy:
            grad -= self._probs * (self._logps + self.entropy()) * d_entropy
        if self._mask is not None:
            grad *= self._mask.T
        return grad.T, None


class GaussianGradient:
    """Derivatives by means (N, d) and log_std (d,).

    With z = (a - mean) / std: d logp / d mean = z / std, d logp / d log_std = z^2 - 1, d H / d log_std = 1.
    """

    def __init__(self, head: np.ndarray, action: np.ndarray, log_std: np.ndarray):
        self._log_std = log_std
        self._inverse_std = np.exp(-log_std)[:, None]
        self._z = (action.reshape(len(action), -1).T - head.T) * self._inverse_std
        self._square = self._z * self._z
        constant = float(log_std.sum()) + len(log_std) * _HALF_LOG_TWO_PI
        self.logp = -0.5 * self._square.sum(0) - constant

    def entropy(self) -> np.ndarray:
        rows = self._z.shape[1]
        return np.full(rows, self._log_std.sum() + len(self._log_std) * (0.5 + _HALF_LOG_TWO_PI), np.float32)

    def backward(self, d_logp: np.ndarray, d_entropy: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        d_head = self._z * self._inverse_std * d_logp
        by_entropy = np.sum(np.broadcast_to(d_entropy, d_logp.shape))
        return d_head.T, (self._square - 1.0) @ d_logp + by_entropy


def has_action_gradient(actions: ActionDistribution) -> bool:
    """Return True if this distribution has derivatives here."""
    return type(actions) in (Categorical, DiagonalGaussian)
