"""Flat parameter vectors, and weights to bytes and back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from distrl.base.errors import CheckpointError
from distrl.control.models.actor_critic import build_actor_critic
from distrl.models.parameters.flat import flatten_parameters
from distrl.models.parameters.published import load_weights, pack_weights

VECTOR = spaces.Box(-1, 1, (4,))
BOX = spaces.Box(-1, 1, (2,))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


@pytest.fixture
def network(model):
    return build_actor_critic(VECTOR, BOX, model(), normalize_obs=True, seed=0)


def test_flattening_changes_nothing(network):
    obs = torch.randn(6, 4)
    before = network.evaluate(obs)
    flat = flatten_parameters(network)
    torch.testing.assert_close(network.evaluate(obs), before)
    assert flat.names == tuple(name for name, _ in network.named_parameters())
    assert all(offset % 16 == 0 for offset in flat.offsets)
    for name, parameter in network.named_parameters():
        view = flat.views(flat.data)[name]
        assert view.data_ptr() == parameter.data_ptr()
        assert view.data_ptr() % 64 == flat.data.data_ptr() % 64
        assert view.shape == parameter.shape


def test_gradients_gather_in_the_flat_vector(network):
    flat = flatten_parameters(network)
    views = {name: parameter.grad for name, parameter in network.named_parameters()}
    obs = torch.randn(6, 4)

    def gradient():
        params, values = network.evaluate(obs)
        return torch.autograd.grad(params.square().sum() + values.square().sum(), list(network.parameters()))

    expected = torch.cat([g.flatten() for g in gradient()]).norm()
    for _ in range(2):
        params, values = network.evaluate(obs)
        (params.square().sum() + values.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is views[name]
        assert parameter.grad.data_ptr() == flat.views(flat.grad)[name].data_ptr()
    torch.testing.assert_close(flat.grad.norm(), 2 * expected)
    flat.zero_grad()
    assert all((parameter.grad == 0).all() for parameter in network.parameters())


def test_an_update_of_the_flat_vector_is_one_of_the_module(network):
    flat = flatten_parameters(network)
    with torch.no_grad():
        flat.data.add_(1.0)
    assert network.critic.head.bias.item() == 1.0
    assert network.policy.log_std.tolist() == [1.0, 1.0]


def test_state_dicts_load_in_place(network, model):
    flat = flatten_parameters(network)
    other = build_actor_critic(VECTOR, BOX, model(), normalize_obs=True, seed=9)
    network.load_state_dict(other.state_dict())
    for name, parameter in other.named_parameters():
        assert torch.equal(flat.views(flat.data)[name], parameter)


def test_tied_parameters_have_one_place():
    module = Tied()
    flat = flatten_parameters(module)
    assert flat.names == ("first.weight", "first.bias", "second.bias")
    assert module.first.weight is module.second.weight
    module(torch.ones(1, 3)).sum().backward()
    assert flat.views(flat.grad)["first.weight"].abs().sum() > 0
    weights = pack_weights(module, 1)
    offsets = {entry.name: entry.offset for entry in weights.table}
    assert offsets["first.weight"] == offsets["second.weight"]


def test_only_float32_is_flattened():
    with pytest.raises(TypeError, match="float64"):
        flatten_parameters(nn.Linear(2, 2).double())


def test_frozen_parameters_stay_where_they_are():
    module = Tied()
    module.first.bias.requires_grad_(False)
    assert flatten_parameters(module).names == ("first.weight", "second.bias")


@pytest.mark.gpu
def test_flat_on_a_gpu(network):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    network.to("cuda")
    flat = flatten_parameters(network)
    network.evaluate(torch.randn(6, 4, device="cuda"))[0].sum().backward()
    assert flat.grad.is_cuda
    assert flat.grad.abs().sum() > 0


@pytest.mark.parametrize("flatten", [False, True])
def test_weights_round_trip(network, model, flatten):
    network.policy.normalizer.load(np.arange(4.0), np.arange(4.0) + 1, 7)
    if flatten:
        flatten_parameters(network)
    weights = pack_weights(network.policy, 3)
    assert weights.version == 3
    target = build_actor_critic(VECTOR, BOX, model(), normalize_obs=True, seed=9).policy
    weights.buffer.flags.writeable = False  # as it comes out of a shared-memory store
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(target, weights)
    obs = torch.randn(5, 4)
    assert torch.equal(target.normalize(obs), network.policy.normalize(obs))
    assert torch.equal(target(obs)[0], network.policy(obs)[0])
    assert pack_weights(target, 3).checksum() == weights.checksum()


def test_weights_are_a_copy(network):
    weights = pack_weights(network.policy, 0)
    before = weights.checksum()
    with torch.no_grad():
        network.policy.log_std.add_(1.0)
    assert weights.checksum() == before
    assert pack_weights(network.policy, 0).checksum() != before


def test_foreign_weights_are_refused(network, model):
    weights = pack_weights(network.policy, 0)
    wider = build_actor_critic(VECTOR, BOX, model(hidden=[17, 16]), normalize_obs=True).policy
    with pytest.raises(CheckpointError, match=r"\(17, 4\) != \(16, 4\)"):
        load_weights(wider, weights)
    plain = build_actor_critic(VECTOR, BOX, model(), normalize_obs=False).policy
    with pytest.raises(CheckpointError, match=r"foreign \['normalizer.count'"):
        load_weights(plain, weights)
