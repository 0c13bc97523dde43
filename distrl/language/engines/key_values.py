"""Cache of keys and values, all rows in one tensor."""

from __future__ import annotations

import torch
from torch import Tensor

#: Lengths are multiples of this many tokens.
STEP = 32


class KeyValues:
    """A cache for `rows` sequences of up to `length` tokens; the first n rows are in use.

    Attributes:
        data: (layers, 2, rows, heads, length, head size): keys and values.
    """

    def __init__(
        self, layers: int, rows: int, heads: int, length: int, size: int, dtype: torch.dtype, device: torch.device
    ):
        # zeros, not empty memory: masked places are multiplied by a probability of 0, and 0 * NaN is NaN
        self.data = torch.zeros(layers, 2, rows, heads, -(-length // STEP) * STEP, size, dtype=dtype, device=device)

    @property
    def length(self) -> int:
        return self.data.shape[4]

    def write_block(self, layer: int, rows: int, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (rows, heads, L, size) from column `start` on; returns all columns up to there."""
        end = start + keys.shape[2]
        self.data[layer, 0, :rows, :, start:end] = keys
        self.data[layer, 1, :rows, :, start:end] = values
        return self.data[layer, 0, :rows, :, :end], self.data[layer, 1, :rows, :, :end]

    def write_column(
        self, layer: int, where: Tensor, rows: int, end: int, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store (rows, heads, size), a token per row, at `places`; returns the columns before `end`."""
        size = keys.shape[-1]
        self.data[layer, 0].view(-1, size).index_copy_(0, where, keys.reshape(-1, size))
        self.data[layer, 1].view(-1, size).index_copy_(0, where, values.reshape(-1, size))
        return self.data[layer, 0, :rows, :, :end], self.data[layer, 1, :rows, :, :end]

    def places(self, columns: Tensor) -> Tensor:
        """Return the places of the heads of (row, column) for `write_column`: (rows * heads,) int64."""
        heads, length = self.data.shape[3], self.length
        rows = torch.arange(len(columns), device=columns.device)[:, None] * heads
        head = torch.arange(heads, device=columns.device)[None]
        return ((rows + head) * length + columns[:, None]).flatten()

    def copy_row(self, source: KeyValues, row: int, first: int, last: int, length: int) -> None:
        """Fill rows [first, last) with the first `length` columns of another cache's row."""
        self.data[:, :, first:last, :, :length] = source.data[:, :, row : row + 1, :, :length]

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy row `source` to row `target`."""
        self.data[:, :, target, :, :length] = self.data[:, :, source, :, :length]

    def widen(self, rows: int) -> KeyValues:
        """Return a cache of `rows` copies of this cache's single row."""
        other = object.__new__(KeyValues)
        other.data = self.data.expand(-1, -1, rows, -1, -1, -1).clone()
        return other
