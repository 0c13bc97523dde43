"""Hidden states for selected tokens, and chunked functions of their logits.

features = token_features(model, tokens, mask)                     # (K, D), one row per masked token, row-major
logp, total = each_chunk(model, features, tokens[mask], function)  # function(logits (C, V), targets (C,), begin)
spread(logp, mask)                                                 # (N, L)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distrl.language.chain.tokens import lengths
from distrl.language.models.model import LanguageModel
from distrl.language.models.packing import packed_features

#: Numbers in the logits of one chunk: 64 MiB of float32.
CHUNK_NUMBERS = 2**24

#: From logits (C, V), tokens (C,) and the number of the first of them to columns (C,).
TokenFunction = Callable[[Tensor, Tensor, int], tuple[Tensor, ...]]


def token_features(model: LanguageModel, tokens: Tensor, mask: Tensor, packing: bool = False) -> Tensor:
    """Compute the states (K, D) of the tokens that precede the masked ones.

    Args:
        tokens: (N, L) int64.
        mask: (N, L) bool, never the first token of a row; or (N, L + 1), whose last column is the token after the row.
        packing: Compute rows packed, and common beginnings once (`language/models/packing.py`).
    """
    if packing:
        return packed_features(model, F.pad(tokens, (0, mask.shape[1] - tokens.shape[1])), mask)
    return preceding(model.hidden(tokens), mask)


def preceding(hidden: Tensor, mask: Tensor) -> Tensor:
    """Select from hidden states (N, L, D) those before the masked tokens: (K, D)."""
    rows, columns = mask.nonzero(as_tuple=True)
    return hidden[rows, columns - 1]


def each_chunk(
    model: LanguageModel, features: Tensor, targets: Tensor, function: TokenFunction, chunk: int | None = None
) -> tuple[Tensor, ...]:
    """Apply a function of the logits to a few hundred positions at a time; columns (K,) each.

    Args:
        features: (K, D).
        targets: (K,) int64.
        function: A pure function; the backward pass computes it again.
        chunk: Positions whose logits exist at once. Default: 64 MiB of logits.
    """
    size = chunk or max(1, CHUNK_NUMBERS // model.head_weight.shape[0])

    def compute(features: Tensor, targets: Tensor, begin: int) -> tuple[Tensor, ...]:
        return function(model.logits(features), targets, begin)

    parts = []
    for begin in range(0, max(len(targets), 1), size):
        arguments = features[begin : begin + size], targets[begin : begin + size], begin
        if torch.is_grad_enabled() and len(targets) > size:
            parts.append(checkpoint(compute, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(compute(*arguments))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Place values (K, ...) at the masked positions of (N, L, ...), 0 elsewhere."""
    wide = mask.view(*mask.shape, *[1] * (values.dim() - 1))
    return values.new_zeros(*mask.shape, *values.shape[1:]).masked_scatter(wide, values)


def compact_mask(mask: Tensor) -> Tensor:
    """Return (N, T) bool: as many leading places of each row as it has masked tokens.

    `spread(values, compact_mask(mask))` puts masked tokens side by side, without the time steps between them.
    """
    count = lengths(mask)
    most = int(count.max()) if len(count) else 0
    return torch.arange(most, device=mask.device) < count[:, None]
