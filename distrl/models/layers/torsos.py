"""Torsos: observation encoders, selected by `model.torso`.

A torso is made as `Torso(observation_space, model_config)` and has an `output_size` and `forward(obs tree (N, ...)) ->
(N, output_size)`. Initialization is orthogonal with gain sqrt(2) and zero biases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from distrl.base.columns import Tree
from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.model import ModelConfig
from distrl.models.layers.dense import Dense
from distrl.models.layers.observation_leaves import Flatten, is_image, is_nested, leaves, pick

#: Pictures with a side below this leave nothing for Nature CNN's last kernel; `auto` takes the ResNet for them.
SMALLEST_NATURE_IMAGE = 36


@register.torso("mlp")
class MLP(nn.Module):
    """Fully connected torso over a flattened observation; choices become one-hot vectors."""

    takes_leaves = True

    def __init__(self, observation_space: spaces.Space, model_config: ModelConfig, hidden: Sequence[int] | None = None):
        super().__init__()
        flatten = Flatten(observation_space)
        self.flatten = None if flatten.identity else flatten
        sizes = model_config.hidden if hidden is None else hidden
        self.dense = Dense(flatten.output_size, sizes, model_config.activation)
        self.output_size = self.dense.output_size

    def forward(self, obs: Tensor, head: nn.Linear | None = None) -> Tensor:
        return self.dense(obs if self.flatten is None else self.flatten(obs), head)


def through_head(torso: nn.Module, head: nn.Linear, obs: Tree) -> Tensor:
    """head(torso(obs)); in one piece where the torso can do that."""
    return torso(obs, head) if isinstance(torso, MLP) else F.linear(torso(obs), head.weight, head.bias)


@register.torso("fusion")
class Fusion(nn.Module):
    """Features of one torso per leaf of a Dict or Tuple, then fully connected layers.

    A flat leaf gets one layer (the first of `hidden`), an image the configured torso, or the choice of `auto`.
    """

    def __init__(self, observation_space: spaces.Space, model_config: ModelConfig):
        super().__init__()
        found = leaves(observation_space)
        if not found:
            raise ConfigError(f"the observation space {observation_space} is empty.")
        self.paths = [path for path, _ in found]
        torsos = [_leaf_torso(leaf, model_config) for _, leaf in found]
        self.torsos = nn.ModuleList(torsos)
        width = sum(torso.output_size for torso in torsos)
        self.dense = Dense(width, model_config.hidden, model_config.activation)
        self.output_size = self.dense.output_size

    def forward(self, obs: Tree) -> Tensor:
        features = [torso(pick(obs, path)) for torso, path in zip(self.torsos, self.paths, strict=True)]
        return self.dense(torch.cat(features, -1))


def build_torso(observation_space: spaces.Space, model_config: ModelConfig) -> Any:
    """Build the torso that `model_config.torso` names.

    `auto` takes `fusion` for Dict and Tuple, `nature_cnn` for images (`impala_resnet` where a side is below 36), and
    `mlp` for the rest. A torso of single arrays, named for a Dict or Tuple, encodes the leaves that it can.
    """
    name = model_config.torso
    if name == "auto":
        name = _auto(observation_space)
    torso_class = register.get("torso", name)
    if is_nested(observation_space) and getattr(torso_class, "takes_leaves", False):
        if getattr(torso_class, "takes_images", False) and not any(is_image(s) for _, s in leaves(observation_space)):
            raise ConfigError(f"torso {name!r} reads pictures; {observation_space} holds none.", "Use torso: auto.")
        torso_class = Fusion
    torso = torso_class(observation_space, model_config)
    if not isinstance(getattr(torso, "output_size", None), int):
        raise ConfigError(
            f"torso {name!r} has no `output_size`.",
            "Set self.output_size = F in its constructor, where forward() gives features of shape (N, F).",
        )
    return torso


def _auto(space: spaces.Space) -> str:
    if is_nested(space):
        return "fusion"
    if not is_image(space):
        return "mlp"
    from distrl.models.layers.cnn import image_shape

    _, height, width = image_shape(space)
    return "nature_cnn" if min(height, width) >= SMALLEST_NATURE_IMAGE else "impala_resnet"


def _leaf_torso(space: spaces.Space, model_config: ModelConfig) -> Any:
    """The torso of one leaf inside a Dict or Tuple."""
    if not is_image(space):
        return MLP(space, model_config, hidden=model_config.hidden[:1])
    name = model_config.torso
    named = None if name in ("auto", "fusion") else register.get("torso", name)
    return (named or register.get("torso", _auto(space)))(space, model_config)
