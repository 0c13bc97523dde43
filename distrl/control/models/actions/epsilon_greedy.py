"""Epsilon-greedy distribution over discrete actions, with epsilon as its last parameter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distrl.control.models.actions.base import ActionDistribution

#: The smallest probability whose logarithm is taken: an action that greedy acting never takes.
SMALLEST = 1e-30


class EpsilonGreedy(ActionDistribution):
    """A uniform allowed action with probability epsilon, else the first with the largest value.

    Params are values (..., n) ++ epsilon (..., 1); actions int64 (...); mask (..., n).
    """

    def __init__(self, n: int):
        self.n = self.mask_size = self.head_size = int(n)
        self.param_size = self.noise_size = self.n + 1

    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """Uniform numbers: one score for each action, and whether to explore."""
        return rng.random((*shape, self.n + 1), dtype=np.float32)

    def join_epsilon(self, values: Tensor, epsilon: Tensor) -> Tensor:
        """Parameters (..., n + 1) from values (..., n) and epsilon ()."""
        return torch.cat((values, epsilon.expand(*values.shape[:-1], 1)), -1)

    def sample(self, params: Tensor, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        explore = noise[..., -1] < params[..., -1]
        scores = noise[..., :-1]
        if mask is not None:
            scores = torch.where(mask, scores, -1.0)
        return torch.where(explore, scores.argmax(-1), self.mode(params, mask))

    def mode(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        values = params[..., :-1]
        return (values if mask is None else torch.where(mask, values, -torch.inf)).argmax(-1)

    def probabilities(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        """Of every action: (..., n)."""
        epsilon = params[..., -1:]
        allowed = torch.ones_like(params[..., :-1]) if mask is None else mask.to(params.dtype)
        greedy = torch.zeros_like(allowed).scatter_(-1, self.mode(params, mask).unsqueeze(-1), 1.0)
        return epsilon * allowed / allowed.sum(-1, keepdim=True) + (1.0 - epsilon) * greedy

    def logp(self, params: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        chosen = self.probabilities(params, mask).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)
        return chosen.clamp_min(SMALLEST).log()

    def entropy(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        p = self.probabilities(params, mask)
        return -torch.xlogy(p, p).sum(-1)

    def kl(self, p: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
        first, second = self.probabilities(p, mask), self.probabilities(q, mask)
        return (torch.xlogy(first, first) - first * second.clamp_min(SMALLEST).log()).sum(-1)
