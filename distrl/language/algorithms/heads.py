"""Language-model algorithms that learn a network beside the model, on its trunk: a critic, a partition function.

A fresh head must learn faster than a pretrained trunk may move, so each has its own step size.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from distrl.config.algorithm import AlgorithmConfig
from distrl.config.schedule import Scheduled
from distrl.language.algorithms.base import LanguageAlgorithm, LanguageAlgorithmConfig

#: How names of parameters of heads begin; they come after those of the network.
HEADS = ("critic.", "partition.")


class TokenHeadConfig(LanguageAlgorithmConfig):
    """Keys of algorithms with a head on the trunk."""

    head_learning_rate: Scheduled[float] = Field(1e-3, ge=0)
    """Step size of the head's own parameters; `learning_rate` is that of the language model. Usual: 1e-4 to 1e-3."""


class TokenHeadAlgorithm(LanguageAlgorithm):
    """Two optimizer groups over the flat parameter vector: the language model, then its heads."""

    Config: ClassVar[type[AlgorithmConfig]] = TokenHeadConfig

    def make_optimizer(self) -> torch.optim.Optimizer:
        names = self.flat.names
        is_head = [name.startswith(HEADS) for name in names]
        first = is_head.index(True)
        assert all(is_head[first:]), names
        edge = self.flat.offsets[first]
        groups = []
        for part in (slice(0, edge), slice(edge, None)):
            parameter = nn.Parameter(self.flat.data[part])
            parameter.grad = self.flat.grad[part]
            groups.append({"params": [parameter]})
        config = self.schedules
        return torch.optim.AdamW(
            groups, lr=1.0, betas=tuple(config.adam_betas), weight_decay=config.weight_decay, fused=True
        )

    def _set_learning_rate(self) -> None:
        rates = self.config.learning_rate, self.config.head_learning_rate
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = float(rate)

    def _remember(self) -> tuple[Tensor, dict[str, Tensor]]:
        slots = {
            f"{number}.{name}": value.clone()
            for number, parameter in enumerate(self._parameters())
            for name, value in self.optimizer.state.get(parameter, {}).items()
        }
        return self.flat.data.clone(), slots

    def _restore(self, before: tuple[Tensor, dict[str, Tensor]]) -> None:
        data, slots = before
        self.flat.data.copy_(data)
        self.optimizer.state.clear()
        for key, value in slots.items():
            number, name = key.split(".", 1)
            self.optimizer.state[self._parameters()[int(number)]][name] = value

    def _parameters(self) -> list[Any]:
        return [group["params"][0] for group in self.optimizer.param_groups]
