"""A warning for return distributions on a grid that is too narrow."""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.functional.distributions.base import ReturnDistribution
from distrl.functional.distributions.categorical import Categorical


class SupportWatch:
    """A single warning when the grid of a head, the config key `key`, cannot hold the returns."""

    def __init__(self, distribution: ReturnDistribution | None, key: str = "critic_head"):
        self.grid = distribution if isinstance(distribution, Categorical) else None
        self.key = key
        self.range: Tensor | None = None
        self.warned = False

    @property
    def watching(self) -> bool:
        """True until the out-of-support warning was issued, if there is a grid."""
        return self.grid is not None and not self.warned

    @torch.no_grad()
    def observe(self, target_values: Tensor) -> None:
        """Extend the range of target values, without synchronizing with the device."""
        if not self.watching or not target_values.numel():
            return
        low, high = torch.aminmax(target_values)
        seen = torch.stack((-low, high))
        self.range = seen if self.range is None else torch.maximum(self.range, seen)

    def warnings(self) -> list[str]:
        """Return the warning, the first time that there is one. Reads two numbers from the device."""
        if self.grid is None or self.range is None or self.warned:
            return []
        low, high = (-self.range[0]).item(), self.range[1].item()
        slack = 1e-4 * (self.grid.v_max - self.grid.v_min)
        if low >= self.grid.v_min - slack and high <= self.grid.v_max + slack:
            return []
        self.warned = True
        return [
            f"{self.key}: returns from {low:.4g} to {high:.4g} do not fit into the support from v_min "
            f"{self.grid.v_min:g} to v_max {self.grid.v_max:g}; what lies beyond is counted as the end. "
            f"Set {self.key}.v_min and {self.key}.v_max wider, or use head quantile."
        ]
