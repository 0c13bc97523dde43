"""Distributions with a density: a Gaussian (DSAC), and a mixture of Gaussians.

As atoms, a normal distribution is cut into bins of equal width, each at its conditional mean, with values scaled to the
exact variance. That approximates tails far better than midpoint quantiles, whose outermost bins are wide.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.functional.atoms import Atoms, atoms_mean
from distrl.functional.distributions.base import ReturnDistribution, at_least_zero, whole
from distrl.functional.distributions.quantile_loss import with_gradient

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)

#: softplus of this is 1: an untrained head has standard deviation 1 (+ sigma_min).
_UNIT_SIGMA = math.log(math.expm1(1.0))

#: Halvings when a mixture's quantile is searched.
_BISECTIONS = 60


def normal_atoms(count: int) -> Atoms:
    """Discretize N(0, 1) into `count` ascending float64 atoms with exact mean and variance."""
    # more atoms reach further: 4 standard deviations with 32, 4.5 with 64; none beyond 6
    reach = min(1.5 + 0.5 * math.log2(count), 6.0) if count > 2 else 0.0
    edges = torch.linspace(-reach, reach, count - 1, dtype=torch.float64)
    density = torch.exp(-0.5 * edges.square()) / math.sqrt(2.0 * math.pi)
    reached = torch.special.ndtr(edges)
    zero, one = edges.new_zeros(1), edges.new_ones(1)
    probs = torch.diff(reached, prepend=zero, append=one)
    values = -torch.diff(density, prepend=zero, append=zero) / probs  # E[Z | a < Z < b] = (phi(a) - phi(b)) / P
    return Atoms(values / (probs * values.square()).sum().sqrt(), probs)


class _NormalTable:
    """`normal_atoms`, cached by dtype and device."""

    def __init__(self, count: int):
        self._tables = {(torch.float64, torch.device("cpu")): normal_atoms(count)}

    def like(self, params: Tensor) -> Atoms:
        key = (params.dtype, params.device)
        if key not in self._tables:
            exact = self._tables[torch.float64, torch.device("cpu")]
            self._tables[key] = Atoms(exact.values.to(params), exact.probs.to(params))
        return self._tables[key]


def gaussian_loss(
    mean: Tensor,
    sigma: Tensor,
    target_values: Tensor,
    target_probs: Tensor,
    clip: float | Tensor | None = None,
    mean_target: Tensor | None = None,
    scale: float | Tensor = 1.0,
    eps: float = 0.0,
) -> Tensor:
    """Compute the negative log-likelihood E -log N(y; mean, sigma) with DSAC's gradients, (...).

    d mean = -scale E (y - mean) / (sigma^2 + eps), d sigma = -scale E ((yc - mean)^2 - sigma^2) / (sigma^3 + eps),
    where yc is y clipped to mean +- clip. Without options these are the exact gradients. Duan et al. 2021 (DSAC) and
    2023 (DSAC-T).

    Args:
        target_values, target_probs: y (..., M).
        clip: Bound on y - mean in the sigma gradient, a number or (...); None is none.
        mean_target: (...) in place of E y in the mean gradient (DSAC-T: the expected target).
        scale: Of both gradients (DSAC-T: the running mean of sigma, squared).
        eps: Added to both denominators (0.1 in the authors' code).
    """
    with torch.no_grad():
        error = target_values - mean.unsqueeze(-1)
        square = (target_probs * error.square()).sum(-1)
        variance = sigma.square()
        loss = 0.5 * square / variance + sigma.log() + _HALF_LOG_TWO_PI
        pull = (target_probs * error).sum(-1) if mean_target is None else mean_target - mean
        if clip is not None:
            bound = torch.as_tensor(clip, dtype=error.dtype, device=error.device).unsqueeze(-1)
            square = (target_probs * error.clamp(-bound, bound).square()).sum(-1)
        mean_gradient = -scale * pull / (variance + eps)
        sigma_gradient = -scale * (square - variance) / (variance * sigma + eps)
    loss = with_gradient(loss, mean.unsqueeze(-1), mean_gradient.unsqueeze(-1))
    return with_gradient(loss, sigma.unsqueeze(-1), sigma_gradient.unsqueeze(-1))


class Density(ReturnDistribution):
    """Base of families with a density."""

    @torch.no_grad()
    def priority(self, params: Tensor, loss: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        """Return |target mean - mean|: a log-likelihood may have any sign."""
        return (atoms_mean(target_values, target_probs) - self.mean(params)).abs()

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        edge = torch.finfo(noise.dtype).eps  # at levels 0 and 1 quantiles are infinite
        return self.quantile(params, noise.clamp(edge, 1.0 - edge))


@register.return_distribution("gaussian", paper="DSAC, Duan et al. 2021", entries=[100])
class Gaussian(Density):
    """One normal distribution: params are mean ++ raw. Negative log-likelihood.

    sigma = softplus(raw) + sigma_min.

    Args:
        size: Atoms of its discretization.
        sigma_min: Lower bound of sigma, in units of return: gradients grow like 1 / sigma^2. DSAC uses 1.
        clip: DSAC's bound on errors in the gradient of sigma; null is none.
    """

    ordered = True

    def __init__(self, size: int = 64, sigma_min: float = 0.01, clip: float | None = None):
        self.size = whole("gaussian", "size", size, least=2)
        self.param_size = 2
        self.sigma_min = at_least_zero("gaussian", "sigma_min", sigma_min)
        if clip is not None and not clip > 0:
            raise ConfigError(f"return distribution gaussian: clip is {clip}; expected more than 0, or null.")
        self.clip = clip
        self._table = _NormalTable(self.size)

    def split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and sigma, (...) each."""
        return params[..., 0], F.softplus(params[..., 1]) + self.sigma_min

    def initial_bias(self) -> Tensor:
        return torch.tensor([0.0, _UNIT_SIGMA])

    def atoms(self, params: Tensor) -> Atoms:
        mean, sigma = self.split(params)
        table = self._table.like(params)
        values = torch.addcmul(mean.unsqueeze(-1), sigma.unsqueeze(-1), table.values)
        return Atoms(values, table.probs.expand(values.shape))

    def mean(self, params: Tensor) -> Tensor:
        return params[..., 0]

    def variance(self, params: Tensor) -> Tensor:
        return self.split(params)[1].square()

    def quantile(self, params: Tensor, tau: Tensor | float) -> Tensor:
        mean, sigma = self.split(params)
        levels = torch.as_tensor(tau, dtype=params.dtype, device=params.device)
        score = torch.special.ndtri(levels)
        return mean + sigma * score if levels.ndim == 0 else mean.unsqueeze(-1) + sigma.unsqueeze(-1) * score

    def cdf(self, params: Tensor, x: Tensor | float) -> Tensor:
        mean, sigma = self.split(params)
        points = torch.as_tensor(x, dtype=params.dtype, device=params.device)
        if points.ndim:
            mean, sigma = mean.unsqueeze(-1), sigma.unsqueeze(-1)
        return torch.special.ndtr((points - mean) / sigma)

    def loss(self, params: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        mean, sigma = self.split(params)
        return gaussian_loss(mean, sigma, target_values, target_probs, self.clip)


@register.return_distribution("mixture", paper="mixture of Gaussians, Barth-Maron et al. 2018")
class Mixture(Density):
    """A mixture of `size` Gaussians: params are logits ++ means ++ raw. Negative log-likelihood.

    Args:
        size: Components.
        atoms_each: Atoms of each component's discretization.
        sigma_min: Lower bound of every sigma; a component on a single outcome would shrink to it.
    """

    def __init__(self, size: int = 5, atoms_each: int = 32, sigma_min: float = 0.01):
        self.size = whole("mixture", "size", size)
        self.atoms_each = whole("mixture", "atoms_each", atoms_each, least=2)
        self.sigma_min = at_least_zero("mixture", "sigma_min", sigma_min)
        self.param_size = 3 * self.size
        self._table = _NormalTable(self.atoms_each)

    def split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log weights, means and sigmas, (..., size) each."""
        logits, means, raw = params.chunk(3, -1)
        return F.log_softmax(logits, -1), means, F.softplus(raw) + self.sigma_min

    def initial_bias(self) -> Tensor:
        # apart from each other: equal components would get equal gradients forever
        means = torch.linspace(-1.0, 1.0, self.size) if self.size > 1 else torch.zeros(1)
        return torch.cat((torch.zeros(self.size), means, torch.full((self.size,), _UNIT_SIGMA)))

    def atoms(self, params: Tensor) -> Atoms:
        logw, means, sigmas = self.split(params)
        table = self._table.like(params)
        values = torch.addcmul(means.unsqueeze(-1), sigmas.unsqueeze(-1), table.values)
        return Atoms(values.flatten(-2), (logw.exp().unsqueeze(-1) * table.probs).flatten(-2))

    def mean(self, params: Tensor) -> Tensor:
        logw, means, _ = self.split(params)
        return (logw.exp() * means).sum(-1)

    def variance(self, params: Tensor) -> Tensor:
        logw, means, sigmas = self.split(params)
        weights = logw.exp()
        mean = (weights * means).sum(-1, keepdim=True)
        return (weights * (sigmas.square() + (means - mean).square())).sum(-1)

    def cdf(self, params: Tensor, x: Tensor | float) -> Tensor:
        points = torch.as_tensor(x, dtype=params.dtype, device=params.device)
        logw, means, sigmas = self.split(params)
        if points.ndim:
            logw, means, sigmas = logw.unsqueeze(-2), means.unsqueeze(-2), sigmas.unsqueeze(-2)
        return (logw.exp() * torch.special.ndtr((points.unsqueeze(-1) - means) / sigmas)).sum(-1)

    def quantile(self, params: Tensor, tau: Tensor | float) -> Tensor:
        """Bisect for F^-1(tau); its gradient is implicit, -dF / density."""
        levels = torch.as_tensor(tau, dtype=params.dtype, device=params.device)
        flat = levels.reshape(1) if levels.ndim == 0 else levels
        found = self._bisect(params, flat.expand(*params.shape[:-1], flat.shape[-1]))
        if params.requires_grad:
            reached = self.cdf(params, found)
            density = self.log_density(params, found).exp().detach().clamp(min=torch.finfo(params.dtype).tiny)
            found = found - (reached - reached.detach()) / density
        return found.squeeze(-1) if levels.ndim == 0 else found

    @torch.no_grad()
    def _bisect(self, params: Tensor, levels: Tensor) -> Tensor:
        _, means, sigmas = self.split(params)
        # between the lowest and the highest of the components' own quantiles
        own = means.unsqueeze(-1) + sigmas.unsqueeze(-1) * torch.special.ndtri(levels).unsqueeze(-2)
        low, high = torch.aminmax(own, dim=-2)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            below = self.cdf(params, middle) < levels
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high

    def log_density(self, params: Tensor, x: Tensor) -> Tensor:
        """Return log p(x) at points (..., S)."""
        logw, means, sigmas = (part.unsqueeze(-2) for part in self.split(params))  # (..., 1, size)
        score = (x.unsqueeze(-1) - means) / sigmas
        return torch.logsumexp(logw - 0.5 * score.square() - sigmas.log(), -1) - _HALF_LOG_TWO_PI

    def loss(self, params: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        return -atoms_mean(self.log_density(params, target_values.detach()), target_probs.detach())
