"""Action distributions with several independent parts, whose parameters are concatenated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from distrl.base.columns import Tree
from distrl.control.models.actions.base import ActionDistribution, Categorical, masked


class MultiCategorical(ActionDistribution):
    """One choice per entry of `nvec`: params and mask (..., sum n), actions (..., *nvec.shape)."""

    def __init__(self, nvec: np.ndarray | Sequence[int]):
        choices = np.asarray(nvec, np.int64)
        self.shape = choices.shape
        self.sizes = [int(n) for n in choices.reshape(-1)]
        self.parts = [Categorical(n) for n in self.sizes]
        self.param_size = self.noise_size = self.head_size = self.mask_size = sum(self.sizes)

    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        return rng.gumbel(size=(*shape, self.noise_size)).astype(np.float32)

    def sample(self, params: Tensor, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._argmax(masked(params, mask) + noise)

    def mode(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._argmax(masked(params, mask))

    def logp(self, params: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        lead = action.ndim - len(self.shape)
        columns = action.reshape(*action.shape[:lead], len(self.sizes)).unbind(-1)
        logits = masked(params, mask).split(self.sizes, -1)
        return _total(part.logp(x, a) for part, x, a in zip(self.parts, logits, columns, strict=True))

    def entropy(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        logits = masked(params, mask).split(self.sizes, -1)
        return _total(part.entropy(x) for part, x in zip(self.parts, logits, strict=True))

    def kl(self, p: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
        p_logits, q_logits = masked(p, mask).split(self.sizes, -1), masked(q, mask).split(self.sizes, -1)
        return _total(part.kl(x, y) for part, x, y in zip(self.parts, p_logits, q_logits, strict=True))

    def _argmax(self, scores: Tensor) -> Tensor:
        action = torch.stack([x.argmax(-1) for x in scores.split(self.sizes, -1)], -1)
        return action.reshape(*action.shape[:-1], *self.shape)


class Bernoulli(ActionDistribution):
    """Independent bits: params are logits of 1, actions int8; a bit with a false mask stays 0."""

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(int(size) for size in shape)
        self.param_size = self.noise_size = self.head_size = self.mask_size = math.prod(self.shape)

    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """Standard logistic noise: logit + noise > 0 has probability sigmoid(logit)."""
        return rng.logistic(size=(*shape, self.noise_size)).astype(np.float32)

    def sample(self, params: Tensor, noise: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._bits(masked(params, mask) + noise)

    def mode(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._bits(masked(params, mask))

    def logp(self, params: Tensor, action: Tensor, mask: Tensor | None = None) -> Tensor:
        bits = action.reshape(*action.shape[: action.ndim - len(self.shape)], self.param_size)
        logits = masked(params, mask)
        return F.logsigmoid(torch.where(bits > 0, logits, -logits)).sum(-1)

    def entropy(self, params: Tensor, mask: Tensor | None = None) -> Tensor:
        logits = masked(params, mask)
        # -p log p - (1-p) log(1-p) with log(1-p) = logsigmoid(-x) and log p = logsigmoid(-x) + x.
        return (-F.logsigmoid(-logits) - torch.sigmoid(logits) * logits).sum(-1)

    def kl(self, p: Tensor, q: Tensor, mask: Tensor | None = None) -> Tensor:
        p, q = masked(p, mask), masked(q, mask)
        # p (x - y) + log((1-p)/(1-q)), with x, y the logits of p and q.
        return (torch.sigmoid(p) * (p - q) + F.logsigmoid(-p) - F.logsigmoid(-q)).sum(-1)

    def _bits(self, scores: Tensor) -> Tensor:
        return (scores > 0).to(torch.int8).reshape(*scores.shape[:-1], *self.shape)


class Composite(ActionDistribution):
    """Dict or tuple of action spaces, nested at will; actions and masks are trees of this form.

    A mask may omit entries of a dict, or contain None, where nothing is masked.
    """

    def __init__(self, parts: dict[str, ActionDistribution] | tuple[ActionDistribution, ...]):
        self.keys: list[str] | list[int] = list(parts) if isinstance(parts, dict) else list(range(len(parts)))
        self.parts: list[ActionDistribution] = list(parts.values()) if isinstance(parts, dict) else list(parts)
        self.is_dict = isinstance(parts, dict)
        self.param_size = sum(part.param_size for part in self.parts)
        self.noise_size = sum(part.noise_size for part in self.parts)
        self.head_size = sum(part.head_size for part in self.parts)
        self.log_std_size = sum(part.log_std_size for part in self.parts)
        self.mask_size = sum(part.mask_size for part in self.parts)

    def join(self, head: Tensor, log_std: Tensor | None) -> Tensor:
        heads = head.split([part.head_size for part in self.parts], -1)
        if log_std is None:
            return head
        log_stds = log_std.split([part.log_std_size for part in self.parts], -1)
        return torch.cat([part.join(x, s) for part, x, s in zip(self.parts, heads, log_stds, strict=True)], -1)

    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        return np.concatenate([part.draw_noise(rng, shape) for part in self.parts], -1)

    def sample(self, params: Tensor, noise: Tensor, mask: Tree = None) -> Tree:
        noises = noise.split([part.noise_size for part in self.parts], -1)
        return self._tree([part.sample(x, e, m) for part, m, x, e in self._deal(mask, self._split(params), noises)])

    def mode(self, params: Tensor, mask: Tree = None) -> Tree:
        return self._tree([part.mode(x, m) for part, m, x in self._deal(mask, self._split(params))])

    def logp(self, params: Tensor, action: Tree, mask: Tree = None) -> Tensor:
        actions = [action[key] for key in self.keys]
        return _total(part.logp(x, a, m) for part, m, x, a in self._deal(mask, self._split(params), actions))

    def entropy(self, params: Tensor, mask: Tree = None) -> Tensor:
        return _total(part.entropy(x, m) for part, m, x in self._deal(mask, self._split(params)))

    def kl(self, p: Tensor, q: Tensor, mask: Tree = None) -> Tensor:
        return _total(part.kl(x, y, m) for part, m, x, y in self._deal(mask, self._split(p), self._split(q)))

    def _split(self, params: Tensor) -> Sequence[Tensor]:
        return params.split([part.param_size for part in self.parts], -1)

    def _deal(self, mask: Tree, *columns: Sequence[Tree]) -> Iterator[tuple[Tree, ...]]:
        """Each part with its mask and its share of the columns."""
        if mask is None:
            masks: list[Tree] = [None] * len(self.parts)
        else:
            masks = [mask.get(key) if self.is_dict else mask[key] for key in self.keys]
        return zip(self.parts, masks, *columns, strict=True)

    def _tree(self, leaves: list[Tree]) -> Tree:
        return dict(zip(self.keys, leaves, strict=True)) if self.is_dict else tuple(leaves)


def _total(terms: Iterable[Tensor]) -> Tensor:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first
