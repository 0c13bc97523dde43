"""Projections of discrete distributions onto a fixed grid of atoms: C51 and two-hot.

Each atom's mass goes to its two neighbors on the grid, in proportion to closeness. That keeps the mean of atoms between
the ends of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError, unknown
from distrl.functional.distributions.value_maps import Symlog

#: Spacings of grids: evenly, or evenly after symlog (fine near 0, coarse far away).
SPACINGS = ("linear", "symlog")


def make_grid(v_min: float, v_max: float, size: int, spacing: str = "linear") -> Tensor:
    """Return `size` ascending float64 values from v_min to v_max."""
    if size < 2 or not v_min < v_max:
        raise ConfigError(
            f"a support of {size} atoms from v_min {v_min} to v_max {v_max}; expected at least 2, and v_min < v_max.",
            "For example size 51, v_min -10, v_max 10.",
        )
    if spacing not in SPACINGS:
        raise ConfigError(unknown("spacing", spacing, SPACINGS))
    ends = torch.tensor([v_min, v_max], dtype=torch.float64)
    if spacing == "linear":
        return torch.linspace(v_min, v_max, size, dtype=torch.float64)
    low, high = Symlog().forward(ends).tolist()
    grid = Symlog().inverse(torch.linspace(low, high, size, dtype=torch.float64))
    grid[0], grid[-1] = ends  # exactly
    return grid


def project_categorical(values: Tensor, probs: Tensor, v_min: float, v_max: float, size: int) -> Tensor:
    """Project onto `size` even atoms, (..., size). Bellemare et al. 2017, eq. 7.

    Args:
        values: (..., M); beyond the ends the end atom gets the mass.
        probs: (..., M).

    >>> next_values, reward, gamma = torch.tensor([0.0, 1.0, 2.0]), 0.25, 0.5
    >>> project_categorical(reward + gamma * next_values, torch.tensor([0.2, 0.3, 0.5]), 0.0, 2.0, 3)
    tensor([0.2250, 0.6500, 0.1250])
    """
    place = ((values - v_min) * ((size - 1) / (v_max - v_min))).clamp(0.0, size - 1.0)
    return _spread(place, probs, size)


def project_to_grid(values: Tensor, probs: Tensor, grid: Tensor) -> Tensor:
    """Project onto any ascending grid (G,); see `project_categorical`."""
    size = len(grid)
    values = values.clamp(grid[0], grid[-1])
    lower = (torch.searchsorted(grid, values.detach().contiguous(), right=True) - 1).clamp(0, size - 2)
    left = grid[lower]
    return _spread(lower + (values - left) / (grid[lower + 1] - left), probs, size)


def two_hot(values: Tensor, grid: Tensor) -> Tensor:
    """Express numbers as probabilities (..., G) of at most two neighbors, with the same mean."""
    value = values.unsqueeze(-1)
    return project_to_grid(value, torch.ones_like(value), grid)


def _spread(place: Tensor, probs: Tensor, size: int) -> Tensor:
    """Share mass (..., M) at fractional places in [0, size - 1] between neighboring places."""
    if place.device.type == "cuda":  # sums of scattered additions depend on their order there, which is not fixed
        return spread_dense(place, probs, size)
    # the upper neighbor is never the same place: no mass is lost where a value hits an atom
    lower = place.detach().floor().clamp(max=size - 2).long()
    upper_mass = probs * (place - lower)
    mass = place.new_zeros((*place.shape[:-1], size))
    mass = mass.scatter_add(-1, lower, probs - upper_mass)
    return mass.scatter_add(-1, lower + 1, upper_mass)


def spread_dense(place: Tensor, probs: Tensor, size: int) -> Tensor:
    """Compute `_spread` by a dense (..., M, size) product, with a fixed order of sums."""
    whole = torch.arange(size, dtype=place.dtype, device=place.device)
    near = (1.0 - (place.unsqueeze(-1) - whole).abs()).clamp(min=0)
    return (probs.unsqueeze(-1) * near).sum(-2)
