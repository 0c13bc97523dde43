"""Lambda-targets and V-trace targets of any family of return distributions.

Scalar and two-hot critics learn a mean, so their target is a single atom; categorical ones mix on their grid; all
others follow particles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.functional.atoms import Atoms, atoms_quantile, midpoints
from distrl.functional.distributions.base import ReturnDistribution, Scalar
from distrl.functional.distributions.categorical import Categorical, TwoHot
from distrl.functional.distributions.gaussian import Gaussian
from distrl.functional.distributions.quantile import ImplicitQuantile, Quantile
from distrl.functional.returns.distributional import (
    lambda_particles,
    lambda_projected,
    vtrace_particles,
    vtrace_projected,
)
from distrl.functional.returns.state_values import Steps, lambda_returns, vtrace

#: Particles of families whose own atoms differ in probability from state to state.
PARTICLES = 64


def replacement_size(distribution: ReturnDistribution) -> int:
    """Return the uniform numbers per step that `lambda_atoms` needs, or 0."""
    if distribution.channels > 1:
        raise ConfigError(
            "return distribution joint learns several reward channels; a policy gradient's critic learns one.",
            "Use quantile, categorical, iqn, fqf, gaussian, mixture, two_hot or scalar.",
        )
    if isinstance(distribution, Scalar | Categorical):
        return 0
    if isinstance(distribution, Quantile | Gaussian):
        return distribution.size
    return distribution.acting_size if isinstance(distribution, ImplicitQuantile) else PARTICLES


@torch.no_grad()
def lambda_atoms(
    distribution: ReturnDistribution,
    steps: Steps,
    gamma: float | Tensor,
    lam: float,
    uniform: Tensor | None = None,
    log_ratio: Tensor | None = None,
) -> Atoms:
    """Compute targets of every step, values and probs (T, B, M), for `distribution.loss`.

    Args:
        steps: Values are the critic's parameters, (T, B, P).
        gamma: A float, or a tensor that broadcasts to (T, B).
        uniform: (T, B, replacement_size) numbers in [0, 1), where that is not 0. An IQN critic evaluated at another
            number of levels than `acting_size` needs one per level.
        log_ratio: log pi(a|s) - log mu(a|s): V-trace with both clips 1. None is the plain lambda-return.
    """
    size = replacement_size(distribution)
    if isinstance(distribution, Scalar | TwoHot):
        means = steps._replace(value=distribution.mean(steps.value), next_value=distribution.mean(steps.next_value))
        if log_ratio is None:
            target = lambda_returns(means, gamma, lam)
        else:
            target = vtrace(means, log_ratio, gamma, lam).vs
        return Atoms(target.unsqueeze(-1), torch.ones_like(target).unsqueeze(-1))
    if isinstance(distribution, Categorical):
        grid = distribution.grid(steps.value)
        on_grid = steps._replace(value=steps.value.softmax(-1), next_value=steps.next_value.softmax(-1))
        if log_ratio is None:
            return lambda_projected(on_grid, gamma, lam, grid)
        return vtrace_projected(on_grid, log_ratio, gamma, lam, grid)
    if uniform is None:
        raise ValueError(f"the lambda-target of {type(distribution).__name__} needs uniform noise (T, B, {size}).")
    values, probs = _particles(distribution, steps.next_value)
    if log_ratio is None:
        targets = lambda_particles(steps._replace(next_value=values), gamma, lam, uniform)
    else:
        own, _ = _particles(distribution, steps.value)
        targets = vtrace_particles(steps._replace(value=own, next_value=values), log_ratio, gamma, lam, uniform)
    return Atoms(targets.values, probs)


def _particles(distribution: ReturnDistribution, params: Tensor) -> Atoms:
    """Return atoms whose j-th probability is the same in every state."""
    values, probs = distribution.atoms(params)
    if isinstance(distribution, Quantile | ImplicitQuantile | Gaussian):
        return Atoms(values, probs)
    values = atoms_quantile(values, probs, midpoints(PARTICLES, params))
    return Atoms(values, values.new_full((1,), 1.0 / PARTICLES).expand(values.shape))
