"""Heads whose quantiles are functions of the level: IQN and FQF."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distrl.functional.atoms import midpoints
from distrl.functional.distributions.quantile import FractionQuantile, ImplicitQuantile
from distrl.functional.distributions.quantile_loss import cosine_features
from distrl.models.heads.base import MakeLinear, ReturnHead, last_layers
from distrl.models.layers.dense import HIDDEN_GAIN, orthogonal

#: Gain of the layer that reads features times embedded levels.
OUTPUT_GAIN = 1.0


class LevelNetwork(nn.Module):
    """Z_tau(s, a) = W (psi(s) * phi(tau)), phi(tau) = relu(C cos(pi i tau) + b).

    Source: Dabney et al. 2018 (IQN), eq. 4. `embedding` is the number of cosines.
    """

    def __init__(self, feature_size: int, actions: int, embedding: int, dueling: bool, make_linear: MakeLinear):
        super().__init__()
        self.embedding = embedding
        self.embed = orthogonal(nn.Linear(embedding, feature_size), HIDDEN_GAIN)
        with torch.no_grad():
            self.embed.bias.fill_(1.0)  # levels start as small changes of the features, not as their gate
        self.layer, self.value_layer = last_layers(make_linear, feature_size, actions, 1, OUTPUT_GAIN, dueling)

    def forward(self, features: Tensor, taus: Tensor) -> Tensor:
        """Compute values (..., A, K) at levels (K,) or (..., K) from features (..., F)."""
        phi = F.relu(self.embed(cosine_features(taus, self.embedding)))  # (..., K, F)
        joint = features.unsqueeze(-2) * phi
        values = self.layer(joint)
        if self.value_layer is not None:
            values = values - values.mean(-1, keepdim=True) + self.value_layer(joint)
        return values.transpose(-1, -2)


class ImplicitHead(ReturnHead):
    """IQN: random levels with noise, midpoints without. Parameters (..., A, 2 K)."""

    def __init__(
        self,
        distribution: ImplicitQuantile,
        feature_size: int,
        actions: int,
        dueling: bool,
        make_linear: MakeLinear,
        embedding: int = 64,
    ):
        super().__init__(distribution, actions)
        self.noise_size = distribution.size
        self.acting_size = distribution.acting_size
        self.network = LevelNetwork(feature_size, actions, embedding, dueling, make_linear)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.at(features, midpoints(self.acting_size, features) if noise is None else noise)

    def at(self, features: Tensor, taus: Tensor) -> Tensor:
        """Parameters at levels of one's own, (K,) or (..., K), such as `measure.distort(noise)`."""
        values = self.network(features, taus)
        levels = taus.unsqueeze(-2) if taus.ndim > 1 else taus
        return torch.cat((values, levels.expand(values.shape)), -1)


class FractionHead(ReturnHead):
    """FQF: fractions proposed from the features. Parameters (..., A, 3 N), or (..., A, 4 N - 1).

    The longer form holds with gradients. As in the paper, the fraction loss does not reach the features, nor the value
    loss the fractions. `fraction_rate` is the relative learning rate of the fractions: it scales the proposal's output,
    because Adam ignores the scale of a gradient.
    """

    def __init__(
        self,
        distribution: FractionQuantile,
        feature_size: int,
        actions: int,
        dueling: bool,
        make_linear: MakeLinear,
        embedding: int = 64,
        fraction_rate: float = 0.01,
    ):
        super().__init__(distribution, actions)
        self.size = distribution.size
        self.fraction_rate = fraction_rate
        self.network = LevelNetwork(feature_size, actions, embedding, dueling, make_linear)
        self.proposal = nn.Linear(feature_size, self.size)
        nn.init.zeros_(self.proposal.weight)  # even fractions at the start: QR's midpoints
        nn.init.zeros_(self.proposal.bias)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        widths = torch.softmax(self.fraction_rate * self.proposal(features.detach()), -1)
        edges = widths.cumsum(-1)
        taus = (edges - 0.5 * widths).detach()
        values = self.network(features, taus)
        parts = [values, *(part.unsqueeze(-2).expand(values.shape) for part in (taus, widths))]
        if torch.is_grad_enabled():
            with torch.no_grad():
                parts.append(self.network(features, edges[..., :-1]))
        return torch.cat(parts, -1)
