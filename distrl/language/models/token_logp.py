"""Log-probabilities of tokens, computed in chunks of the scored positions.

The logits of a batch, (N, L, V), are the largest tensor of a language model by far and never exist at once: the output
layer is applied to a few hundred scored positions at a time (`token_features.each_chunk`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distrl.language.models.model import LanguageModel
from distrl.language.models.token_features import each_chunk, spread, token_features


@dataclass(frozen=True)
class Support:
    """Tokens left by truncation (top-k, top-p) for each scored token, in row-major order.

    Attributes:
        ids: (K,) int64, the concatenated lists.
        offsets: (M + 1,) int64; token m had ids[offsets[m] : offsets[m + 1]]. An empty list is no truncation.
    """

    ids: Tensor
    offsets: Tensor

    def mask(self, begin: int, end: int, vocabulary: int) -> Tensor:
        """Return (end - begin, V) bool: the support of tokens `begin` to `end`."""
        offsets = self.offsets[begin : end + 1]
        counts = offsets.diff()
        allowed = (counts == 0)[:, None].expand(-1, vocabulary).clone()
        rows = torch.repeat_interleave(torch.arange(end - begin, device=self.ids.device), counts)
        allowed[rows, self.ids[offsets[0] : offsets[-1]]] = True
        return allowed


@dataclass(frozen=True)
class Scoring:
    """Distribution that tokens are scored under.

    Attributes:
        temperature: Divides logits; 0 (greedy) counts as 1. A tensor (N,) has one per row; infinity is uniform.
        top_p, top_k: Truncate as sampling does, with this model's distribution; a scored token always stays. Tokens
            drawn with truncation need `support` instead, as other weights leave other tokens.
        support: Recorded tokens left by truncation; replaces `top_p` and `top_k`.
        entropy: Compute the entropy of each token's distribution, over the support that it is scored on.
        chunk: Positions whose logits exist at once. Default: 64 MiB of logits.
    """

    temperature: float | Tensor = 1.0
    top_p: float = 1.0
    top_k: int = 0
    support: Support | None = None
    entropy: bool = False
    chunk: int | None = None


def token_logp(
    model: LanguageModel,
    tokens: Tensor,
    mask: Tensor,
    scoring: Scoring = Scoring(),
    *,
    features: Tensor | None = None,
    packing: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Compute the log-probability of every masked token given those before it.

    Args:
        tokens: (N, L) int64.
        mask: (N, L) bool, tokens to score; never the first of a sequence.
        features: (K, D) hidden states that the masked tokens are predicted from, if already computed.
        packing: Compute rows packed (`packing.py`).

    Returns:
        logp (N, L) and entropy (N, L) or None, float32, both 0 off the mask.

    Raises:
        ValueError: The mask includes a first token.
    """
    if bool(mask[:, 0].any()):
        raise ValueError("the mask holds for the first token of a row; nothing comes before it")
    if features is None:
        features = token_features(model, tokens, mask, packing)
    temperature = _temperatures(scoring.temperature, mask)

    def score(logits: Tensor, targets: Tensor, begin: int) -> tuple[Tensor, ...]:
        end = begin + len(targets)
        if temperature is not None:
            logits = logits / (temperature[begin:end, None] if temperature.dim() else temperature)
        allowed = None
        if scoring.support is not None:
            allowed = scoring.support.mask(begin, end, logits.shape[1])
        elif scoring.top_k > 0 or scoring.top_p < 1.0:
            allowed = truncation(logits.detach(), scoring.top_p, scoring.top_k)
        return _logp_and_entropy(logits, targets, allowed, scoring.entropy)

    columns = each_chunk(model, features, tokens[mask], score, scoring.chunk)
    return spread(columns[0], mask), spread(columns[1], mask) if scoring.entropy else None


def _temperatures(temperature: float | Tensor, mask: Tensor) -> Tensor | None:
    """Return the temperatures (K,) of the masked tokens, () for a common one; None for 1."""
    if isinstance(temperature, Tensor):
        return temperature[mask.nonzero(as_tuple=True)[0]]
    return None if temperature in (0.0, 1.0) else torch.tensor(temperature, device=mask.device)


def _logp_and_entropy(
    logits: Tensor, targets: Tensor, allowed: Tensor | None, with_entropy: bool
) -> tuple[Tensor, ...]:
    """Return log-probabilities (C,) of targets and, on request, entropies (C,) of logits (C, V)."""
    if allowed is not None:
        allowed = allowed.scatter(1, targets[:, None], True)
        logits = logits.masked_fill(~allowed, -torch.inf)
    total = logits.logsumexp(1)
    logp = logits.gather(1, targets[:, None]).squeeze(1) - total
    if not with_entropy:
        return (logp,)
    # H = log Z - sum p x; excluded tokens have p = 0 and x = -inf, and must not give NaN
    probabilities = (logits - total[:, None]).exp()
    finite = logits if allowed is None else logits.masked_fill(~allowed, 0.0)
    return logp, total - (probabilities * finite).sum(1)


def truncation(logits: Tensor, top_p: float = 1.0, top_k: int = 0) -> Tensor:
    """Return (C, V) bool: the tokens left by top-k and then top-p, at least one per row.

    Top-p keeps the likeliest tokens until their probability reaches `top_p`, including the one that reaches it
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
