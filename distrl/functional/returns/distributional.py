"""Lambda-targets of distributional critics of policy gradients. No gradients.

Rollouts are (T, B); distributions of the next state are atoms (T, B, M), at truncations those of the true final
observation. The lambda-return of distributions is a mixture, not a sum:

    eta_t = distribution of r_t + gamma Z', where Z' follows eta_{t+1} with probability lam, else Z(s_{t+1}).

Blending atoms linearly, or adding an advantage to the present atoms, would shrink or blow up the spread instead.
With V-trace's clipped weights the mixture has a third part: with probability 1 - rho, Z(s_t) stays as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.functional.atoms import Atoms, equal_probs
from distrl.functional.distributions.projections import project_to_grid
from distrl.functional.returns.state_values import cut_rows, discounts
from distrl.functional.scan import reverse_scan


@torch.no_grad()
def lambda_particles(
    reward: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float | Tensor,
    lam: float,
    uniform: Tensor,
) -> Atoms:
    """Targets as M equally likely particles, by sampled replacement. Entry 10; for quantile-like heads.

    y_j(t) = r_t + gamma (y_j(t+1) with probability lam, else theta_j(s_{t+1})), drawn for every particle; its mean over
    draws is the lambda-return of the mean critic.

    Args:
        reward: (T, B).
        next_values: theta_j of what each step bootstraps from, (T, B, M), equally likely.
        gamma: A float, or a tensor that broadcasts to (T, B).
        lam: In [0, 1].
        uniform: (T, B, M) numbers in [0, 1).

    Returns:
        values and probs, both (T, B, M).
    """
    return _replacement(reward, None, next_values, terminated, truncated, gamma, uniform, trace=lam)


@torch.no_grad()
def vtrace_particles(
    reward: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    log_ratio: Tensor,
    gamma: float | Tensor,
    lam: float,
    uniform: Tensor,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> Atoms:
    """V-trace targets as particles: their mean over draws is `vs` of `returns.vtrace` on the mean critic.

    vs_t = (1 - rho) V_t + rho r + gamma ((rho - c) V_{t+1} + c vs_{t+1}) is a mixture where c <= rho <= 1.

    Args:
        values: theta_j(s_t), (T, B, M).
        log_ratio: log pi(a|s) - log mu(a|s), (T, B).
        rho_bar, c_bar: Clips, c_bar <= rho_bar <= 1.

    Returns:
        values and probs, both (T, B, M).

    Raises:
        ConfigError: Clips for which the target is no mixture.
    """
    _check_clips(rho_bar, c_bar)
    ratio = log_ratio.exp().unsqueeze(-1)
    trace = lam * ratio.clamp(max=c_bar)
    return _replacement(
        reward, values, next_values, terminated, truncated, gamma, uniform, trace, ratio.clamp(max=rho_bar)
    )


def _replacement(
    reward: Tensor,
    values: Tensor | None,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float | Tensor,
    uniform: Tensor,
    trace: float | Tensor,
    rho: Tensor | None = None,
) -> Atoms:
    """A particle follows its successor where u < trace, bootstraps up to rho, and stays at its own value above."""
    discount, _ = discounts(reward, terminated, truncated, gamma)
    discount = discount.unsqueeze(-1)
    follow = (uniform < trace) & ~cut_rows(terminated, truncated).unsqueeze(-1)
    bootstrap = discount * next_values
    delta = reward.unsqueeze(-1) + torch.where(follow, torch.zeros_like(bootstrap), bootstrap)
    decay = torch.where(follow, discount, torch.zeros_like(bootstrap))
    if rho is not None and values is not None:
        stay = uniform >= rho
        delta = torch.where(stay, values, delta)
        decay = decay.masked_fill(stay, 0.0)
    targets = reverse_scan(delta, decay)
    return Atoms(targets, equal_probs(targets))


@torch.no_grad()
def lambda_projected(
    reward: Tensor,
    next_probs: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float | Tensor,
    lam: float,
    grid: Tensor,
) -> Atoms:
    """Targets as probabilities on a fixed grid, without sampling; for categorical heads.

    eta_t = projection of (r_t + gamma z) under (1 - lam) Z(s_{t+1}) + lam eta_{t+1}, backwards. Exact mixture, exact
    mean while the grid holds the returns; each step back through the projection adds a little spread.

    Args:
        next_probs: Probabilities of what each step bootstraps from on the grid, (T, B, G).
        lam: In [0, 1].
        grid: (G,), ascending.

    Returns:
        values (T, B, G), a view of the grid, and probs (T, B, G).
    """
    share = torch.full_like(reward, lam)
    return _projected(reward, next_probs, next_probs, terminated, truncated, gamma, share, torch.ones_like(share), grid)


@torch.no_grad()
def vtrace_projected(
    reward: Tensor,
    probs: Tensor,
    next_probs: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    log_ratio: Tensor,
    gamma: float | Tensor,
    lam: float,
    grid: Tensor,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> Atoms:
    """V-trace targets on a fixed grid; see `vtrace_particles` and `lambda_projected`.

    Args:
        probs: Probabilities of Z(s_t), (T, B, G).
    """
    _check_clips(rho_bar, c_bar)
    ratio = log_ratio.exp()
    rho = ratio.clamp(max=rho_bar)
    share = lam * ratio.clamp(max=c_bar) / rho.clamp(min=torch.finfo(rho.dtype).tiny)
    return _projected(reward, probs, next_probs, terminated, truncated, gamma, share, rho, grid)


def _projected(
    reward: Tensor,
    probs: Tensor,
    next_probs: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float | Tensor,
    share: Tensor,
    rho: Tensor,
    grid: Tensor,
) -> Atoms:
    """With probability rho a step back: of eta_{t+1} with probability `share` (T, B), else of Z(s_{t+1})."""
    discount, _ = discounts(reward, terminated, truncated, gamma)
    moved = reward.unsqueeze(-1) + discount.unsqueeze(-1) * grid  # (T, B, G)
    share = share.masked_fill(cut_rows(terminated, truncated), 0.0).unsqueeze(-1)
    rho = rho.unsqueeze(-1)
    targets = torch.empty_like(next_probs)
    ahead = next_probs[-1]
    for t in range(len(reward) - 1, -1, -1):
        mixture = torch.lerp(next_probs[t], ahead, share[t])
        ahead = targets[t] = torch.lerp(probs[t], project_to_grid(moved[t], mixture, grid), rho[t])
    return Atoms(grid.expand(targets.shape), targets)


def _check_clips(rho_bar: float, c_bar: float) -> None:
    if not c_bar <= rho_bar <= 1.0:
        raise ConfigError(
            f"distributional V-trace with rho_bar {rho_bar} and c_bar {c_bar}; expected c_bar <= rho_bar <= 1: "
            "beyond, weights of the mixture are negative.",
            "Set both to 1.",
        )
