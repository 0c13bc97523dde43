"""Statistics of ragged groups: rows with a group id each, groups of any size, in any order.

A *row* is one training sequence; rows with the same `group` answer the same prompt. Statistics are taken in float64
whatever the rewards' type, so that they do not depend on the order of the rows beyond the last bits of float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distrl.base.errors import ConfigError

#: Choice between two neighboring order statistics; `exact` is the left-continuous inverse of the step function.
INTERPOLATIONS = ("linear", "lower", "higher", "exact")


class Groups:
    """Rows sorted into groups by their ids.

    Attributes:
        ids: (Q,) the distinct ids, ascending; "per group" tensors are in this order.
        row: (R,) the position in `ids` of each row's group.
        count: (Q,) int64 rows of each group.

    >>> groups = Groups(torch.tensor([7, 3, 7]))
    >>> groups.mean(torch.tensor([1.0, 5.0, 2.0])).tolist(), groups.row.tolist()
    ([5.0, 1.5], [1, 0, 1])
    """

    def __init__(self, ids: Tensor):
        self.ids, self.row, self.count = torch.unique(ids, return_inverse=True, return_counts=True)

    def __len__(self) -> int:
        return len(self.ids)

    def spread(self, per_group: Tensor) -> Tensor:
        """Per group (Q, ...) to per row (R, ...): each row gets its group's number."""
        return per_group[self.row]

    def sum(self, x: Tensor) -> Tensor:
        """(R, ...) to (Q, ...). Differentiable."""
        return x.new_zeros(len(self), *x.shape[1:]).index_add(0, self.row, x)

    def mean(self, x: Tensor) -> Tensor:
        """(R, ...) to (Q, ...). Differentiable."""
        total = self.sum(x)
        return total / self.count.view(-1, *[1] * (x.dim() - 1)).to(total.dtype)

    def std(self, x: Tensor, ddof: int = 1) -> Tensor:
        """Standard deviation with denominator count - ddof (at least 1), (R, ...) to (Q, ...)."""
        squares = self.sum((x - self.spread(self.mean(x))).square())
        count = (self.count - ddof).clamp(min=1).view(-1, *[1] * (x.dim() - 1))
        return (squares / count.to(squares.dtype)).sqrt()

    def extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest of each group, (R,) to (Q,) and (Q,)."""
        low = x.new_full((len(self),), math.inf).scatter_reduce(0, self.row, x, "amin")
        high = x.new_full((len(self),), -math.inf).scatter_reduce(0, self.row, x, "amax")
        return low, high

    def all_equal(self, x: Tensor, tolerance: float = 1e-8, relative: float = 5e-7) -> Tensor:
        """True for groups whose values differ by no more than rounding in float32, (R,) to (Q,) bool."""
        low, high = self.extremes(x)
        return high - low < tolerance + relative * torch.maximum(low.abs(), high.abs())

    def order(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values sorted inside their groups, and where each group begins.

        Returns:
            (R,) values, group after group, ascending inside each; (Q,) position of each group's first.
        """
        by_value = x.argsort(stable=True)
        index = by_value[self.row[by_value].argsort(stable=True)]
        return x[index], self.count.cumsum(0) - self.count

    def quantile(self, x: Tensor, level: float, interpolation: str = "linear") -> Tensor:
        """The `level` quantile of each group, (R,) to (Q,).

        Args:
            interpolation: `linear`, `lower`, `higher` act on position level * (count - 1), as `torch.quantile` does;
                `exact` is inf{x: F(x) >= level}, the order statistic number ceil(level * count).
        """
        if interpolation not in INTERPOLATIONS:
            raise ConfigError(f"no interpolation {interpolation!r}.", f"Write one of {', '.join(INTERPOLATIONS)}.")
        ordered, start = self.order(x)
        if interpolation == "exact":
            position = (level * self.count.double() - 1e-9).ceil().clamp(min=1) - 1
        else:
            position = level * (self.count - 1).double()
        low, high = ordered[start + position.floor().long()], ordered[start + position.ceil().long()]
        if interpolation == "linear":
            return low + (high - low) * (position - position.floor()).to(x.dtype)
        return high if interpolation == "higher" else low

    def median(self, x: Tensor) -> Tensor:
        """The median of each group, the lower of two middles. (R,) to (Q,)."""
        ordered, start = self.order(x)
        return ordered[start + (self.count - 1) // 2]

    def log_mean_exp(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """log of the mean of exp(x) over the kept rows of each group, (R,) to (Q,). Differentiable.

        Args:
            keep: (R,) bool; None keeps all. A group without any gives 0, and no gradient.
        """
        keep = torch.ones_like(x, dtype=torch.bool) if keep is None else keep
        top = self.extremes(x.detach().masked_fill(~keep, -math.inf))[1]
        top = torch.where(top == -math.inf, torch.zeros_like(top), top)
        terms = (x.masked_fill(~keep, 0.0) - self.spread(top)).masked_fill(~keep, -math.inf).exp()
        total, count = self.sum(terms), self.sum(keep.to(x.dtype))
        found = count > 0
        safe = torch.where(found, total, torch.ones_like(total))
        return torch.where(found, safe.log() - count.clamp(min=1).log() + top, torch.zeros_like(total))

    def first_rows(self) -> Tensor:
        """(Q,) the index of the first row of each group."""
        rows = torch.arange(len(self.row), device=self.row.device)
        return rows.new_full((len(self),), len(rows)).scatter_reduce(0, self.row, rows, "amin")

    def places(self) -> Tensor:
        """The how-manieth of its group each row is, in the order of the rows, from 0. (R,) int64.

        >>> Groups(torch.tensor([7, 3, 7])).places().tolist()
        [0, 0, 1]
        """
        order = self.row.argsort(stable=True)
        rank = torch.arange(len(order), device=order.device) - self.spread(self.count.cumsum(0) - self.count)[order]
        return torch.empty_like(rank).index_copy(0, order, rank)

    def pairs(self, adjacent: bool = False) -> Tensor:
        """Pairs of rows of one group, (P, 2) int64, the earlier row first.

        Args:
            adjacent: First with second, third with fourth and so on, instead of all count (count - 1) / 2 pairs.
        """
        order = self.row.argsort(stable=True)
        place = self.places()[order]
        if adjacent:
            first = torch.nonzero((place % 2 == 0) & (place + 1 < self.spread(self.count)[order])).squeeze(1)
            return torch.stack([order[first], order[first + 1]], dim=1)
        same = self.row[:, None] == self.row[None, :]
        return torch.nonzero(torch.triu(same, diagonal=1))


def outcome_entropy(answer: Tensor, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy of a group's final answers.

    Args:
        answer: (R,) int64 ids: equal ids are equal answers. Negative: no answer could be read; counted nowhere.

    Returns:
        Share of each row's answer among its group's readable ones (R,), 0 where unreadable; the entropy of these
        shares (Q,) in nats, between 0 and log count; the number of readable answers (Q,).
    """
    valid = answer >= 0
    kinds = Groups(torch.stack([groups.row, answer], dim=1).unique(dim=0, return_inverse=True)[1])
    total = groups.sum(valid.double())
    share = kinds.spread(kinds.count).double() / groups.spread(total).clamp(min=1)
    share = share.masked_fill(~valid, 0.0)
    # every row of an answer adds -log p / total, so an answer of m rows adds -p log p
    surprise = torch.where(valid, -share.clamp(min=1e-300).log(), torch.zeros_like(share))
    return share, groups.sum(surprise) / total.clamp(min=1), total


def as_double(x: Tensor) -> Tensor:
    """Without gradient, in float64: the precision of every statistic of rewards."""
    return x.detach().double()


def like(result: Tensor, reward: Tensor) -> Tensor:
    """`result` in the type of `reward`, or float32 where rewards are integers or truth values."""
    return result.to(reward.dtype if reward.is_floating_point() else torch.float32)
