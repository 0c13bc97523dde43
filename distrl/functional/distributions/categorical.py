"""Distributions on a fixed grid of values: categorical (C51) and two-hot."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distrl.base.registry import register
from distrl.functional.atoms import Atoms, atoms_mean
from distrl.functional.distributions.base import ReturnDistribution, whole
from distrl.functional.distributions.projections import make_grid, project_categorical, project_to_grid, two_hot


@register.return_distribution("categorical", paper="C51, Bellemare et al. 2017", entries=[102])
class Categorical(ReturnDistribution):
    """Probabilities of fixed values: params are logits (..., size). Projected cross-entropy.

    Args:
        size: Atoms.
        v_min: Lowest value.
        v_max: Highest value; returns beyond either end count as that end.
        spacing: linear, or symlog (fine near 0, coarse far away).
    """

    ordered = True
    head_gain = 0.01  # nearly even probabilities at the start

    def __init__(self, size: int = 51, v_min: float = -10.0, v_max: float = 10.0, spacing: str = "linear"):
        self.size = self.param_size = whole("categorical", "size", size, least=2)
        self.v_min, self.v_max, self.spacing = float(v_min), float(v_max), spacing
        self._grids = {(torch.float64, torch.device("cpu")): make_grid(self.v_min, self.v_max, self.size, spacing)}

    def grid(self, like: Tensor) -> Tensor:
        """Return the values (size,) with the dtype and device of `like`."""
        key = (like.dtype, like.device)
        if key not in self._grids:
            # a fixed tensor: inside a captured CUDA graph nothing may be copied from the CPU
            self._grids[key] = self._grids[torch.float64, torch.device("cpu")].to(like)
        return self._grids[key]

    def atoms(self, params: Tensor) -> Atoms:
        return Atoms(self.grid(params).expand(params.shape), params.softmax(-1))

    def mean(self, params: Tensor) -> Tensor:
        return params.softmax(-1) @ self.grid(params)

    @torch.no_grad()
    def project(self, values: Tensor, probs: Tensor) -> Tensor:
        """Project a distribution (..., M) onto the grid: probabilities (..., size)."""
        if self.spacing == "linear":
            return project_categorical(values, probs, self.v_min, self.v_max, self.size)
        return project_to_grid(values, probs, self.grid(values))

    def loss(self, params: Tensor, target_values: Tensor, target_probs: Tensor) -> Tensor:
        return -(self.project(target_values, target_probs) * F.log_softmax(params, -1)).sum(-1)


@register.return_distribution("two_hot", paper="Schrittwieser et al. 2020; Hafner et al. 2023")
class TwoHot(Categorical):
    """The mean as a classification: cross-entropy against its two neighbors on the grid.

    The variance measures the uncertainty of the classifier, not of returns.
    """

    head_gain = 0.0  # the ends of the grid are far away: the smallest noise in the logits would move the mean

    def __init__(self, size: int = 101, v_min: float = -1e4, v_max: float = 1e4, spacing: str = "symlog"):
        super().__init__(size, v_min, v_max, spacing)

    @torch.no_grad()
    def project(self, values: Tensor, probs: Tensor) -> Tensor:
        return two_hot(atoms_mean(values, probs), self.grid(values))
