"""The written-out tanh chain against plain autograd."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.config.sections.model import ModelConfig
from distrl.control.models.policy import Policy
from distrl.control.numpy_gradients.dense import NumpyPolicy
from distrl.models.layers.dense import CHAIN_ROWS, Dense


@pytest.mark.parametrize("hidden", [[64, 64], [8], [16, 32, 4]])
@pytest.mark.parametrize("input_grad", [False, True])
def test_chain_equals_autograd(hidden, input_grad):
    torch.manual_seed(0)
    dense = Dense(5, hidden, "tanh")
    x = torch.randn(CHAIN_ROWS + 3, 5, requires_grad=input_grad)
    weight = torch.randn(CHAIN_ROWS + 3, hidden[-1])
    results = []
    for twice in (False, True):
        dense.twice_differentiable = twice
        dense.zero_grad()
        x.grad = None
        out = dense(x)
        assert ("TanhChain" in type(out.grad_fn).__name__) is not twice
        (out * weight).sum().backward()
        results.append([out.detach(), *(p.grad.clone() for p in dense.parameters()), *([x.grad] if input_grad else [])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_chain_with_a_linear_end():
    torch.manual_seed(0)
    dense, head = Dense(5, [8, 6], "tanh"), torch.nn.Linear(6, 3)
    x, weight = torch.randn(CHAIN_ROWS, 5), torch.randn(CHAIN_ROWS, 3)
    results = []
    for twice in (False, True):
        dense.twice_differentiable = twice
        for module in (dense, head):
            module.zero_grad()
        out = dense(x, head)
        (out * weight).sum().backward()
        results.append([out.detach(), *(p.grad.clone() for m in (dense, head) for p in m.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_chain_refuses_second_derivatives():
    dense = Dense(5, [8], "tanh")
    loss = dense(torch.randn(CHAIN_ROWS, 5)).square().sum()
    with pytest.raises(RuntimeError, match="twice"):
        torch.autograd.grad(loss, list(dense.parameters()), create_graph=True)


def test_chain_leaves_its_input_alone():
    x = torch.randn(CHAIN_ROWS, 5)
    before = x.clone()
    with torch.no_grad():
        Dense(5, [6, 7], "tanh")(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,), np.float32)], ids=["discrete", "box"]
)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_numpy_policy_policy_is_the_policy(activation: str, space: spaces.Space):
    policy = Policy(spaces.Box(-1.0, 1.0, (5,), np.float32), space, ModelConfig(activation=activation))
    numpy_policy = NumpyPolicy(policy)
    for rows in (1, 8, 40):
        obs = torch.randn(rows, 5)
        with torch.inference_mode():
            torch.testing.assert_close(numpy_policy(obs), policy(obs)[0], atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        policy.head.bias += 1.0  # as when new weights are loaded
        torch.testing.assert_close(numpy_policy(obs), policy(obs)[0], atol=1e-6, rtol=1e-5)


def test_only_plain_dense_policies_are_numpy_policy():
    vector, discrete = spaces.Box(-1.0, 1.0, (5,), np.float32), spaces.Discrete(3)
    assert NumpyPolicy.fits(Policy(vector, discrete, ModelConfig()))
    assert not NumpyPolicy.fits(Policy(vector, discrete, ModelConfig(recurrent="gru")))
    assert not NumpyPolicy.fits(Policy(spaces.Discrete(4), discrete, ModelConfig()))
    assert not NumpyPolicy.fits(Policy(vector, discrete, ModelConfig(activation="silu")))
