"""Observations as one vector: what critics of (observation, action) and their policies read."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor, nn

from distrl.base.columns import Tree
from distrl.config.sections.model import ModelConfig
from distrl.models.layers.observation_leaves import Flatten, is_image, leaves, pick
from distrl.models.layers.torsos import build_torso
from distrl.models.parameters.precision import HiddenPrecision


class ObservationVector(nn.Module, HiddenPrecision):
    """Observations (N, ...) to vectors (N, output_size).

    Leaves are flattened and joined without parameters, so that an action can be appended before the first layer. With
    images, or a configured torso other than `auto` and `mlp`, that torso computes the vector.
    """

    def __init__(self, observation_space: spaces.Space, model_config: ModelConfig):
        super().__init__()
        found = leaves(observation_space)
        learned = model_config.torso not in ("auto", "mlp") or any(is_image(leaf) for _, leaf in found)
        self.torso = build_torso(observation_space, model_config) if learned else None
        self.paths = [path for path, _ in found]
        parts = [] if learned else [Flatten(leaf) for _, leaf in found]
        self.parts = nn.ModuleList(parts)
        self.identity = not learned and len(found) == 1 and not found[0][0] and parts[0].identity
        if self.torso is not None:
            self.output_size = int(self.torso.output_size)
        else:
            self.output_size = sum(int(part.output_size) for part in parts)

    def forward(self, obs: Tree) -> Tensor:
        """Normalized observations, tree (N, ...), to (N, output_size) float32."""
        if self.identity:
            return obs  # type: ignore[no-any-return]
        if self.torso is not None:
            if not self.bf16:
                return self.torso(obs)  # type: ignore[no-any-return]
            with self.hidden_precision(next(self.torso.parameters()).device):
                vector = self.torso(obs)
            return vector.float()  # type: ignore[no-any-return]
        vectors = [part(pick(obs, path)) for part, path in zip(self.parts, self.paths, strict=True)]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors, -1)
