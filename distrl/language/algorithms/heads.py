"""Language-model algorithms with a head on the trunk: a critic, a partition function.

A fresh head must learn faster than a pretrained trunk may move, so each has its own step size.
"""

from __future__ import annotations

import torch
from pydantic import Field

from distrl.config.schedule import Scheduled
from distrl.language.algorithms.base import LanguageAlgorithm, LanguageAlgorithmConfig
from distrl.models.parameters.flat import FlatParameters

#: Prefix of the names of parameters of heads; they come after those of the network.
HEADS = ("critic.", "partition.")


class TokenHeadConfig(LanguageAlgorithmConfig):
    """Keys of algorithms with a head on the trunk."""

    head_learning_rate: Scheduled[float] = Field(1e-3, ge=0)
    """Step size of the head's own parameters; `learning_rate` is that of the language model. Usual: 1e-4 to 1e-3."""


class TokenHeadAlgorithm(LanguageAlgorithm):
    """Two optimizer groups over the flat parameter vector: the language model, then its heads."""

    Config = TokenHeadConfig

    def make_optimizer(self, flat: FlatParameters) -> torch.optim.Optimizer:
        names = flat.names
        is_head = [name.startswith(HEADS) for name in names]
        first = is_head.index(True)
        assert all(is_head[first:]), names
        edge = flat.offsets[first]
        groups = [{"params": [flat.parameter(0, edge)]}, {"params": [flat.parameter(edge)]}]
        config = self.schedules
        return torch.optim.AdamW(
            groups, lr=1.0, betas=tuple(config.adam_betas), weight_decay=config.weight_decay, fused=True
        )

    def set_learning_rates(self) -> None:
        self.trained.set_learning_rates(float(self.config.learning_rate), float(self.config.head_learning_rate))
