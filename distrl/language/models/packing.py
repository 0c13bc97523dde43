"""Packing of rows into few dense sequences; common beginnings are computed once.

The sorted rows of a batch are the leaves of a tree of tokens, laid out branch by branch:

    prompt 1 | answer 1 | answer 2 | prompt 2 | answer 3 | ...        positions continue those of the branch's stem

A token sees only the past of its own row, so log-probabilities and gradients are those of separate rows. Padding and
the last token of an answer, on which no scored token depends, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from distrl.language.models.model import LanguageModel

#: Largest difference of packed and plain hidden states, relative to the largest number.
AGREE = 1e-3


@dataclass(frozen=True)
class Packed:
    """Packed tokens of a batch.

    Attributes:
        tokens, positions: (M, W) int64.
        last: (M, W) int64, the last column that sees a token; padding sees itself only.
        before: (K,) int64, for each scored token in row-major order the place in (M * W) of the preceding token.
    """

    tokens: Tensor
    positions: Tensor
    last: Tensor
    before: Tensor

    def visible(self) -> Tensor:
        """Return (M, W, W) bool: the query at [:, i] sees the key at [:, :, j]."""
        columns = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (columns[None, None, :] <= columns[None, :, None]) & (columns[None, :, None] <= self.last[:, None, :])


@dataclass
class _Tree:
    """Rows with a common beginning, laid out branch by branch."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    rows: dict[int, np.ndarray] = field(default_factory=dict)  # places of each row's tokens
    path: list[int] = field(default_factory=list)  # of the newest row

    def add(self, row: int, tokens: list[int], shared: int) -> None:
        """Add a row that begins with `shared` tokens of the newest one."""
        begin = len(self.tokens)
        self.close(shared)
        self.tokens += tokens[shared:]
        self.positions += range(shared, len(tokens))
        self.last += range(begin, begin + len(tokens) - shared)
        self.path = self.path[:shared] + list(range(begin, begin + len(tokens) - shared))
        self.rows[row] = np.array(self.path, np.int64)

    def close(self, shared: int) -> None:
        """Hide all but the first `shared` tokens of the newest row from later tokens."""
        for place in self.path[shared:]:
            self.last[place] = len(self.tokens) - 1


def pack(tokens: Tensor, mask: Tensor, width: int) -> Packed:
    """Lay out tokens (N, L), scored where the mask holds, in rows of `width` or the longest row."""
    ids, scored = tokens.cpu().numpy(), mask.cpu().numpy()
    end = np.where(scored.any(1), scored.shape[1] - scored[:, ::-1].argmax(1) - 1, 0)  # the last token predicts nothing
    width = max(width, int(end.max(initial=1)))
    bins = _fill(_grow(ids, end, width), width)
    length = max((sum(len(tree.tokens) for tree in trees) for trees in bins), default=0)
    packed = {name: np.zeros((len(bins), length), np.int64) for name in ("tokens", "positions")}
    packed["last"] = np.tile(np.arange(length), (len(bins), 1))
    places = np.zeros(scored.shape, np.int64)  # of all tokens
    for number, trees in enumerate(bins):
        begin = 0
        for tree in trees:
            at = slice(begin, begin + len(tree.tokens))
            packed["tokens"][number, at], packed["positions"][number, at] = tree.tokens, tree.positions
            packed["last"][number, at] = np.array(tree.last) + begin
            for row, path in tree.rows.items():
                places[row, : len(path)] = number * length + begin + path
            begin = at.stop
    rows, columns = scored.nonzero()
    found = {name: torch.from_numpy(array).to(tokens.device) for name, array in packed.items()}
    return Packed(before=torch.from_numpy(places[rows, columns - 1]).to(tokens.device), **found)


def _grow(ids: np.ndarray, end: np.ndarray, width: int) -> list[_Tree]:
    """Build trees of at most `width` tokens; sorted rows share most with their predecessors."""
    sequences = {row: ids[row, : end[row]].tolist() for row in np.flatnonzero(end > 0).tolist()}
    trees: list[_Tree] = []
    before: list[int] = []
    for row in sorted(sequences, key=sequences.__getitem__):
        sequence = sequences[row]
        shared = _common(before, sequence)
        if not shared or len(trees[-1].tokens) + len(sequence) - shared > width:
            trees.append(_Tree())
            shared = 0
        trees[-1].add(row, sequence, shared)
        before = sequence
    for tree in trees:
        tree.close(0)
    return trees


def _common(one: list[int], two: list[int]) -> int:
    """Return the length of the common beginning."""
    for place, (a, b) in enumerate(zip(one, two, strict=False)):
        if a != b:
            return place
    return min(len(one), len(two))


def _fill(trees: list[_Tree], width: int) -> list[list[_Tree]]:
    """Fill bins of at most `width` tokens: first fit, largest first."""
    bins: list[list[_Tree]] = []
    room: list[int] = []
    for tree in sorted(trees, key=lambda tree: -len(tree.tokens)):
        place = next((number for number, left in enumerate(room) if left >= len(tree.tokens)), len(bins))
        if place == len(bins):
            bins.append([])
            room.append(width)
        bins[place].append(tree)
        room[place] -= len(tree.tokens)
    return bins


def packed_features(model: LanguageModel, tokens: Tensor, mask: Tensor) -> Tensor:
    """Compute the states (K, D) that the masked tokens are predicted from, in row-major order.

    Packed rows have as many tokens as the model is wide: attention then costs less than a sixth of linear layers.
    """
    packed = pack(tokens, mask, model.config.hidden_size)
    if packed.tokens.numel() == 0:
        return model.head_weight.new_zeros(0, model.head_weight.shape[1])
    hidden = model.hidden(packed.tokens, packed.positions, visible=packed.visible())
    return hidden.flatten(0, 1).index_select(0, packed.before)


@torch.no_grad()
def can_pack(model: LanguageModel) -> bool:
    """Return True if packed rows give equal results; some models take no positions or masks."""
    length = min(8, model.context)
    tokens = torch.arange(length).expand(3, -1).clone()
    tokens[1:, length // 2 :] += torch.tensor([[1], [2]])
    tokens = (tokens % model.tokenizer.vocab_size).to(model.device)
    mask = torch.zeros(tokens.shape, dtype=torch.bool, device=model.device)
    mask[:, length // 2 :] = True
    dtype, model.dtype = model.dtype, torch.float32
    try:
        plain = model.hidden(tokens)[:, length // 2 - 1 : -1].flatten(0, 1)
        found = packed_features(model, tokens, mask)
    finally:
        model.dtype = dtype
    return bool((plain - found).abs().max() <= AGREE * plain.abs().max())
