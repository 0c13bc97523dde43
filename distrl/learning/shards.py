"""Logical shards of a minibatch: results do not depend on the number of processes.

Floating-point sums depend on their grouping. So the gradient of each of `count` shards is computed separately, and the
gradients are added in shard order, whichever process computed them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Shards:
    """All `count` shards in this process. `learning.process_group` has the data-parallel one."""

    def __init__(self, count: int = 1):
        self.count = count
        self.mine: range = range(count)

    def split(self, index: Tensor) -> list[Tensor]:
        """Split row numbers (n,) into this process's shards; sizes differ by at most one."""
        if self.count == 1:
            return [index]
        parts = torch.tensor_split(index, self.count)
        return [parts[shard] for shard in self.mine]

    def sum(self, parts: Sequence[Tensor]) -> Tensor:
        """Add the vectors of all shards in shard order, given those of this process's shards."""
        return add_in_order(parts)


def add_in_order(parts: Sequence[Tensor]) -> Tensor:
    """Return ((p0 + p1) + p2) + ..., never a tree.

    >>> add_in_order([torch.ones(2), torch.ones(2)]).tolist()
    [2.0, 2.0]
    """
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
