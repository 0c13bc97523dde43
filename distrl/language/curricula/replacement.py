"""AEPO: replacement of answers by correct ones drawn at another temperature.

Hotter right answers raise the policy's entropy, colder ones lower it: `virtual_temperature` selects the
kind. The drawn answers count as the policy's own (old_logp recomputed at temperature 1) with advantage 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.columns import Columns, tree_map


def replacement_count(entropy: float, target: float, count: int = 60) -> int:
    """Return the number of answers to replace: `count` to raise the entropy, half to lower it."""
    return count if entropy <= target else count // 2


def select_regenerated(advantage: Tensor, count: int, threshold: float = 0.05) -> Tensor:
    """Indices of the first `count` redrawn answers that were better than their group. (at most count,) int64."""
    return torch.nonzero(advantage > threshold).squeeze(1)[:count]


def replace_rows(batch: Columns, redrawn: Columns, chosen: Tensor, places: Tensor) -> Columns:
    """The batch with rows `places` replaced by the chosen redrawn ones, their `advantage` set to 1.

    Args:
        batch: Columns with rows first, among them `advantage`.
        chosen: (m,) rows of `redrawn`.
        places: (at least m,) rows of `batch`, drawn by the caller; the first m are replaced.
    """
    places = places[: len(chosen)]
    if not len(chosen):
        return batch
    same = redrawn.only(*batch)
    mixed = tree_map(lambda old, new: old.index_copy(0, places, new[chosen].to(old.dtype)), batch, same)
    return mixed.with_(advantage=mixed.advantage.index_fill(0, places, 1.0))
