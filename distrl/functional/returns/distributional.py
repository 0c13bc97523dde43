"""Lambda-targets of distributional critics of policy gradients, without gradients.

The lambda-return of distributions is a mixture, not a sum:

    eta_t = distribution of r_t + gamma Z', where Z' follows eta_{t+1} with probability lam, else Z(s_{t+1}).

Linear blends of atoms, or an advantage added to the present atoms, would shrink or inflate the variance.
With V-trace's clipped weights the mixture has a third component: Z(s_t) with probability 1 - rho.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.functional.atoms import Atoms, equal_probs
from distrl.functional.distributions.projections import project_to_grid
from distrl.functional.returns.state_values import Steps
from distrl.functional.scan import reverse_scan


@torch.no_grad()
def lambda_particles(steps: Steps, gamma: float | Tensor, lam: float, uniform: Tensor) -> Atoms:
    """Compute targets (T, B, M) as equally likely particles, by sampled replacement.

    y_j(t) = r_t + gamma (y_j(t+1) with probability lam, else theta_j(s_{t+1})), drawn for every particle; its mean over
    draws is the lambda-return of the mean critic.

    Args:
        steps: Values are theta_j, (T, B, M), equally likely.
        gamma: A float, or a tensor that broadcasts to (T, B).
        uniform: (T, B, M) numbers in [0, 1).
    """
    return _replacement(steps, gamma, uniform, trace=lam)


@torch.no_grad()
def vtrace_particles(
    steps: Steps,
    log_ratio: Tensor,
    gamma: float | Tensor,
    lam: float,
    uniform: Tensor,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> Atoms:
    """Compute V-trace targets (T, B, M) as particles, with `vs` of `vtrace` as mean over draws.

    vs_t = (1 - rho) V_t + rho r + gamma ((rho - c) V_{t+1} + c vs_{t+1}) is a mixture where c <= rho <= 1.

    Args:
        steps: Values are theta_j, (T, B, M), equally likely.
        log_ratio: log pi(a|s) - log mu(a|s), (T, B).
        rho_bar, c_bar: Clips, c_bar <= rho_bar <= 1.
    """
    _check_clips(rho_bar, c_bar)
    ratio = log_ratio.exp().unsqueeze(-1)
    return _replacement(steps, gamma, uniform, lam * ratio.clamp(max=c_bar), ratio.clamp(max=rho_bar))


def _replacement(
    steps: Steps, gamma: float | Tensor, uniform: Tensor, trace: float | Tensor, rho: Tensor | None = None
) -> Atoms:
    """Follow the successor where u < trace, bootstrap up to rho, keep the own value above."""
    discount, _ = steps.discounts(gamma)
    discount = discount.unsqueeze(-1)
    follow = (uniform < trace) & ~steps.cut().unsqueeze(-1)
    bootstrap = discount * steps.next_value
    delta = steps.reward.unsqueeze(-1) + torch.where(follow, torch.zeros_like(bootstrap), bootstrap)
    decay = torch.where(follow, discount, torch.zeros_like(bootstrap))
    if rho is not None:
        stay = uniform >= rho
        delta = torch.where(stay, steps.value, delta)
        decay = decay.masked_fill(stay, 0.0)
    targets = reverse_scan(delta, decay)
    return Atoms(targets, equal_probs(targets))


@torch.no_grad()
def lambda_projected(steps: Steps, gamma: float | Tensor, lam: float, grid: Tensor) -> Atoms:
    """Compute targets (T, B, G) as probabilities on a fixed grid, without sampling.

    eta_t = projection of (r_t + gamma z) under (1 - lam) Z(s_{t+1}) + lam eta_{t+1}, backwards. Exact mixture, exact
    mean while the grid contains the returns; each projection adds a little variance.

    Args:
        steps: Values are probabilities on the grid, (T, B, G).
        grid: (G,), ascending.
    """
    share = torch.full_like(steps.reward, lam)
    return _projected(steps, gamma, share, torch.ones_like(share), grid)


@torch.no_grad()
def vtrace_projected(
    steps: Steps,
    log_ratio: Tensor,
    gamma: float | Tensor,
    lam: float,
    grid: Tensor,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> Atoms:
    """Compute V-trace targets on a fixed grid; see `vtrace_particles` and `lambda_projected`."""
    _check_clips(rho_bar, c_bar)
    ratio = log_ratio.exp()
    rho = ratio.clamp(max=rho_bar)
    share = lam * ratio.clamp(max=c_bar) / rho.clamp(min=torch.finfo(rho.dtype).tiny)
    return _projected(steps, gamma, share, rho, grid)


def _projected(steps: Steps, gamma: float | Tensor, share: Tensor, rho: Tensor, grid: Tensor) -> Atoms:
    """Step back with probability rho: from eta_{t+1} with probability `share`, else Z(s_{t+1})."""
    discount, _ = steps.discounts(gamma)
    moved = steps.reward.unsqueeze(-1) + discount.unsqueeze(-1) * grid  # (T, B, G)
    share = share.masked_fill(steps.cut(), 0.0).unsqueeze(-1)
    rho = rho.unsqueeze(-1)
    targets = torch.empty_like(steps.next_value)
    ahead = steps.next_value[-1]
    for t in range(len(steps.reward) - 1, -1, -1):
        mixture = torch.lerp(steps.next_value[t], ahead, share[t])
        ahead = targets[t] = torch.lerp(steps.value[t], project_to_grid(moved[t], mixture, grid), rho[t])
    return Atoms(grid.expand(targets.shape), targets)


def _check_clips(rho_bar: float, c_bar: float) -> None:
    if not c_bar <= rho_bar <= 1.0:
        raise ConfigError(
            f"distributional V-trace with rho_bar {rho_bar} and c_bar {c_bar}; expected c_bar <= rho_bar <= 1: "
            "beyond, weights of the mixture are negative.",
            "Set both to 1.",
        )
