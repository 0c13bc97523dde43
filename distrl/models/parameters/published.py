"""Modules to published weights and back.

Both functions may be registered for a kind of module that publishes less than all its tensors, or in other numbers.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np
import torch
from torch import nn

from distrl.base.errors import CheckpointError
from distrl.experience.weights import Weights
from distrl.models.layers.normalizer import Normalizer


@singledispatch
def pack_weights(module: nn.Module, version: int) -> Weights:
    """Copy the parameters and buffers of a module into a published version."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    return Weights.of(arrays, version)


@singledispatch
def load_weights(module: nn.Module, weights: Weights) -> None:
    """Copy a version into a module, in place.

    Raises:
        CheckpointError: The weights belong to another module: names or shapes differ.
    """
    arrays = weights.arrays()
    own = module.state_dict()
    lacking, foreign = sorted(own.keys() - arrays.keys()), sorted(arrays.keys() - own.keys())
    both = [(name, tuple(own[name].shape), arrays[name].shape) for name in own if name in arrays]
    wrong = [f"{name} {mine} != {theirs}" for name, mine, theirs in both if mine != theirs]
    if lacking or foreign or wrong:
        raise CheckpointError(
            f"weights of version {weights.version} do not fit the network:"
            f" lacking {lacking}, foreign {foreign}, other shapes {wrong}.",
            "Use the model and environment settings that the weights were made with.",
        )
    for name, tensor in own.items():
        if tensor.device.type == "cpu":
            np.copyto(tensor.numpy(), arrays[name])  # takes read-only bytes, which torch.from_numpy warns about
        else:
            tensor.copy_(torch.tensor(arrays[name]))
    for part in module.modules():
        if isinstance(part, Normalizer) and part.enabled:
            part.refresh()
