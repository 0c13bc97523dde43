"""Token sampling by inversion of the cumulative distribution, tokens in order of ids.

Sums of blocks of the vocabulary locate a block, and only its tokens are summed one by one: five times faster than a
cumulative sum over all, and more exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distrl.language.engines.base import SamplingOptions

BLOCK = 256

#: Likeliest tokens that top-p examines first; they nearly always have enough probability.
SHORT_LIST = 512


class DrawnToken(NamedTuple):
    """Token of one row."""

    token: int
    logp: float
    support: np.ndarray | None
    entropy: float | None


@dataclass(frozen=True)
class Draw:
    """One token for each of n rows.

    Attributes:
        tokens: (n,) int64.
        logp: (n,) float32, under the distribution drawn from.
        support: n arrays of ids in ascending order, or None without truncation.
        entropy: (n,) float32, or None unless requested.
    """

    tokens: Tensor
    logp: Tensor
    support: list[np.ndarray] | None = None
    entropy: Tensor | None = None

    def rows(self) -> Iterator[DrawnToken]:
        """Iterate over the rows."""
        nothing = [None] * len(self.tokens)
        entropy = nothing if self.entropy is None else self.entropy.tolist()
        columns = (self.tokens.tolist(), self.logp.tolist(), self.support or nothing, entropy)
        return map(DrawnToken, *columns)


def draw(logits: Tensor, uniforms: Tensor, options: SamplingOptions) -> Draw:
    """Draw a token per row from logits (n, V) float32 at uniform numbers (n,) float64 in [0, 1)."""
    if options.temperature == 0:
        tokens = logits.argmax(1)
        zeros = torch.zeros(len(tokens), device=logits.device)
        return Draw(tokens, zeros, None, zeros if options.entropy else None)
    if options.temperature != 1.0:
        logits = logits / options.temperature
    if not options.truncates:
        return _draw_from_all(logits, uniforms, options.entropy)
    values, ids = _truncated(logits, options)
    found = _draw_from_all(values, uniforms, options.entropy)
    tokens = ids.gather(1, found.tokens[:, None]).squeeze(1)
    counts = (values > -torch.inf).sum(1).tolist()
    lists = [row[:count] for row, count in zip(ids.cpu().numpy(), counts, strict=True)]
    return Draw(tokens, found.logp, lists, found.entropy)


def _draw_from_all(logits: Tensor, uniforms: Tensor, entropy: bool) -> Draw:
    rows, count = logits.shape
    top = logits.amax(1, keepdim=True)
    weights = (logits - top).exp_()
    blocks = -(-count // BLOCK)
    if blocks * BLOCK != count:
        weights = torch.nn.functional.pad(weights, (0, blocks * BLOCK - count))
    weights = weights.view(rows, blocks, BLOCK)
    sums = weights.sum(2).double().cumsum(1)
    total = sums[:, -1]
    target = uniforms.to(sums.device) * total
    # the first block whose sum lies above the target: blocks without probability are never it
    block = torch.searchsorted(sums, target[:, None], right=True).clamp_(max=blocks - 1)
    before = torch.where(block > 0, sums.gather(1, (block - 1).clamp_(min=0)), 0.0)
    within = weights.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).squeeze(1).double().cumsum(1)
    share = (target[:, None] - before) / (sums.gather(1, block) - before)
    place = torch.searchsorted(within, share.clamp_(0, 1) * within[:, -1:], right=True)
    # the last token with probability: rounding can lead past it
    last = torch.searchsorted(within, within[:, -1:].contiguous())
    tokens = (block * BLOCK + torch.minimum(place, last)).squeeze(1)
    chosen = logits.gather(1, tokens[:, None]).squeeze(1)
    log_total = total.log().float()
    logp = chosen - top.squeeze(1) - log_total
    if not entropy:
        return Draw(tokens, logp)
    # H = log Z - sum p x, with x counted from the largest; tokens without probability count nothing
    shifted = torch.where(logits > -torch.inf, logits - top, 0.0)
    mean = (weights.flatten(1)[:, :count] * shifted).sum(1) / total.float()
    return Draw(tokens, logp, None, log_total - mean)


def _truncated(logits: Tensor, options: SamplingOptions) -> tuple[Tensor, Tensor]:
    """Return the remaining logits, padded with -inf, and their ascending ids, both (n, K)."""
    count = logits.shape[1]
    wanted = min(options.top_k, count) if options.top_k > 0 else count
    if wanted == count and count > 4 * SHORT_LIST:
        values, order = logits.topk(SHORT_LIST, dim=1)
        held = (values.double() - logits.logsumexp(1, keepdim=True).double()).exp().sum(1)
        if bool((held < options.top_p).any()):
            values, order = logits.sort(dim=1, descending=True)
        probabilities = (values.double() - logits.logsumexp(1, keepdim=True).double()).exp()
    else:
        values, order = logits.topk(wanted, dim=1)
        probabilities = values.double().softmax(1)
    # Holtzman et al. 2020, eq. 2: the smallest set that holds top_p, the token that reaches it included
    keep = probabilities.cumsum(1) - probabilities < options.top_p
    keep[:, 0] = True
    width = int(keep.sum(1).max())
    keep, values, order = keep[:, :width], values[:, :width], order[:, :width]
    ids, place = order.masked_fill(~keep, count).sort(dim=1)
    left = values.masked_fill(~keep, -torch.inf).gather(1, place)
    return left, ids.clamp_(max=count - 1)
