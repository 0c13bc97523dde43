"""Rules that make one target law of the laws of several critics, and the numbers that go with them.

Values and probabilities come as an ensemble gives them, (E, N, M); the result is one law for each row, (N, M').
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.functional.atoms import Atoms, equal_probs
from distrl.functional.bellman.ensemble_atoms import lowest_mean, lowest_quantiles, pool_atoms, truncate_atoms

#: (values, probs) of an ensemble to one law.
Rule = Callable[[Tensor, Tensor], Atoms]


def critic_rule(name: str, drop: int = 0) -> Rule:
    """The rule that a config names: min, subset (of critics that the caller drew), mean, truncate, quantile_min.

    Args:
        drop: Of truncate: atoms dropped per critic.
    """
    rules: dict[str, Rule] = {
        "min": minimum,
        "subset": minimum,
        "mean": mixture,
        "truncate": partial(truncated, drop=drop),
        "quantile_min": rank_minimum,
    }
    return rules[name]


def minimum(values: Tensor, probs: Tensor) -> Atoms:
    """The law with the lowest mean. Fujimoto et al. 2018 (TD3), for any law."""
    if len(values) == 1:
        return Atoms(values[0], probs[0])
    if values.shape[-1] == 1:
        return Atoms(values.amin(0), probs[0])
    return lowest_mean(values.movedim(0, 1), probs.movedim(0, 1))


def mixture(values: Tensor, probs: Tensor) -> Atoms:
    """All laws mixed evenly."""
    if len(values) == 1:
        return Atoms(values[0], probs[0])
    return pool_atoms(values.movedim(0, 1), probs.movedim(0, 1))


def truncated(values: Tensor, probs: Tensor, drop: int) -> Atoms:
    """The pooled atoms without the largest. Kuznetsov et al. 2020 (TQC), eq. 10."""
    pooled = values.movedim(0, 1)
    if not _equal(probs):
        return truncate_atoms(pooled, drop, probs.movedim(0, 1))
    if values.requires_grad or values.device.type != "cpu" or torch.compiler.is_compiling():
        return truncate_atoms(pooled, drop)
    # numpy sorts 256 x 50 numbers in 15 us, torch in 400.
    critics, count = pooled.shape[-2:]
    ascending = np.sort(pooled.flatten(-2).numpy(), axis=-1)
    kept = torch.from_numpy(ascending[..., : critics * (count - drop)])
    return Atoms(kept, equal_probs(kept))


def rank_minimum(values: Tensor, probs: Tensor) -> Atoms:
    """The lowest of the critics quantile by quantile. Ma et al. 2020 (DSAC).

    Raises:
        ConfigError: Atoms that are not equally likely: ranks of different critics would mean different things.
    """
    if not _equal(probs):
        raise ConfigError(
            "ensemble: quantile_min compares quantiles, but these critics' atoms are not equally likely.",
            "Use algorithm.critic_head=quantile, or algorithm.ensemble=min.",
        )
    lowest = lowest_quantiles(values.movedim(0, 1))
    return Atoms(lowest, equal_probs(lowest))


def _equal(probs: Tensor) -> bool:
    """Whether probabilities are one number seen from everywhere, as `equal_probs` makes them."""
    return all(stride == 0 or size == 1 for stride, size in zip(probs.stride(), probs.shape, strict=True))
