"""What the property tests of the language-model links share: ragged groups, masked token batches, slow loops."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

CASES = settings(max_examples=60, deadline=None)


def rows(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ids(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def one_group(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


@st.composite
def ragged(draw: st.DrawFn, smallest: int = 2, binary: bool | None = None) -> tuple[Tensor, Tensor]:
    """Rewards (R,) float64 and group ids (R,) in shuffled order; groups of `smallest` to 6 rows, with odd ids."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = rng.permutation(50)[: draw(st.integers(1, 5))] * 7 - 100
    group = np.concatenate([np.full(rng.integers(smallest, 7), name) for name in names])
    group = rng.permutation(group)
    coarse = draw(st.booleans()) if binary is None else binary
    reward = rng.integers(0, 2, len(group)).astype(np.float64) if coarse else rng.normal(size=len(group))
    return torch.from_numpy(reward), torch.from_numpy(group)


@st.composite
def token_masks(draw: st.DrawFn, rows_: int | None = None) -> Tensor:
    """(N, L) bool with holes, empty sequences among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (rows_ or int(rng.integers(1, 6)), int(rng.integers(1, 9)))
    return torch.from_numpy(rng.random(shape) < draw(st.sampled_from([0.3, 0.7, 1.0])))


def normal_like(mask: Tensor, seed: int, scale: float = 1.0) -> Tensor:
    """(N, L) float64 standard normal, NaN off the mask: nothing may read it there."""
    draws = torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    return draws.masked_fill(~mask, torch.nan)


def by_group(reward: Tensor, group: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row indices and rewards of each group, one after another."""
    for name in sorted(set(group.tolist())):
        index = np.flatnonzero(group.numpy() == name)
        yield index, reward.numpy()[index]


def gradient(function, *at: Tensor) -> list[Tensor]:
    """Gradients of the sum of what the function gives, with respect to each tensor."""
    leaves = [x.clone().requires_grad_() for x in at]
    function(*leaves).sum().backward()
    return [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves]
