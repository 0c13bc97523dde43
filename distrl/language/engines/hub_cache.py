"""Adapter of `KeyValues` to the cache interface of transformers."""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from distrl.language.engines.key_values import KeyValues


class SlotCache(Cache):
    """View of a `KeyValues` for a forward pass: columns from `start`, or one per row at `where`."""

    def __init__(self, store: KeyValues, rows: int, start: int = 0, where: Tensor | None = None, end: int = 0):
        super().__init__(layers=[DynamicLayer() for _ in range(store.data.shape[0])])
        self.store, self.rows, self.start, self.where, self.end = store, rows, start, where, end

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store (n, heads, L, size); returns everything up to there."""
        dtype = self.store.data.dtype
        keys, values = key_states.to(dtype), value_states.to(dtype)
        if self.where is None:
            return self.store.write_block(layer_idx, self.rows, self.start, keys, values)
        return self.store.write_column(layer_idx, self.where, self.rows, self.end, keys[:, :, 0], values[:, :, 0])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.start if self.where is None else self.end - 1
