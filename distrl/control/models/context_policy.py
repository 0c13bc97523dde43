"""Policy that also draws the context of its episodes, from a sampler within its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError
from distrl.config.sections.model import ModelConfig
from distrl.control.models.actions.base import ActionDistribution
from distrl.control.models.policy import Policy

#: Pairs of uniform numbers that a context may take. A pair serves with probability >= 1/2.
TRIES = 24
#: Contexts stay this far from 0 and 1, where densities are infinite.
EDGE = 1e-3


def beta_sample(mean: Tensor, uniform: Tensor) -> Tensor:
    """Sample Beta(2 m, 2 - 2 m) for means m (...) from uniform numbers (..., 2, K). Joehnk 1964.

    With x = u^(1/a), y = v^(1/b), x / (x + y) is Beta(a, b) where x + y <= 1: the first such of K pairs counts. Results
    are in [EDGE, 1 - EDGE].
    """
    a = (2.0 * mean).unsqueeze(-1)
    x, y = uniform[..., 0, :] ** (1.0 / a), uniform[..., 1, :] ** (1.0 / (2.0 - a))
    serves = (x + y <= 1.0) & (x + y > 0.0)
    first = serves.int().argmax(-1, keepdim=True)
    x, y = x.gather(-1, first), y.gather(-1, first)
    return (x / (x + y).clamp_min(1e-30)).squeeze(-1).clamp(EDGE, 1.0 - EDGE)


def beta_log_density(x: Tensor, mean: Tensor) -> Tensor:
    """log density of Beta(2 m, 2 - 2 m) at x, (...); for m = 1/2 the uniform distribution's 0."""
    a, b = 2.0 * mean, 2.0 - 2.0 * mean
    return (a - 1.0) * x.log() + (b - 1.0) * torch.log1p(-x) - torch.lgamma(a) - torch.lgamma(b)  # Gamma(a + b) = 1


class WithContext(ActionDistribution):
    """Action distribution plus a context (C,) per action; environments read an episode's first.

    Params are those of the action ++ the sampler's means (C,). With probability `source_share` the context comes from
    the source distribution (means `source`) instead; actions are a Dict of `action` and `context` (C + 1,), whose last
    entry marks that. Log-probabilities exclude the context, and the mode lets the environment draw it (-1).
    """

    def __init__(self, base: ActionDistribution, source: Sequence[float], source_share: float):
        self.base, self.source, self.source_share = base, torch.tensor(source, dtype=torch.float32), source_share
        self.size = len(source)
        self.param_size = base.param_size + self.size
        self.noise_size = base.noise_size + 1 + 2 * TRIES * self.size
        self.head_size, self.log_std_size, self.mask_size = base.head_size, base.log_std_size, base.mask_size

    def join(self, head: Tensor, log_std: Tensor | None) -> Tensor:
        return self.base.join(head, log_std)

    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """The base's noise, then uniform numbers."""
        own = rng.random((*shape, self.noise_size - self.base.noise_size), dtype=np.float32)
        return np.concatenate([self.base.draw_noise(rng, shape), own], -1)

    def sample(self, params: Tensor, noise: Tensor, mask: Tree = None) -> dict[str, Tensor]:
        first, rest = noise[..., : self.base.noise_size], noise[..., self.base.noise_size :]
        action = self.base.sample(self.own(params), first, self._mask(mask))
        from_source = rest[..., :1] < self.source_share
        mean = torch.where(from_source, self.source.to(params), params[..., -self.size :])
        context = beta_sample(mean, rest[..., 1:].unflatten(-1, (self.size, 2, TRIES)))
        return {"action": action, "context": torch.cat((context, from_source.to(context.dtype)), -1)}

    def mode(self, params: Tensor, mask: Tree = None) -> dict[str, Tensor]:
        action = self.base.mode(self.own(params), self._mask(mask))
        return {"action": action, "context": params.new_full((*params.shape[:-1], self.size + 1), -1.0)}

    def logp(self, params: Tensor, action: Tree, mask: Tree = None) -> Tensor:
        return self.base.logp(self.own(params), action["action"], self._mask(mask))

    def entropy(self, params: Tensor, mask: Tree = None) -> Tensor:
        return self.base.entropy(self.own(params), self._mask(mask))

    def kl(self, p: Tensor, q: Tensor, mask: Tree = None) -> Tensor:
        return self.base.kl(self.own(p), self.own(q), self._mask(mask))

    def own(self, params: Tensor) -> Tensor:
        """The parameters of the action alone."""
        return params[..., : self.base.param_size]

    @staticmethod
    def _mask(mask: Tree) -> Tree:
        return mask.get("action") if isinstance(mask, dict) else mask


class ContextPolicy(Policy):
    """`Policy` for an environment with the wrapper `choose_context`; see `WithContext`."""

    context_mean: Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        model_config: ModelConfig,
        *,
        source: float,
        source_share: float,
        **options: Any,
    ):
        own, size = context_spaces(action_space)
        super().__init__(observation_space, own, model_config, **options)
        self.actions = WithContext(self.actions, [source] * size, source_share)
        self.register_buffer("context_mean", torch.full((size,), float(source)))

    def forward(self, obs: Tree, state: Tree = None, first: Tensor | None = None) -> tuple[Tensor, Tree]:
        features, state = self.features(obs, state, first)
        return self.params(features), state

    def params(self, features: Tensor) -> Tensor:
        own = super().params(features)
        return torch.cat((own, self.context_mean.expand(*own.shape[:-1], -1)), -1)


def context_spaces(space: spaces.Space) -> tuple[spaces.Space, int]:
    """Return the space of the environment's own actions, and the number of contexts."""
    if isinstance(space, spaces.Dict) and set(space.spaces) == {"action", "context"}:
        shape = space.spaces["context"].shape
        assert shape is not None
        return space.spaces["action"], int(shape[0]) - 1
    raise ConfigError(
        f"cesor chooses the context of each episode; an action of this environment is {space}.",
        "Add the wrapper: env.wrappers=[choose_context], around an environment with context_size.",
    )
