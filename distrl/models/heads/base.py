"""Return heads: features to the parameters of a return distribution for each action.

    head = make_return_head(config.critic_head, feature_size, actions=4, dueling=True)
    q = head.distribution.mean(head(features))     # (N, F) -> (N, A, P) -> (N, A)

State-action critics have one "action"; `head(features).squeeze(-2)` is then (N, P).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from distrl.functional.distributions.base import ReturnDistribution
from distrl.models.layers.dense import orthogonal

#: (inputs, outputs) -> a linear layer; noisy nets pass their own.
MakeLinear = Callable[[int, int], nn.Module]


class ReturnHead(nn.Module, ABC):
    """Base class: features (..., F) to parameters (..., A, P) of a `distribution`.

    `noise_size` is the number of uniform levels per row while learning; 0 for deterministic heads.
    """

    noise_size = 0

    def __init__(self, distribution: ReturnDistribution, actions: int):
        super().__init__()
        self.distribution = distribution
        self.actions = int(actions)

    @abstractmethod
    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        """Compute parameters (..., A, P); `noise` (..., noise_size) in [0, 1) gives random levels."""

    def draw_noise(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray | None:
        """float32 (*shape, noise_size) for `forward`; None for heads that are not random."""
        return rng.random((*shape, self.noise_size), dtype=np.float32) if self.noise_size else None


class LinearHead(ReturnHead):
    """One linear layer, for families whose parameters do not depend on levels.

    With `dueling`, parameters are V + A - mean_a A, with a layer for each (Wang et al. 2016).
    """

    def __init__(
        self,
        distribution: ReturnDistribution,
        feature_size: int,
        actions: int = 1,
        dueling: bool = False,
        make_linear: MakeLinear = nn.Linear,
    ):
        super().__init__(distribution, actions)
        size = distribution.param_size
        bias = distribution.initial_bias()
        self.layer, self.value_layer = last_layers(
            make_linear, feature_size, actions, size, distribution.head_gain, dueling
        )
        # the untrained distribution: in the bias, or a constant where a layer has an initialization that differs
        first = self.layer if self.value_layer is None else self.value_layer
        self.offset: Tensor | None
        if isinstance(first, nn.Linear):
            with torch.no_grad():
                first.bias.copy_(bias.repeat(first.out_features // size))
            self.register_buffer("offset", None)
        else:
            self.register_buffer("offset", bias if bool(bias.any()) else None)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        size = self.distribution.param_size
        params = self.layer(features).unflatten(-1, (self.actions, size))
        if self.value_layer is not None:
            params = params - params.mean(-2, keepdim=True) + self.value_layer(features).unsqueeze(-2)
        return params if self.offset is None else params + self.offset


def last_layers(
    make_linear: MakeLinear, feature_size: int, actions: int, size: int, gain: float, dueling: bool
) -> tuple[nn.Module, nn.Module | None]:
    """Return the layer of `size` numbers for each action, and with dueling one for the state."""
    layers = [make_linear(feature_size, actions * size)] + [make_linear(feature_size, size)] * dueling
    for layer in layers:
        if isinstance(layer, nn.Linear):
            orthogonal(layer, gain)
    return layers[0], layers[1] if dueling else None
