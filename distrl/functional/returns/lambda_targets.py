"""The lambda-target, or V-trace target, that suits a family of return distributions: one call for any critic.

Scalar and two-hot critics learn a mean, so theirs is the usual target as a single atom; categorical ones mix on their
grid; all others follow particles (`distributional_returns.py`).
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
from distrl.functional.returns.state_values import lambda_returns, vtrace

#: Particles of families whose own atoms differ in probability from state to state.
PARTICLES = 64


def replacement_size(distribution: ReturnDistribution) -> int:
    """Uniform numbers per step that `lambda_atoms` needs; 0 where the target takes no sampling.

    Raises:
        ConfigError: A joint distribution: a policy gradient has one reward.
    """
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
    params: Tensor,
    next_params: Tensor,
    reward: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float | Tensor,
    lam: float,
    uniform: Tensor | None = None,
    log_ratio: Tensor | None = None,
) -> Atoms:
    """Targets of every step as atoms, ready for `distribution.loss`.

    Args:
        params: The critic's parameters at obs_t, (T, B, P).
        next_params: Those of what each step bootstraps from, (T, B, P); at truncations of the true final observation.
        reward, terminated, truncated: (T, B).
        gamma: A float, or a tensor that broadcasts to (T, B).
        lam: In [0, 1].
        uniform: (T, B, replacement_size) numbers in [0, 1), where that is not 0. An IQN critic evaluated at another
            number of levels than `acting_size` needs as many as it has levels.
        log_ratio: log pi(a|s) - log mu(a|s): V-trace with both clips 1. None is the plain lambda-return.

    Returns:
        values and probs (T, B, M).
    """
    size = replacement_size(distribution)
    if isinstance(distribution, Scalar | TwoHot):
        value, next_value = distribution.mean(params), distribution.mean(next_params)
        if log_ratio is None:
            target = lambda_returns(reward, value, next_value, terminated, truncated, gamma, lam)
        else:
            target = vtrace(reward, value, next_value, terminated, truncated, log_ratio, gamma, lam).vs
        return Atoms(target.unsqueeze(-1), torch.ones_like(target).unsqueeze(-1))
    if isinstance(distribution, Categorical):
        grid = distribution.grid(params)
        following = next_params.softmax(-1)
        if log_ratio is None:
            return lambda_projected(reward, following, terminated, truncated, gamma, lam, grid)
        own = params.softmax(-1)
        return vtrace_projected(reward, own, following, terminated, truncated, log_ratio, gamma, lam, grid)
    if uniform is None:
        raise ValueError(f"the lambda-target of {type(distribution).__name__} needs uniform noise (T, B, {size}).")
    values, probs = _particles(distribution, next_params)
    if log_ratio is None:
        targets = lambda_particles(reward, values, terminated, truncated, gamma, lam, uniform)
    else:
        own, _ = _particles(distribution, params)
        targets = vtrace_particles(reward, own, values, terminated, truncated, log_ratio, gamma, lam, uniform)
    return Atoms(targets.values, probs)


def _particles(distribution: ReturnDistribution, params: Tensor) -> Atoms:
    """Atoms whose j-th probability is the same in every state, so that particles of two states can take turns."""
    values, probs = distribution.atoms(params)
    if isinstance(distribution, Quantile | ImplicitQuantile | Gaussian):
        return Atoms(values, probs)
    values = atoms_quantile(values, probs, midpoints(PARTICLES, params))
    return Atoms(values, values.new_full((1,), 1.0 / PARTICLES).expand(values.shape))
