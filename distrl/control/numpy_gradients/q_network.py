"""Forward and backward pass of a plain action-value network in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from distrl.control.models.q_network import QPolicy, plain_scalar
from distrl.control.numpy_gradients.dense import WRITTEN_OUT, DenseChain
from distrl.models.layers.torsos import MLP
from distrl.models.parameters.flat import FlatParameters


def written_out_q(policy: QPolicy, flat: FlatParameters) -> DenseChain | None:
    """The network of `policy` as one chain over its flat parameters; None where it is another kind of network.

    Args:
        policy: Observations to one number an action.
        flat: Its own parameters and gradients, on the CPU.
    """
    torso: Any = policy.torso
    if flat.data.device.type != "cpu" or not plain_scalar(policy) or not isinstance(torso, MLP):
        return None
    name = torso.dense.activation_name
    if name not in WRITTEN_OUT:
        return None
    layers = [f"torso.dense.layers.{i}" for i in range(len(torso.dense.layers))] + ["head.layer"]
    values, grads = flat.views(flat.data), flat.views(flat.grad)

    def pick(views: dict[str, Any], kind: str) -> list[np.ndarray]:
        return [views[f"{layer}.{kind}"].numpy() for layer in layers]

    return DenseChain(
        pick(values, "weight"), pick(values, "bias"), pick(grads, "weight"), pick(grads, "bias"), name, linear_end=True
    )
