"""Published weights of language models, and weights with merged adapters.

Only trainable parameters are published; bf16 arrays as uint16, as numpy has no bf16. Further inputs of samplers (such
as success estimates of items) are extras: arrays named `extra.*` of the same version, so that samples remain a function
of weights and names. One extra is the precision, which the learner measures once for all processes.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from distrl.base.errors import CheckpointError
from distrl.experience.weights import Entry, Weights, aligned
from distrl.language.models.model import HubModule, LanguageModel
from distrl.models.parameters.published import load_weights, pack_weights
from distrl.models.parameters.reused_memory import ReusedBytes

EXTRA = "extra."
BF16 = EXTRA + "computes_in_bf16"
_MEMORY = ReusedBytes()


@pack_weights.register(LanguageModel)
def pack_language_weights(model: LanguageModel, version: int, dtype: torch.dtype | None = None) -> Weights:
    """Pack trainable parameters and extras as a version.

    Args:
        dtype: Precision of matrices, by default the model's; vectors (norms, biases) and the critic are in float32.
    """
    dtype = dtype or model.dtype
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    table: list[Entry] = []
    end = 0
    for name, parameter in parameters.items():
        halved = dtype == torch.bfloat16 and parameter.dim() > 1 and not name.startswith("critic.")
        kind = np.dtype(np.uint16 if halved else np.float32)
        table.append(Entry(name, kind.str, tuple(parameter.shape), end))
        end += aligned(table[-1].size)
    extras = {EXTRA + name: np.asarray(extra) for name, extra in model.extras.items()}
    extras[BF16] = np.array(model.dtype == torch.bfloat16)
    for name, extra in extras.items():
        table.append(Entry(name, extra.dtype.str, extra.shape, end))
        end += aligned(table[-1].size)
    # arrays are written in place: large temporary ones cost more than the copy itself
    weights = Weights(version, tuple(table), _MEMORY.take(tuple(table), end))
    with torch.no_grad():
        for name, array in weights.arrays().items():
            if name in extras:
                array[...] = extras[name]
            else:
                _tensor(array).copy_(parameters[name])
    return weights


@load_weights.register(LanguageModel)
@torch.no_grad()
def load_language_weights(model: LanguageModel, weights: Weights) -> None:
    """Copy a version and its precision into a model; an error about names changes nothing."""
    own = dict(model.named_parameters())
    everything = weights.arrays()
    arrays = {name: array for name, array in everything.items() if not name.startswith(EXTRA)}
    learning = {name for name, parameter in own.items() if parameter.requires_grad}
    lacking, foreign = sorted(learning - arrays.keys()), sorted(arrays.keys() - own.keys())
    wrong = [name for name in arrays.keys() & own.keys() if tuple(own[name].shape) != arrays[name].shape]
    if lacking or foreign or wrong:
        raise CheckpointError(
            f"weights of version {weights.version} do not fit the language model: lacking {lacking[:3]}, foreign"
            f" {foreign[:3]}, other shapes {wrong[:3]} (of {len(lacking)}, {len(foreign)}, {len(wrong)}).",
            "Use the language section that the weights were made with.",
        )
    for name, array in arrays.items():
        own[name].copy_(_tensor(array))
    if BF16 in everything:
        model.dtype = torch.bfloat16 if everything[BF16] else torch.float32


def extras_of(weights: Weights) -> dict[str, np.ndarray]:
    """Return copies of the extras by name."""
    arrays = weights.arrays()
    return {name.removeprefix(EXTRA): array.copy() for name, array in arrays.items() if name.startswith(EXTRA)}


def _tensor(array: np.ndarray) -> Tensor:
    """Return a tensor over the same bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of tensors over bytes that must not be written
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


def effective_weight(layer: HubModule) -> Tensor:
    """Return a linear layer's weight, merged with its adapter if enabled."""
    base = getattr(layer, "base_layer", None)
    if base is None:
        return layer.weight.detach()
    weight = base.weight.detach()
    if getattr(layer, "disable_adapters", False):
        return weight
    for name in layer.active_adapters:
        if name in layer.lora_A:
            weight = weight + layer.get_delta_weight(name).detach().to(weight.dtype)
    return weight


def effective_bias(layer: nn.Module) -> Tensor | None:
    """Return a linear layer's bias; adapters have none."""
    bias = getattr(getattr(layer, "base_layer", layer), "bias", None)
    return None if bias is None else bias.detach()


def merged_state(model: LanguageModel) -> dict[str, Tensor]:
    """Return the network's tensors with merged adapters, under the names of the plain model."""
    tensors = model.network.state_dict().items()
    state = {name.replace(".base_layer.", "."): tensor for name, tensor in tensors if ".lora_" not in name}
    for name, module in model.network.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            state[f"{name}.weight"] = effective_weight(module)
    return state
