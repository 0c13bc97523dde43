"""What lies under the log-probabilities: the states that tokens are predicted from, and functions of their logits.

    features = token_features(model, tokens, mask)                        # (K, D), one row for each masked token
    logp, total = each_chunk(model, features, tokens[mask], function)  # function(logits (C, V), targets (C,), begin)
    spread(logp, mask)                                                 # (N, L)

Everything masked is in row-major order.
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
from distrl.language.models.token_logp import CHUNK_NUMBERS

#: From logits (C, V), tokens (C,) and the number of the first of them to columns (C,).
TokenFunction = Callable[[Tensor, Tensor, int], tuple[Tensor, ...]]


def token_features(model: LanguageModel, tokens: Tensor, mask: Tensor, packing: bool = False) -> Tensor:
    """States (K, D) that the masked tokens are predicted from: those of the tokens before them.

    Args:
        model: The language model.
        tokens: (N, L) int64.
        mask: (N, L) bool, never the first token of a row; or (N, L + 1), where the last column stands for the token
            that would come after the row.
        packing: Compute rows packed, and what rows begin with once (`language/models/packing.py`).
    """
    if packing:
        return packed_features(model, F.pad(tokens, (0, mask.shape[1] - tokens.shape[1])), mask)
    rows, columns = mask.nonzero(as_tuple=True)
    return model.hidden(tokens)[rows, columns - 1]


def each_chunk(
    model: LanguageModel, features: Tensor, targets: Tensor, function: TokenFunction, chunk: int | None = None
) -> tuple[Tensor, ...]:
    """Apply a function of the logits, some hundred positions at a time: all logits of a batch never exist at once.

    Args:
        model: Has the output layer.
        features: (K, D).
        targets: (K,) int64.
        function: A pure function: with gradient it is computed again in the backward pass.
        chunk: Positions whose logits exist at once. Default: 64 MiB of logits.

    Returns:
        Columns of the function, (K,) each.
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
    """(K, ...) to the places (N, L, ...) of the mask, 0 elsewhere."""
    wide = mask.view(*mask.shape, *[1] * (values.dim() - 1))
    return values.new_zeros(*mask.shape, *values.shape[1:]).masked_scatter(wide, values)


def compact_mask(mask: Tensor) -> Tensor:
    """(N, T) bool: as many leading places of each row as it has masked tokens; T is the most.

    `spread(values, compact_mask(mask))` puts masked tokens side by side: what lies between them costs no time step.
    """
    count = lengths(mask)
    most = int(count.max()) if len(count) else 0
    return torch.arange(most, device=mask.device) < count[:, None]
