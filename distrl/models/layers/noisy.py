"""Noisy layers with factorized Gaussian noise. Fortunato et al. 2018, Noisy Networks."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: eq. 11's sigma_0: the first size of the noise, times 1 / sqrt(inputs).
SIGMA_ZERO = 0.5


class NoisyLinear(nn.Module):
    """y = (mu_w + sigma_w * eps_out eps_in^T) x + mu_b + sigma_b * eps_out (eqs. 9 to 11).

    The noise is a pair of buffers, changed by `redraw` only; evaluation mode has no noise.
    """

    eps_in: Tensor
    eps_out: Tensor

    def __init__(self, in_features: int, out_features: int, sigma_zero: float = SIGMA_ZERO):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        bound, sigma = 1.0 / math.sqrt(in_features), sigma_zero / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), sigma))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), sigma))
        self.register_buffer("eps_in", torch.zeros(in_features))
        self.register_buffer("eps_out", torch.zeros(out_features))

    def redraw(self, rng: np.random.Generator) -> None:
        """New noise: f(x) = sgn(x) sqrt|x| of standard normals."""
        noise = rng.standard_normal(self.in_features + self.out_features, dtype=np.float32)
        noise = np.sign(noise) * np.sqrt(np.abs(noise))
        self.eps_in.copy_(torch.from_numpy(noise[: self.in_features]))
        self.eps_out.copy_(torch.from_numpy(noise[self.in_features :]))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        plain = F.linear(x, self.weight, self.bias)
        if not self.training:
            return plain
        # (sigma_w * eps_out eps_in^T) x = eps_out * (sigma_w (eps_in * x)): no second weight matrix is built.
        return plain + F.linear(x * self.eps_in, self.weight_sigma, self.bias_sigma) * self.eps_out


def redraw_noise(module: nn.Module, rng: np.random.Generator) -> None:
    """New noise in every noisy layer of a module, in the order of its parts."""
    for part in module.modules():
        if isinstance(part, NoisyLinear):
            part.redraw(rng)
