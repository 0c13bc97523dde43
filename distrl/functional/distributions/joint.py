"""A joint distribution over several reward channels, as particles (MD3QN)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distrl.base.errors import ConfigError, unknown
from distrl.base.registry import register
from distrl.functional.atoms import Atoms, equal_probs
from distrl.functional.distributions.base import ReturnDistribution, equal_atoms, whole
from distrl.functional.distributions.mmd import BANDWIDTHS, KERNELS, mmd_squared


@register.return_distribution("joint", paper="MD3QN, Zhang et al. 2021", entries=[14])
class Joint(ReturnDistribution):
    """Particles, `size` equally likely vectors of K returns: params (..., size * K). MMD^2 loss.

    mean, quantile and risk are those of the weighted sum of channels, which acting maximizes.

    Args:
        size: Particles M.
        channels: K.
        weights: Of the channels in the return; null is 1 each.
        kernel: gaussian, or energy (no bandwidth, scales with the returns).
        bandwidths: Squared lengths of the Gaussian kernels.
    """

    def __init__(
        self,
        size: int = 32,
        channels: int = 2,
        weights: Sequence[float] | None = None,
        kernel: str = "gaussian",
        bandwidths: Sequence[float] = BANDWIDTHS,
    ):
        self.size = whole("joint", "size", size)
        self.channels = whole("joint", "channels", channels)
        self.param_size = self.size * self.channels
        self.weights = (1.0,) * self.channels if weights is None else tuple(float(weight) for weight in weights)
        if len(self.weights) != self.channels:
            raise ConfigError(
                f"return distribution joint: {len(self.weights)} weights for {self.channels} channels.",
                "Give one weight for each channel.",
            )
        if kernel not in KERNELS:
            raise ConfigError(unknown("kernel", kernel, KERNELS))
        if not bandwidths or min(bandwidths) <= 0:
            raise ConfigError(f"return distribution joint: bandwidths are {list(bandwidths)}; expected some above 0.")
        self.kernel, self.bandwidths = kernel, tuple(bandwidths)

    def vectors(self, params: Tensor) -> Tensor:
        """Return the particles (..., M, K)."""
        return params.unflatten(-1, (self.size, self.channels))

    def initial_bias(self) -> Tensor:
        # apart from each other, for particles at one place would stay together; low-discrepancy, so channels differ
        steps = torch.arange(1, self.size + 1, dtype=torch.float64).unsqueeze(-1)
        rates = torch.arange(2, self.channels + 2, dtype=torch.float64).sqrt()
        return (2.0 * (steps * rates % 1.0) - 1.0).flatten().float()

    def atoms(self, params: Tensor) -> Atoms:
        """Return atoms of the weighted sum of channels, (..., M)."""
        vectors = self.vectors(params)
        if all(weight == 1.0 for weight in self.weights):
            return equal_atoms(vectors.sum(-1))
        return equal_atoms((vectors * vectors.new_tensor(self.weights)).sum(-1))

    def target_atoms(self, params: Tensor) -> Atoms:
        """Return values (..., M, K) and probs (..., M)."""
        vectors = self.vectors(params)
        return Atoms(vectors, equal_probs(vectors[..., 0]))

    def loss(self, params: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        """Compute MMD^2 against vectors (..., L, K); with one channel also atoms (..., L)."""
        if self.channels == 1 and target_values.ndim == params.ndim:
            target_values = target_values.unsqueeze(-1)
        return mmd_squared(self.vectors(params), target_values, target_probs, self.kernel, self.bandwidths)
