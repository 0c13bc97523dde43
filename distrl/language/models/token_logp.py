"""Log-probabilities of tokens, computed in chunks of the positions that count.

The logits of a batch, (N, L, V), are the largest tensor of a language model by far and never exist at once: hidden
states of scored positions are gathered, the output layer is applied to some hundred of them at a time, and the backward
pass computes each chunk's logits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distrl.language.models.model import LanguageModel
from distrl.language.models.packing import packed_features

#: Numbers in the logits of one chunk: 64 MiB of float32.
CHUNK_NUMBERS = 2**24


@dataclass(frozen=True)
class Support:
    """The tokens that truncation (top-k, top-p) left for each scored token: ragged, in row-major order of the mask.

    Attributes:
        ids: (K,) int64, the lists one behind the other.
        offsets: (M + 1,) int64; token m had ids[offsets[m] : offsets[m + 1]]. An empty list is no truncation.
    """

    ids: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, lists: Sequence[np.ndarray | None], device: torch.device | str = "cpu") -> Support:
        """From one array of ids for each scored token, None where nothing was left out.

        >>> Support.of([np.array([3, 5]), None]).offsets.tolist()
        [0, 2, 2]
        """
        arrays = [np.empty(0, np.int64) if ids is None else np.asarray(ids, np.int64) for ids in lists]
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in arrays], dtype=np.int64)])
        flat = np.concatenate(arrays) if arrays else np.empty(0, np.int64)
        return cls(torch.from_numpy(flat).to(device), torch.from_numpy(offsets).to(device))

    def mask(self, begin: int, end: int, vocabulary: int) -> Tensor:
        """(end - begin, V) bool: what tokens `begin` to `end` could have been."""
        offsets = self.offsets[begin : end + 1]
        counts = offsets.diff()
        allowed = (counts == 0)[:, None].expand(-1, vocabulary).clone()
        rows = torch.repeat_interleave(torch.arange(end - begin, device=self.ids.device), counts)
        allowed[rows, self.ids[offsets[0] : offsets[-1]]] = True
        return allowed


def token_logp(
    model: LanguageModel,
    tokens: Tensor,
    mask: Tensor,
    *,
    positions: Tensor | None = None,
    segments: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    support: Support | None = None,
    chunk: int | None = None,
    entropy: bool = False,
    packing: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of every masked token given those before it.

    Args:
        model: The language model.
        tokens: (N, L) int64.
        mask: (N, L) bool, tokens to score; never the first of a sequence.
        positions, segments: As for `LanguageModel.hidden`.
        temperature: Logits are divided by it. 0 (the likeliest token was taken) counts as 1. A tensor (N,) has one for
            each row, which may be infinite: then all tokens are equally likely.
        top_p, top_k: Truncate as sampling does, with this model's distribution; a scored token always stays. For tokens
            that were drawn with truncation give `support`: other weights leave other tokens.
        support: What truncation left when the tokens were drawn; `top_p` and `top_k` are ignored then.
        chunk: Positions whose logits exist at once. Default: 64 MiB of logits.
        entropy: Also the entropy of each token's distribution, over the support that it is scored on.
        packing: Compute rows packed, and what rows begin with once (`packing.py`); for rows without positions
            and segments of their own.

    Returns:
        logp (N, L) and entropy (N, L) or None, float32, both 0 where the mask does not hold.

    Raises:
        ValueError: The mask holds for a first token, which nothing comes before.
    """
    distribution = _TokenDistribution(model, top_p, top_k, entropy)
    _check_mask(mask)
    if packing:
        features = packed_features(model, tokens, mask)
    else:
        features = _before(model.hidden(tokens, positions, segments), mask)
    return _score(distribution, features, tokens, mask, _temperatures(temperature, mask), support, chunk)


def score_hidden(
    model: LanguageModel,
    hidden: Tensor,
    tokens: Tensor,
    mask: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    support: Support | None = None,
    chunk: int | None = None,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`token_logp` on hidden states (N, L, D) that are there already, for example because a critic reads them too.

    Raises:
        ValueError: The mask holds for a first token, which nothing comes before.
    """
    _check_mask(mask)
    distribution = _TokenDistribution(model, top_p, top_k, entropy)
    return _score(distribution, _before(hidden, mask), tokens, mask, _temperatures(temperature, mask), support, chunk)


def score_features(
    model: LanguageModel,
    features: Tensor,
    tokens: Tensor,
    mask: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    support: Support | None = None,
    chunk: int | None = None,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`token_logp` on the states (K, D) that masked tokens are predicted from: `token_features.token_features`."""
    distribution = _TokenDistribution(model, top_p, top_k, entropy)
    return _score(distribution, features, tokens, mask, _temperatures(temperature, mask), support, chunk)


def _check_mask(mask: Tensor) -> None:
    if bool(mask[:, 0].any()):
        raise ValueError("the mask holds for the first token of a row; nothing comes before it")


def _before(hidden: Tensor, mask: Tensor) -> Tensor:
    """(K, D): the states that masked tokens are predicted from."""
    rows, columns = mask.nonzero(as_tuple=True)
    return hidden[rows, columns - 1]


def _temperatures(temperature: float | Tensor, mask: Tensor) -> Tensor | None:
    """(K,) of the masked tokens, or () for all of them; None where nothing is divided."""
    if isinstance(temperature, Tensor):
        return temperature[mask.nonzero(as_tuple=True)[0]]
    return None if temperature in (0.0, 1.0) else torch.tensor(temperature, device=mask.device)


def _score(
    distribution: _TokenDistribution,
    features: Tensor,
    tokens: Tensor,
    mask: Tensor,
    temperature: Tensor | None,
    support: Support | None,
    chunk: int | None,
) -> tuple[Tensor, Tensor | None]:
    """The distributions of the features (K, D), some at a time, at the masked tokens."""
    targets = tokens[mask]
    vocabulary = distribution.model.head_weight.shape[0]
    size = chunk or max(1, CHUNK_NUMBERS // vocabulary)
    logps, entropies = [], []
    for begin in range(0, len(targets), size):
        end = min(begin + size, len(targets))
        allowed = None if support is None else support.mask(begin, end, vocabulary)
        heat = temperature[begin:end, None] if temperature is not None and temperature.dim() else temperature
        arguments = (features[begin:end], targets[begin:end], heat, allowed)
        if torch.is_grad_enabled() and len(targets) > size:
            one, two = checkpoint(distribution, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            one, two = distribution(*arguments)
        logps.append(one)
        entropies.append(two)
    return _spread(logps, mask), _spread(entropies, mask) if distribution.entropy else None


@dataclass(frozen=True)
class _TokenDistribution:
    """From hidden states (C, D) and tokens (C,) to log-probabilities and entropies (C,)."""

    model: LanguageModel
    top_p: float
    top_k: int
    entropy: bool

    def __call__(
        self, hidden: Tensor, targets: Tensor, temperature: Tensor | None, allowed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logits = self.model.logits(hidden)
        if temperature is not None:
            logits = logits / temperature
        if allowed is None and (self.top_k > 0 or self.top_p < 1.0):
            allowed = truncation(logits.detach(), self.top_p, self.top_k)
        if allowed is not None:
            allowed = allowed.scatter(1, targets[:, None], True)
            logits = logits.masked_fill(~allowed, -torch.inf)
        total = logits.logsumexp(1)
        logp = logits.gather(1, targets[:, None]).squeeze(1) - total
        if not self.entropy:
            return logp, logp.detach()
        # H = log Z - sum p x; excluded tokens have p = 0 and x = -inf, and must not give NaN
        probabilities = (logits - total[:, None]).exp()
        finite = logits if allowed is None else logits.masked_fill(~allowed, 0.0)
        return logp, total - (probabilities * finite).sum(1)


def truncation(logits: Tensor, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """(C, V) bool: the tokens that top-k, and then top-p on what it left, keep. At least one for each row.

    Top-p keeps the likeliest tokens until their probability reaches `top_p`, the one that reaches it included
    (Holtzman et al. 2020, eq. 2).
    """
    count = logits.shape[1]
    wanted = min(top_k, count) if top_k > 0 else count
    values, order = logits.topk(wanted, dim=1) if wanted < count else logits.sort(dim=1, descending=True)
    keep = torch.ones_like(values, dtype=torch.bool)
    if top_p < 1.0:
        probabilities = values.double().softmax(1)
        keep = probabilities.cumsum(1) - probabilities < top_p
        keep[:, 0] = True
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, keep)


def _spread(parts: list[Tensor], mask: Tensor) -> Tensor:
    """(M,) back to the places (N, L) of the mask."""
    values = torch.cat(parts) if parts else torch.zeros(0, device=mask.device)
    return torch.zeros(mask.shape, device=mask.device, dtype=values.dtype).masked_scatter(mask, values)
