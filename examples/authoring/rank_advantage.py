"""Rank advantages: the centered rank of each answer among the answers to its prompt, in [-1, 1].

A method of a language-model algorithm is one function. Its parameters name the columns that it reads (`reward`,
`group`) and, keyword-only, the options of its config word.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distrl.base.registry import register


@register.advantage("rank", paper="An example of this documentation")
def rank(reward: Tensor, group: Tensor, *, power: float = 1.0) -> Tensor:
    """Centered rank of each reward in its group, in [-1, 1]; ties share their mean rank. (R,).

    Args:
        reward: (R,).
        group: (R,) ids; rows with one id answer the same prompt.
        power: Below 1 the best and worst answers count less.
    """
    same = group[:, None] == group[None, :]
    below = (same & (reward[None, :] < reward[:, None])).sum(1)
    above = (same & (reward[None, :] > reward[:, None])).sum(1)
    centered = (below - above).to(reward.dtype) / (same.sum(1) - 1).clamp(min=1)
    return torch.sign(centered) * centered.abs().pow(power)
