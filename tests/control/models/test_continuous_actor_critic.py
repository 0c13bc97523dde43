"""Ensembles against separate networks, written-out gradients against autograd, and the policies' faces."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces

from distrl.base.errors import ConfigError
from distrl.config.sections.heads import ReturnHeadConfig
from distrl.control.models.continuous_actor_critic import build_continuous_actor_critic
from distrl.control.models.critic_ensemble import CriticEnsemble
from distrl.models.layers.dense_ensemble import DenseEnsemble

BOX = spaces.Box(-1.0, 1.0, (4,))
ACTION = spaces.Box(-2.0, 2.0, (2,))
NESTED = spaces.Dict(goal=spaces.Box(-1.0, 1.0, (2,)), kind=spaces.Discrete(3))
IMAGE = spaces.Box(0, 255, (3, 40, 40), np.uint8)


def config(**changes):
    defaults = {"torso": "auto", "hidden": [8, 8], "activation": "relu", "recurrent": None}
    return SimpleNamespace(**{**defaults, **changes})


def build(observation_space=BOX, action_space=ACTION, stochastic=True, model_config=None, **options):
    return build_continuous_actor_critic(
        observation_space, action_space, model_config or config(), stochastic=stochastic, **options
    )


def observations(space, count=5):
    space.seed(0)
    rows = [space.sample() for _ in range(count)]
    if isinstance(space, spaces.Dict):
        return {key: torch.as_tensor(np.stack([row[key] for row in rows])) for key in space.spaces}
    return torch.as_tensor(np.stack(rows))


def separate(dense, member, x, name="relu"):
    for weight, bias in zip(dense.weights, dense.biases, strict=True):
        x = getattr(F, name)(F.linear(x, weight[member].t(), bias[member, 0]))
    return F.linear(x, dense.head_weight[member], dense.head_bias[member, :, 0])


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_an_ensemble_is_so_many_networks(activation, outputs, shared):
    torch.manual_seed(0)
    dense = DenseEnsemble(3, 4, [8, 8], outputs, activation).double()
    plain = copy.deepcopy(dense)
    x = torch.randn(*(() if shared else (3,)), 6, 4, dtype=torch.float64)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = dense(mine)
    expected = torch.stack([separate(plain, e, theirs if shared else theirs[e], activation) for e in range(3)])
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)
    for name, parameter in dense.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad, msg=name)


def test_gradients_by_finite_differences():
    torch.manual_seed(0)
    dense = DenseEnsemble(2, 3, [5, 5], 2, "relu").double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in dense.named_parameters()]

    def run(x, *parameters):
        return torch.func.functional_call(dense, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *dense.parameters()))


def test_frozen_critics_get_no_gradients():
    critics = CriticEnsemble(BOX, 2, config(), critics=2)
    obs, action = torch.randn(5, 4), torch.randn(5, 2, requires_grad=True)
    frozen = critics(obs, action, frozen=True)
    torch.testing.assert_close(frozen, critics(obs, action))
    (by_action,) = torch.autograd.grad(critics(obs, action).sum(), action)
    frozen.sum().backward()
    torch.testing.assert_close(action.grad, by_action)
    assert all(parameter.grad is None for parameter in critics.parameters())


def test_some_members_only():
    critics = CriticEnsemble(BOX, 2, config(), critics=4, head=ReturnHeadConfig(name="quantile", size=3))
    obs, action = torch.randn(5, 4), torch.randn(5, 2)
    everyone = critics(obs, action)
    assert everyone.shape == (4, 5, 3)
    torch.testing.assert_close(critics(obs, action, members=[2, 0]), everyone[[2, 0]])
    torch.testing.assert_close(critics(obs, action, members=slice(1)), everyone[:1])


def test_layer_norm_bounds_what_the_head_reads():
    torch.manual_seed(0)
    dense = DenseEnsemble(2, 3, [16], 1, "relu", layer_norm=True)
    far = dense(1e6 * torch.ones(1, 3))
    assert far.abs().max() < math.sqrt(16) * dense.head_weight.abs().max() * 16
    x = torch.randn(4, 3)
    hidden = torch.relu(F.layer_norm(x @ dense.weights[0][1] + dense.biases[0][1], (16,)))
    torch.testing.assert_close(dense(x)[1], F.linear(hidden, dense.head_weight[1], dense.head_bias[1, :, 0]))


@pytest.mark.parametrize("space", [BOX, NESTED, IMAGE], ids=["box", "dict", "image"])
@pytest.mark.parametrize("kind", ["gaussian", "gsde", "deterministic"])
def test_policies_have_the_face_of_a_policy(space, kind):
    options = {"policy_options": {"state_dependent": True}} if kind == "gsde" else {}
    model = build(space, stochastic=kind != "deterministic", **options)
    policy, obs = model.policy, observations(space)
    params, state = policy(policy.normalize(obs), policy.initial_state(5))
    assert state is None
    assert params.shape == (5, policy.actions.param_size)
    noise = torch.from_numpy(policy.actions.draw_noise(np.random.default_rng(0), (5,)))
    for action in (policy.actions.sample(params, noise), policy.actions.mode(params)):
        assert action.shape == (5, 2)
        assert action.abs().max() <= 2.0
    q = model.critics(policy.normalize(obs), policy.actions.scale.to_unit(action))
    assert q.shape == (2, 5, 1)
    lead = (
        {key: leaf.unflatten(0, (5, 1)) for key, leaf in obs.items()} if space is NESTED else obs.unflatten(0, (5, 1))
    )
    torch.testing.assert_close(policy.unroll(policy.normalize(lead))[0].squeeze(1), params)


def test_exploration_travels_in_buffers():
    policy = build(stochastic=False).policy
    other = build(stochastic=False, seed=1).policy
    policy.explore(warmup=True, sigma=0.25)
    other.load_state_dict(policy.state_dict())
    params, _ = other(torch.zeros(1, 4))
    assert params[0, -2:].tolist() == [0.25, 1.0]
    gsde = build(policy_options={"state_dependent": True}).policy
    gsde.new_exploration(torch.ones(8, 2))
    torch.testing.assert_close(gsde.exploration, gsde.log_std.exp())
    obs = torch.randn(3, 4)
    deviation = gsde(obs)[0][:, -2:]
    torch.testing.assert_close(deviation, gsde.dense.features(obs)[0] @ gsde.exploration)


def test_state_dependent_spread_is_that_of_its_matrices():
    torch.manual_seed(0)
    policy = build(policy_options={"state_dependent": True, "log_std_init": -1.0}).policy
    obs = torch.randn(1, 4)
    _, log_std, _ = policy.gaussian(obs)
    draws = []
    for _ in range(4000):
        policy.new_exploration(torch.randn(8, 2))
        draws.append(policy.dense.features(obs)[0].detach() @ policy.exploration)
    torch.testing.assert_close(torch.cat(draws).std(0), log_std.exp()[0].detach(), rtol=0.06, atol=0.0)


def test_first_weights_depend_on_the_seed_alone():
    before = torch.random.get_rng_state()
    first, again, other = build(seed=3), build(seed=3), build(seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.remake(seed=4).critics.dense.weights[0], other.critics.dense.weights[0])
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.critics.dense.weights[0], other.critics.dense.weights[0])
    weights = first.critics.dense.weights[0]
    assert not torch.equal(weights[0], weights[1])
    assert weights.abs().max() <= 1 / math.sqrt(6)


def test_recurrent_models_are_refused():
    with pytest.raises(ConfigError, match="recurrent"):
        build(model_config=config(recurrent="gru"))
