"""Action distributions as pure functions of flat parameters.

Parameters `params (..., P)` are recorded in rollouts; randomness is `noise`, drawn beforehand with numpy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distrl.base.columns import Tree

#: What a forbidden action's logit becomes. Finite, so that 0 * log 0 stays 0 in entropies and their gradients.
MASKED_LOGIT = -1e8

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class ActionDistribution(ABC):
    """Distribution over one action space.

    `param_size` P = `head_size` (computed by a network) + `log_std_size` (learned, independent of the observation). One
    sample takes `noise_size` random numbers. `mask_size` is the width of an action mask, 0 without masks.
    """

    param_size: int
    noise_size: int
    head_size: int
    log_std_size: int = 0
    mask_size: int = 0

    def join(self, head: Tensor, log_std: Tensor | None) -> Tensor:
        """Join network output (..., head_size) and log_std (log_std_size,) to parameters (..., P)."""
        return head

    @abstractmethod
    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """The noise of `shape` samples: float32 (*shape, noise_size)."""

    @abstractmethod
    def sample(self, params: Tensor, noise: Tensor, mask: Tree = None) -> Tree:
        """Actions (...) from parameters (..., P) and noise (..., noise_size)."""

    @abstractmethod
    def mode(self, params: Tensor, mask: Tree = None) -> Tree:
        """The most likely action."""

    @abstractmethod
    def logp(self, params: Tensor, action: Tree, mask: Tree = None) -> Tensor:
        """Log-probability (density, for Box) of an action: (...)."""

    @abstractmethod
    def entropy(self, params: Tensor, mask: Tree = None) -> Tensor:
        """Entropy in nats: (...)."""

    @abstractmethod
    def kl(self, p: Tensor, q: Tensor, mask: Tree = None) -> Tensor:
        """KL(p || q) in nats from two parameter tensors under one mask: (...)."""


def masked(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits with forbidden entries at `MASKED_LOGIT`; allowed where `mask` is true."""
    return logits if mask is None else torch.where(mask, logits, MASKED_LOGIT)


class Categorical(ActionDistribution):
    """One of n actions: params are logits, actions int64 (...) from 0, mask (..., n)."""

    def __init__(self, n: int):
        self.n = self.param_size = self.noise_size = self.head_size = self.mask_size = int(n)

    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """Standard Gumbel noise: argmax(logits + Gumbel) has the probabilities softmax(logits)."""
        return rng.gumbel(size=(*shape, self.n)).astype(np.float32)

    def sample(self, params: Tensor, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            params = masked(params, mask)
        return (params + noise).argmax(-1)

    def mode(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        return masked(params, mask).argmax(-1)

    def logp(self, params: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        logp = F.log_softmax(masked(params, mask), -1)
        return logp.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        logp = F.log_softmax(masked(params, mask), -1)
        return -(logp.exp() * logp).sum(-1)

    def kl(self, p: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
        logp = F.log_softmax(masked(p, mask), -1)
        logq = F.log_softmax(masked(q, mask), -1)
        return (logp.exp() * (logp - logq)).sum(-1)


class DiagonalGaussian(ActionDistribution):
    """Independent normals: params are mean ++ log_std, actions float32 (..., *shape).

    Actions are not clipped here: environments clip, and the log-probability is of the unclipped action.
    """

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(int(size) for size in shape)
        self.size = self.noise_size = self.head_size = self.log_std_size = math.prod(self.shape)
        self.param_size = 2 * self.size
        self._flat = len(self.shape) == 1

    def join(self, head: Tensor, log_std: Tensor | None) -> Tensor:
        assert log_std is not None
        return torch.cat((head, log_std.expand_as(head)), -1)

    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        return rng.standard_normal((*shape, self.size), dtype=np.float32)

    def sample(self, params: Tensor, noise: Tensor, mask: Tree = None) -> Tensor:
        mean, log_std = params.chunk(2, -1)
        return self._shaped(torch.addcmul(mean, log_std.exp(), noise))

    def mode(self, params: Tensor, mask: Tree = None) -> Tensor:
        return self._shaped(params[..., : self.size])

    def logp(self, params: Tensor, action: Tensor, mask: Tree = None) -> Tensor:
        mean, log_std = params.chunk(2, -1)
        standardized = (self._flattened(action) - mean) * torch.exp(-log_std)
        return (-0.5 * standardized.square() - log_std).sum(-1) - self.size * _HALF_LOG_TWO_PI

    def entropy(self, params: Tensor, mask: Tree = None) -> Tensor:
        return params[..., self.size :].sum(-1) + self.size * (0.5 + _HALF_LOG_TWO_PI)

    def kl(self, p: Tensor, q: Tensor, mask: Tree = None) -> Tensor:
        p_mean, p_log_std = p.chunk(2, -1)
        q_mean, q_log_std = q.chunk(2, -1)
        spread = torch.exp(2.0 * (p_log_std - q_log_std))
        distance = ((p_mean - q_mean) * torch.exp(-q_log_std)).square()
        return (q_log_std - p_log_std + 0.5 * (spread + distance - 1.0)).sum(-1)

    def _shaped(self, action: Tensor) -> Tensor:
        return action if self._flat else action.reshape(*action.shape[:-1], *self.shape)

    def _flattened(self, action: Tensor) -> Tensor:
        if self._flat:
            return action
        return action.reshape(*action.shape[: action.ndim - len(self.shape)], self.size)
