"""Forward and backward passes of small dense networks in numpy, over a model's parameters.

On a CPU a small network spends most of an update in torch's operators and autograd nodes. Here both passes are a dozen
numpy calls on views of the flat parameters and gradients. Autograd is the reference in tests.
"""
# The chains of models.layers are not this one: torch.addmm adds the bias inside of the product, and the ensemble's
# relu chain turns its products round, so that results would differ in their last bits.

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from distrl.control.models.actor_critic import ActorCritic
from distrl.control.models.critic import Critic
from distrl.control.models.policy import Policy
from distrl.models.layers.dense import Dense
from distrl.models.layers.torsos import MLP
from distrl.models.parameters.flat import FlatParameters

#: supported nonlinearities
ACTIVATIONS = ("tanh", "relu")


class DenseChain:
    """Layers h_0 = x, h_l = f(h_{l-1} W_l^T + b_l); the last one is linear if `linear_end`.

    Args:
        weights, biases: Views of the parameters: W_l (out, in), b_l (out,).
        weight_grads, bias_grads: Views of their gradients; empty where only `forward` is used.
        activation: f: tanh or relu.
    """

    def __init__(
        self,
        weights: list[np.ndarray],
        biases: list[np.ndarray],
        weight_grads: list[np.ndarray],
        bias_grads: list[np.ndarray],
        activation: str,
        linear_end: bool,
    ):
        self.weights, self.biases = weights, biases
        self.weight_grads, self.bias_grads = weight_grads, bias_grads
        self.activation, self.linear_end = activation, linear_end
        self._buffers: dict[int, tuple[list[np.ndarray], list[np.ndarray], np.ndarray]] = {}
        self._hidden: list[np.ndarray] = []

    @classmethod
    def over(cls, flat: FlatParameters, layers: list[str], activation: str, linear_end: bool) -> DenseChain:
        """Build the chain of named layers over a model's flat parameters and gradients."""
        values, grads = flat.views(flat.data), flat.views(flat.grad)
        weights, biases, weight_grads, bias_grads = (
            [views[f"{layer}.{kind}"].numpy() for layer in layers]
            for views in (values, grads)
            for kind in ("weight", "bias")
        )
        return cls(weights, biases, weight_grads, bias_grads, activation, linear_end)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map (N, in) to (N, out); overwritten by the next call with the same number of rows."""
        outs = self._rows(len(x))[0]
        self._hidden = [x, *outs]
        for layer, (weight, bias, out) in enumerate(zip(self.weights, self.biases, outs, strict=True)):
            np.matmul(self._hidden[layer], weight.T, out=out)
            out += bias
            if layer < len(outs) - 1 or not self.linear_end:
                if self.activation == "tanh":
                    np.tanh(out, out=out)
                else:
                    np.maximum(out, 0.0, out=out)
        return outs[-1]

    def backward(self, grad: np.ndarray, inputs: bool = False) -> np.ndarray | None:
        """Write the parameters' gradients, given the output's; with `inputs`, return that of x."""
        _, slopes, ones = self._rows(len(grad))
        for layer in reversed(range(len(self.weights))):
            if layer < len(self.weights) - 1 or not self.linear_end:
                grad = self._through_activation(grad, self._hidden[layer + 1], slopes[layer])
            self._weight_gradient(layer, grad)
            np.matmul(ones, grad, out=self.bias_grads[layer])  # a sum over rows, at half the cost of np.sum
            if layer:
                grad = np.matmul(grad, self.weights[layer], out=slopes[layer - 1])
            elif inputs:
                return grad @ self.weights[0]
        return None

    def _weight_gradient(self, layer: int, grad: np.ndarray) -> None:
        """Write dW = grad^T h; with few inputs its transpose, h^T grad, is several times faster."""
        hidden, out = self._hidden[layer], self.weight_grads[layer]
        if hidden.shape[1] < 16 <= grad.shape[1]:
            out[...] = (hidden.T @ grad).T
        else:
            np.matmul(grad.T, hidden, out=out)

    def _through_activation(self, grad: np.ndarray, hidden: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Return grad * f' with f' = 1 - h^2 or [h > 0]; `hidden` is overwritten."""
        if self.activation == "tanh":
            np.multiply(hidden, hidden, out=hidden)
            np.subtract(1.0, hidden, out=hidden)
            return np.multiply(grad, hidden, out=out)
        return np.multiply(grad, hidden > 0, out=out)

    def _rows(self, rows: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """Return buffers for N rows: outputs and gradients of every layer, and N ones."""
        if rows not in self._buffers:
            outs, slopes = ([np.empty((rows, len(bias)), np.float32) for bias in self.biases] for _ in range(2))
            self._buffers[rows] = outs, slopes, np.ones(rows, np.float32)
        return self._buffers[rows]


class NumpyActorCritic:
    """Both passes of an `ActorCritic` of dense networks that `fits`.

    Attributes:
        grad: All gradients as one numpy vector, a view of `flat.grad`.
        log_std: View of the learned log standard deviations; None for a policy without.
    """

    def __init__(self, model: ActorCritic, flat: FlatParameters):
        self.grad: np.ndarray = flat.grad.numpy()
        self.shared = model.shared
        chain = partial(DenseChain.over, flat)

        def torso(owner: str, module: MLP) -> list[str]:
            return [f"{owner}.torso.dense.layers.{i}" for i in range(len(module.dense.layers))]

        activation = model.policy.torso.dense.activation_name
        policy_layers = torso("policy", model.policy.torso)
        if self.shared:
            self.torso = chain(policy_layers, activation, linear_end=False)
            self.policy = chain(["policy.head"], activation, linear_end=True)
            self.critic = chain(["critic.head"], activation, linear_end=True)
        else:
            self.policy = chain([*policy_layers, "policy.head"], activation, linear_end=True)
            critic_layers = torso("critic", model.critic.torso)
            self.critic = chain([*critic_layers, "critic.head"], activation, linear_end=True)
        log_std = "policy.log_std"
        learned = log_std in flat.names
        self.log_std = flat.views(flat.data)[log_std].numpy() if learned else None
        self._log_std_grad = flat.views(flat.grad)[log_std].numpy() if learned else None

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Return True for dense tanh or relu layers on flat observations."""
        if type(model) is not ActorCritic or model.recurrent or type(model.critic) is not Critic:
            return False
        torsos = [model.policy.torso] if model.shared else [model.policy.torso, model.critic.torso]
        return all(map(_plain, torsos)) and len({torso.dense.activation_name for torso in torsos}) == 1

    def forward(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the policy head's output and values (N,); overwritten by the next call."""
        features = self.torso.forward(obs) if self.shared else obs
        return self.policy.forward(features), self.critic.forward(features)[:, 0]

    def backward(self, d_head: np.ndarray, d_value: np.ndarray, d_log_std: np.ndarray | None = None) -> None:
        """Write all gradients, given those of `forward`'s results and of `log_std` (summed)."""
        by_policy = self.policy.backward(d_head, inputs=self.shared)
        by_critic = self.critic.backward(d_value[:, None], inputs=self.shared)
        if self.shared:
            assert by_policy is not None
            assert by_critic is not None
            self.torso.backward(by_policy + by_critic)
        if self._log_std_grad is not None:
            self._log_std_grad[...] = d_log_std


class NumpyPolicy:
    """Forward pass of a dense policy that `fits`; its weights may change in place, but not move.

    At batch 8 it takes a third of the time of torch's operators.
    """

    def __init__(self, policy: Policy):
        layers = [*policy.torso.dense.layers, policy.head]
        weights, biases = ([getattr(layer, kind).detach().numpy() for layer in layers] for kind in ("weight", "bias"))
        self.chain = DenseChain(weights, biases, [], [], policy.torso.dense.activation_name, linear_end=True)
        self.policy = policy

    @staticmethod
    def fits(policy: nn.Module) -> bool:
        """Return True for a dense policy on flat observations, on a CPU."""
        return (
            type(policy) is Policy
            and not policy.recurrent
            and _plain(policy.torso)
            and policy.head.weight.device.type == "cpu"
        )

    def __call__(self, obs: Tensor) -> Tensor:
        """Return parameters (N, P) for observations (N, D); overwritten by the next call."""
        head = torch.from_numpy(self.chain.forward(obs.numpy()))
        return self.policy.actions.join(head, self.policy.log_std)


def _plain(torso: nn.Module) -> bool:
    """Return True for a multi-layer perceptron on flat observations, not one-hot."""
    return (
        type(torso) is MLP
        and torso.flatten is None
        and type(torso.dense) is Dense
        and len(torso.dense.layers) > 0
        and torso.dense.activation_name in ACTIVATIONS
    )
