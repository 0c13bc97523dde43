"""A gradient step of a plain action-value network in numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

from distrl.base.columns import Columns
from distrl.control.models.q_network import QPolicy, plain_scalar
from distrl.control.numpy_gradients.dense import ACTIVATIONS, DenseChain
from distrl.control.numpy_gradients.derivatives import differentiate
from distrl.functional.bellman.next_action import double, greedy
from distrl.functional.distributions.quantile_loss import huber
from distrl.models.layers.torsos import MLP
from distrl.models.parameters.flat import FlatParameters


class NumpyQGradient:
    """The gradient of an MLP's one-step TD loss (Huber, threshold `kappa`)."""

    def __init__(self, online: DenseChain, target: DenseChain, double: bool, kappa: float | None):
        self.online, self.target, self.double, self.kappa = online, target, double, kappa

    @classmethod
    def build(
        cls,
        policy: QPolicy,
        flat: FlatParameters,
        target: QPolicy,
        target_flat: FlatParameters,
        next_action: Callable[..., Tensor],
    ) -> NumpyQGradient | None:
        """Return the gradient for these networks and this rule; None if one is of another kind."""
        online_chain, target_chain = q_chain(policy, flat), q_chain(target, target_flat)
        if online_chain is None or target_chain is None or next_action not in (greedy, double):
            return None
        kappa = policy.distribution.kappa  # type: ignore[attr-defined]
        return cls(online_chain, target_chain, next_action is double, kappa)

    def __call__(self, batch: Columns) -> tuple[float, np.ndarray]:
        """Write the gradient of a replay batch; returns the loss and the sizes of the errors (N,)."""
        next_obs, action, weight = batch.next_obs.numpy(), batch.action.numpy(), batch.weight.numpy()
        rows, mask = np.arange(len(action)), batch.get("next_mask")
        values = self.target.forward(next_obs)
        scores = self.online.forward(next_obs) if self.double else values
        best = (scores if mask is None else np.where(mask.numpy(), scores, -np.inf)).argmax(1)
        td_target = batch.reward.numpy() + batch.discount.numpy() * values[rows, best]
        online = self.online.forward(batch.obs.numpy())
        error = online[rows, action] - td_target
        loss, slope = differentiate(partial(huber, kappa=self.kappa), error)
        gradient = np.zeros_like(online)
        gradient[rows, action] = slope * weight / len(rows)
        self.online.backward(gradient)
        return float((loss * weight).mean()), np.abs(error)


def q_chain(policy: QPolicy, flat: FlatParameters) -> DenseChain | None:
    """Return the network as one chain over its flat parameters; None for another kind."""
    torso = policy.torso
    if flat.data.device.type != "cpu" or not plain_scalar(policy) or not isinstance(torso, MLP):
        return None
    name = torso.dense.activation_name
    if name not in ACTIVATIONS:
        return None
    layers = [f"torso.dense.layers.{i}" for i in range(len(torso.dense.layers))] + ["head.layer"]
    return DenseChain.over(flat, layers, name, linear_end=True)
