"""Laws of several critics made into one target: pooled, truncated, or the lowest.

Values are (..., C, M): C critics with M atoms each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.functional.atoms import Atoms, atoms_mean, equal_probs, sorted_atoms


def pool_atoms(values: Tensor, probs: Tensor) -> Atoms:
    """The even mixture of C laws: (..., C, M) to (..., C * M)."""
    return Atoms(values.flatten(-2), (probs / values.shape[-2]).expand(values.shape).flatten(-2))


def truncate_atoms(values: Tensor, drop: int, probs: Tensor | None = None) -> Atoms:
    """The lower part of the pooled atoms: each critic gives up its share of the top. Kuznetsov et al. 2020 (TQC).

    With equal probabilities the `drop * C` largest of the C * M pooled atoms go. With other ones the top
    drop / M of the probability mass goes; the atom on the edge loses part of its own.

    Args:
        values: (..., C, M).
        drop: Atoms dropped per critic, 0 to M - 1.
        probs: (..., C, M); None means equal ones.

    Returns:
        Ascending atoms: (..., C * (M - drop)) with equal probabilities, else (..., C * M) with zeros at the top.

    Raises:
        ConfigError: `drop` leaves nothing, or is negative.
    """
    critics, count = values.shape[-2:]
    if not 0 <= drop < count:
        raise ConfigError(
            f"cannot drop {drop} of the {count} atoms of each critic; expected 0 to {count - 1}.",
            "Drop fewer atoms, or use a head with more.",
        )
    if probs is None:
        kept = values.flatten(-2).sort(-1).values[..., : critics * (count - drop)]
        return Atoms(kept, equal_probs(kept))
    pooled, mass = sorted_atoms(*pool_atoms(values, probs))
    keep = 1.0 - drop / count
    reached = mass.cumsum(-1).clamp(max=keep)
    return Atoms(pooled, torch.diff(reached, dim=-1, prepend=torch.zeros_like(reached[..., :1])) / keep)


def lowest_quantiles(values: Tensor) -> Tensor:
    """Rank by rank the smallest of the critics' sorted values: (..., C, M) to (..., M).

    The distributional form of the clipped double critic (Ma et al. 2020, DSAC with quantiles); all atoms must have
    equal probabilities.
    """
    return values.sort(-1).values.amin(-2)


def lowest_mean(values: Tensor, probs: Tensor) -> Atoms:
    """The whole law of the critic with the smallest mean: (..., C, M) to (..., M). TD3's rule for any head."""
    chosen = atoms_mean(values, probs).argmin(-1)[..., None, None].expand(*values.shape[:-2], 1, values.shape[-1])
    return Atoms(values.gather(-2, chosen).squeeze(-2), probs.expand(values.shape).gather(-2, chosen).squeeze(-2))
