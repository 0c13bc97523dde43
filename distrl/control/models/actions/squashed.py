"""Distributions over a bounded Box for off-policy continuous control.

Networks and critics use *unit* actions in (-1, 1); `BoxScale` maps them to the space. Exploration settings (uniform
warm-up, noise width) are the last parameters, so the learner publishes them with its weights.

Sources: Haarnoja et al. 2018, appendix C (squashed Gaussian); Raffin et al. 2021 (gSDE).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError
from distrl.control.models.actions.base import ActionDistribution

_LOG_TWO = math.log(2.0)
_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_SQRT_TWO = math.sqrt(2.0)

#: How close to a bound an action may be when its place before the squashing is worked out: a float32 nearer to the
#: bound than this has lost what tells it from the bound itself.
NEAREST_BOUND = 1e-6

#: The least width of deterministic actions' noise, where a density is asked for.
LEAST_NOISE = 1e-6

#: Nodes of the quadrature behind a squashed Gaussian's entropy.
ENTROPY_NODES = 64


class BoxScale:
    """Map between unit actions (..., size) in [-1, 1] and those (..., *shape) of a bounded Box.

    `log_volume` is sum of log((high - low) / 2), the difference of log-densities in both units.
    """

    def __init__(self, space: spaces.Space):
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise ConfigError(
                f"this algorithm acts in a Box of real numbers; the action space is {space}.",
                "Use dqn for Discrete actions, ppo for everything else.",
            )
        low, high = space.low.astype(np.float64).reshape(-1), space.high.astype(np.float64).reshape(-1)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise ConfigError(
                f"actions are scaled to the bounds of their space, which must be finite and low < high: {space}.",
                "Wrap the environment in gymnasium.wrappers.RescaleAction or give its Box bounds; or use ppo.",
            )
        self.shape = tuple(int(size) for size in space.shape)
        self.size = math.prod(self.shape)
        half, middle = (high - low) / 2.0, (high + low) / 2.0
        self.log_volume = float(np.log(half).sum())
        self._flat = len(self.shape) == 1
        equal = (half == half[0]).all() and (middle == middle[0]).all()
        self._numbers = (float(half[0]), float(middle[0])) if equal else None
        self._arrays = (torch.from_numpy(half), torch.from_numpy(middle))
        self._placed: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def to_env(self, unit: Tensor) -> Tensor:
        """Unit actions (..., size) in the environment's units, (..., *shape)."""
        half, middle = self._numbers or self._like(unit)
        action = unit * half + middle
        return action if self._flat else action.reshape(*action.shape[:-1], *self.shape)

    def to_unit(self, action: Tensor) -> Tensor:
        """The inverse of `to_env`."""
        if not self._flat:
            action = action.reshape(*action.shape[: action.ndim - len(self.shape)], self.size)
        half, middle = self._numbers or self._like(action)
        return (action - middle) / half

    def _like(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        key = (tensor.device, tensor.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):  # a tensor born in inference mode could not be trained through later
                half, middle = self._arrays
                self._placed[key] = half.to(tensor.device, tensor.dtype), middle.to(tensor.device, tensor.dtype)
        return self._placed[key]


class SquashedSample(torch.autograd.Function):
    """a = tanh(u), u = mean + exp(log_std) noise, and log pi(a), with explicit gradients.

    log pi(a) = sum_i [-noise_i^2 / 2 - log_std_i - log(2 pi) / 2 - log(1 - a_i^2)], where the last term is computed as
    2 (log 2 - u - softplus(-2u)), because 1 - a^2 is zero in float32 from |u| = 9 on. Its derivative by u is 2a.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        step = log_std.exp() * noise
        u = mean + step
        action = torch.tanh(u)
        terms = (F.softplus(-2.0 * u) + u).mul_(2.0).sub_(log_std).addcmul_(noise, noise, value=-0.5)
        ctx.save_for_backward(action, step)
        return action, terms.sum(-1) - u.shape[-1] * (2.0 * _LOG_TWO + _HALF_LOG_TWO_PI)

    @staticmethod
    def backward(ctx: Any, by_action: Tensor, by_logp: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        action, step = ctx.saved_tensors
        by_logp = by_logp.unsqueeze(-1)
        # d a / d u = 1 - a^2 and d log pi / d u = 2a, at fixed noise; log_std moves u by `step` and log pi by -1.
        by_u = torch.addcmul(by_action, action, torch.addcmul(2.0 * by_logp, by_action, action, value=-1.0))
        return by_u, torch.addcmul(-by_logp, by_u, step), None


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample unit actions (..., size) and their log-density (...), with gradients."""
    return SquashedSample.apply(mean, log_std, noise)  # type: ignore[no-any-return]


def log_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2) elementwise, exact where tanh(u) rounds to one."""
    return 2.0 * (_LOG_TWO - u - F.softplus(-2.0 * u))


class SquashedGaussian(ActionDistribution):
    """tanh of independent normals, scaled to a Box: params are mean ++ log_std ++ warm-up flag.

    While the flag is set, actions are uniform over the Box. Densities are in the environment's units.
    """

    def __init__(self, space: spaces.Space):
        self.scale = BoxScale(space)
        self.size = self.noise_size = self.scale.size
        self.param_size = 2 * self.size + 1
        self.head_size = 2 * self.size

    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        return rng.standard_normal((*shape, self.size), dtype=np.float32)

    def sample(self, params: Tensor, noise: Tensor, mask: Tree = None) -> Tensor:
        unit = torch.tanh(self._explored(params, noise))
        return self.scale.to_env(torch.where(self._warm(params), torch.erf(noise / _SQRT_TWO), unit))

    def mode(self, params: Tensor, mask: Tree = None) -> Tensor:
        """tanh(mean): the median, scaled. (The density's own maximum may lie at a bound.)"""
        return self.scale.to_env(torch.tanh(params[..., : self.size]))

    def logp(self, params: Tensor, action: Tensor, mask: Tree = None) -> Tensor:
        mean, log_std = self._gaussian(params)
        u = torch.atanh(self.scale.to_unit(action).clamp(NEAREST_BOUND - 1.0, 1.0 - NEAREST_BOUND))
        standardized = (u - mean) * torch.exp(-log_std)
        squashed = (-0.5 * standardized.square() - log_std - log_slope(u)).sum(-1) - self.size * _HALF_LOG_TWO_PI
        return torch.where(self._warm(params).squeeze(-1), -self.size * _LOG_TWO, squashed) - self.scale.log_volume

    def entropy(self, params: Tensor, mask: Tree = None) -> Tensor:
        """Entropy of the normals plus E[log(1 - tanh(u)^2)] by Gauss-Hermite quadrature."""
        mean, log_std = self._gaussian(params)
        nodes, weights = np.polynomial.hermite_e.hermegauss(ENTROPY_NODES)
        points, weighting = (torch.from_numpy(x).to(params) for x in (nodes, weights / weights.sum()))
        slope = log_slope(mean.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * points) @ weighting
        squashed = (log_std + slope).sum(-1) + self.size * (0.5 + _HALF_LOG_TWO_PI)
        return torch.where(self._warm(params).squeeze(-1), self.size * _LOG_TWO, squashed) + self.scale.log_volume

    def kl(self, p: Tensor, q: Tensor, mask: Tree = None) -> Tensor:
        """Squashing is one-to-one, so between squashed normals it is that of the normals themselves."""
        p_warm, q_warm = self._warm(p).squeeze(-1), self._warm(q).squeeze(-1)
        p_mean, p_log_std = self._gaussian(p)
        q_mean, q_log_std = self._gaussian(q)
        spread = torch.exp(2.0 * (p_log_std - q_log_std))
        distance = ((p_mean - q_mean) * torch.exp(-q_log_std)).square()
        normals = (q_log_std - p_log_std + 0.5 * (spread + distance - 1.0)).sum(-1)
        # Under a uniform action, u = atanh(a) has mean 0 and variance pi^2 / 12, and E log(1 - a^2) = 2 log 2 - 2.
        second = (math.pi**2 / 12.0 + q_mean.square()) * torch.exp(-2.0 * q_log_std)
        from_uniform = (0.5 * second + q_log_std + _HALF_LOG_TWO_PI + _LOG_TWO - 2.0).sum(-1)
        to_uniform = self.size * _LOG_TWO + self.scale.log_volume - self.entropy(p)  # zero where p is uniform as well
        return torch.where(q_warm, to_uniform, torch.where(p_warm, from_uniform, normals))

    def _explored(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return u before squashing."""
        mean, log_std = self._gaussian(params)
        return torch.addcmul(mean, log_std.exp(), noise)

    def _gaussian(self, params: Tensor) -> tuple[Tensor, Tensor]:
        return params[..., : self.size], params[..., self.size : 2 * self.size]

    def _warm(self, params: Tensor) -> Tensor:
        return params[..., 2 * self.size : 2 * self.size + 1] > 0.5


class StateDependentGaussian(SquashedGaussian):
    """State-dependent exploration: params are mean ++ log_std ++ warm-up flag ++ deviation.

    The deviation is features times an exploration matrix that is fixed within a version. Log-probabilities marginalize
    over matrices: normal with `log_std`. Noise is used in the warm-up only.
    """

    def __init__(self, space: spaces.Space):
        super().__init__(space)
        self.param_size = 3 * self.size + 1

    def _explored(self, params: Tensor, noise: Tensor) -> Tensor:
        return params[..., : self.size] + params[..., 2 * self.size + 1 :]


class DeterministicNoise(ActionDistribution):
    """Deterministic action with clipped normal noise: params are mean ++ sigma ++ warm-up flag.

    `logp` is the density of the noise, or at a bound the clipped mass; `entropy` and `kl` are of the unclipped noise
    (`kl` ignores the flag). A sigma of zero counts as `LEAST_NOISE` there.
    """

    def __init__(self, space: spaces.Space):
        self.scale = BoxScale(space)
        self.size = self.noise_size = self.head_size = self.scale.size
        self.param_size = self.size + 2

    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        return rng.standard_normal((*shape, self.size), dtype=np.float32)

    def sample(self, params: Tensor, noise: Tensor, mask: Tree = None) -> Tensor:
        mean, sigma = params[..., : self.size], params[..., self.size : self.size + 1]
        unit = (mean + sigma * noise).clamp(-1.0, 1.0)
        return self.scale.to_env(torch.where(self._warm(params), torch.erf(noise / _SQRT_TWO), unit))

    def mode(self, params: Tensor, mask: Tree = None) -> Tensor:
        return self.scale.to_env(params[..., : self.size])

    def logp(self, params: Tensor, action: Tensor, mask: Tree = None) -> Tensor:
        mean, sigma = params[..., : self.size], self._sigma(params)
        unit = self.scale.to_unit(action)
        standardized = (unit - mean) / sigma
        density = -0.5 * standardized.square() - sigma.log() - _HALF_LOG_TWO_PI - self.scale.log_volume / self.size
        tail = torch.special.log_ndtr(-standardized.abs())
        normal = torch.where(unit.abs() >= 1.0 - NEAREST_BOUND, tail, density).sum(-1)
        uniform = -self.size * _LOG_TWO - self.scale.log_volume
        return torch.where(self._warm(params).squeeze(-1), uniform, normal)

    def entropy(self, params: Tensor, mask: Tree = None) -> Tensor:
        normal = self.size * (self._sigma(params).squeeze(-1).log() + 0.5 + _HALF_LOG_TWO_PI)
        return torch.where(self._warm(params).squeeze(-1), self.size * _LOG_TWO, normal) + self.scale.log_volume

    def kl(self, p: Tensor, q: Tensor, mask: Tree = None) -> Tensor:
        p_sigma, q_sigma = self._sigma(p), self._sigma(q)
        distance = ((p[..., : self.size] - q[..., : self.size]) / q_sigma).square()
        return (q_sigma.log() - p_sigma.log() + 0.5 * ((p_sigma / q_sigma).square() + distance - 1.0)).sum(-1)

    def _sigma(self, params: Tensor) -> Tensor:
        return params[..., self.size : self.size + 1].clamp(min=LEAST_NOISE)

    def _warm(self, params: Tensor) -> Tensor:
        return params[..., self.size + 1 : self.size + 2] > 0.5
