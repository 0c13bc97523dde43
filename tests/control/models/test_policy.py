"""Policies, critics, recurrent unrolls and their export."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distrl.base.columns import tree_leaves, tree_map
from distrl.base.errors import ConfigError
from distrl.control.models.actor_critic import build_actor_critic
from distrl.models.layers.recurrent import GRU, LSTM

VECTOR = spaces.Box(-1, 1, (4,))
DISCRETE = spaces.Discrete(3)
BOX = spaces.Box(-1, 1, (2,))


def build(model, **changes):
    return build_actor_critic(VECTOR, changes.pop("action_space", DISCRETE), model(**changes), seed=1)


def test_seed_decides_the_weights_and_nothing_else_changes(model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (build_actor_critic(VECTOR, BOX, model(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.policy.head.weight, other.policy.head.weight)
    assert not torch.equal(first.policy.torso.dense.layers[0].weight, first.critic.torso.dense.layers[0].weight)


def test_first_policy_is_nearly_uniform_and_gaussian_starts_at_log_std_init(model):
    obs = torch.randn(50, 4)
    params, state = build(model).policy(obs)
    assert state is None
    assert params.shape == (50, 3)
    assert params.abs().max() < 0.1
    params, _ = build(model, action_space=BOX, log_std_init=-0.7).policy(obs)
    assert params.shape == (50, 4)
    assert (params[:, 2:] == -0.7).all()


def test_log_std_learns(model):
    policy = build(model, action_space=BOX).policy
    params, _ = policy(torch.randn(6, 4))
    policy.actions.entropy(params).sum().backward()
    assert policy.log_std.grad.tolist() == [6.0, 6.0]


@pytest.mark.parametrize("shared", [False, True])
def test_feed_forward_unroll_is_evaluate(model, shared):
    both = build(model, shared=shared)
    assert (both.critic.torso is None) == shared
    obs = torch.randn(7, 5, 4)
    params, values, states = both.unroll(obs, None, torch.zeros(7, 5, dtype=torch.bool))
    flat_params, flat_values = both.evaluate(obs.flatten(0, 1))
    assert states is None
    assert values.shape == (7, 5)
    torch.testing.assert_close(params.flatten(0, 1), flat_params)
    torch.testing.assert_close(values.flatten(), flat_values)
    torch.testing.assert_close(both.value(obs[0]), values[0])
    torch.testing.assert_close(both.policy.unroll(obs)[0], params)


def test_value_head_leaves_a_separate_policy_alone(model):
    both = build(model)
    both.value(torch.randn(3, 4)).sum().backward()
    assert all(p.grad is None for p in both.policy.parameters())
    shared = build(model, shared=True)
    shared.value(torch.randn(3, 4)).sum().backward()
    assert shared.policy.torso.dense.layers[0].weight.grad.abs().sum() > 0


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["gru", "lstm"]),
    steps=st.integers(1, 9),
    batch=st.integers(1, 4),
    reset_probability=st.sampled_from([0.0, 0.2, 1.0]),
    seed=st.integers(0, 1000),
)
def test_unroll_is_stepping_with_resets_inside(kind, steps, batch, reset_probability, seed):
    from types import SimpleNamespace

    config = SimpleNamespace(
        torso="auto", hidden=[8], activation="tanh", recurrent=kind, recurrent_size=6, shared=False, log_std_init=0.0
    )
    both = build_actor_critic(VECTOR, DISCRETE, config, seed=seed)
    nn.init.normal_(both.policy.head.weight, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(steps, batch, 4, generator=generator)
    first = torch.rand(steps, batch, generator=generator) < reset_probability
    start = tree_map(lambda leaf: torch.randn(leaf.shape, generator=generator), both.policy.initial_state(batch))

    params, values, states = both.unroll(obs, start, first)
    state = start
    for t in range(steps):
        value = both.value(obs[t], state, first[t])
        step_params, state = both.policy(obs[t], state, first[t])
        torch.testing.assert_close(step_params, params[t])
        torch.testing.assert_close(value, values[t])
        for leaf, stacked in zip(tree_leaves(state), tree_leaves(states), strict=True):
            torch.testing.assert_close(leaf, stacked[t])


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_reset_forgets_and_blocks_gradients(model, kind):
    policy = build(model, recurrent=kind).policy
    start = tree_map(lambda leaf: torch.randn_like(leaf).requires_grad_(), policy.initial_state(2))
    obs = torch.randn(3, 2, 4, requires_grad=True)
    first = torch.tensor([[False, False], [True, False], [False, False]])
    params, _ = policy.unroll(obs, start, first)
    fresh, _ = policy.unroll(obs[1:, :1], None, None)
    torch.testing.assert_close(params[1:, 0], fresh[:, 0])
    params[2].square().sum().backward()
    for leaf in tree_leaves(start):
        assert (leaf.grad[0] == 0).all()
        assert leaf.grad[1].abs().sum() > 0
    assert (obs.grad[0, 0] == 0).all()
    assert obs.grad[0, 1].abs().sum() > 0


@pytest.mark.parametrize(("ours", "theirs"), [(GRU, nn.GRUCell), (LSTM, nn.LSTMCell)])
def test_cells_are_those_of_torch(ours, theirs):
    torch.manual_seed(0)
    cell, memory = theirs(5, 7), ours(5, 7)
    memory.load_state_dict(cell.state_dict())
    features, state = torch.randn(3, 5), tree_map(torch.randn_like, memory.initial_state(3))
    output, after = memory(features, state)
    expected = tree_leaves(cell(features, state))
    torch.testing.assert_close(tree_leaves(after), expected)
    torch.testing.assert_close(output, expected[0])


@pytest.mark.parametrize("kind", [GRU, LSTM])
@pytest.mark.parametrize("resets", [False, True])
def test_written_out_gradients_are_those_of_autograd(kind, resets):
    torch.manual_seed(0)
    memory = kind(3, 4).double()
    for parameter in memory.parameters():
        nn.init.normal_(parameter)
    features = torch.randn(6, 3, 3, dtype=torch.float64, requires_grad=True)
    state = tree_map(lambda leaf: torch.randn_like(leaf).requires_grad_(), memory.initial_state(3))
    first = torch.rand(6, 3) < 0.3 if resets else None
    inputs = [features, *tree_leaves(state), *memory.parameters()]
    results = []
    for memory.twice_differentiable in (False, True):
        outputs, states = memory.unroll(features, state, first)
        loss = outputs.sin().sum() + sum(leaf.cos().sum() * (i + 1) for i, leaf in enumerate(tree_leaves(states)))
        results.append([outputs, *tree_leaves(states), *torch.autograd.grad(loss, inputs)])
    assert first is None or first[1:].any()
    torch.testing.assert_close(*results)


def test_recurrent_policies_can_be_differentiated_twice(model):
    policy = build(model, recurrent="gru").policy
    policy.memory.twice_differentiable = True
    params, _ = policy.unroll(torch.randn(3, 2, 4))
    (gradient,) = torch.autograd.grad(params.square().sum(), [policy.memory.weight_hh], create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), [policy.memory.weight_hh])
    assert second.abs().sum() > 0


def test_recurrent_policies_share_with_their_critic(model):
    both = build(model, recurrent="gru", shared=False)
    assert both.shared
    assert both.critic.torso is None
    assert both.policy.initial_state(3).shape == (3, 8)


def test_value_of_a_true_final_observation(model):
    """At a truncation inside a fragment, the final observation is valued with the state after that step."""
    both = build(model, recurrent="lstm")
    obs, final = torch.randn(4, 2, 4), torch.randn(1, 4)
    first = torch.zeros(4, 2, dtype=torch.bool)
    first[2, 1] = True  # episode of environment 1 was cut after step 1
    _, _, states = both.unroll(obs, both.policy.initial_state(2), first)
    value = both.value(final, tree_map(lambda leaf: leaf[1, 1:2], states))
    longer = torch.cat((obs[:2, 1:2], final.unsqueeze(0)))
    _, values, _ = both.unroll(longer, both.policy.initial_state(1), torch.zeros(3, 1, dtype=torch.bool))
    torch.testing.assert_close(value, values[2])


def test_unknown_memory(model):
    with pytest.raises(ConfigError, match="did you mean 'gru'"):
        build(model, recurrent="gruu")


def test_tree_observations_unroll(model):
    space = spaces.Dict(a=VECTOR, b=spaces.Discrete(3))
    both = build_actor_critic(space, DISCRETE, model(recurrent="gru"), seed=0)
    obs = {"a": torch.randn(5, 2, 4), "b": torch.randint(3, (5, 2))}
    params, values, states = both.unroll(obs, None, torch.zeros(5, 2, dtype=torch.bool))
    assert (params.shape, values.shape, states.shape) == ((5, 2, 3), (5, 2), (5, 2, 8))


class _Act(nn.Module):
    """What export writes down: raw observation and state in, best action and state out."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, obs, state, first):
        params, state = self.policy(self.policy.normalize(obs), state, first)
        return self.policy.actions.mode(params), params, state


@pytest.mark.parametrize("kind", [None, "gru", "lstm"])
def test_one_step_can_be_exported(model, kind):
    policy = build_actor_critic(VECTOR, DISCRETE, model(recurrent=kind), normalize_obs=True, seed=0).policy.eval()
    policy.normalizer.load(np.arange(4.0), np.full(4, 2.0), 10.0)
    inputs = (torch.randn(2, 4), policy.initial_state(2), torch.tensor([True, False]))
    exported = torch.export.export(_Act(policy), inputs).module()
    obs, state, first = torch.randn(2, 4), policy.initial_state(2), torch.tensor([False, True])
    state = None if state is None else tree_map(torch.randn_like, state)
    for ours, theirs in zip(
        tree_leaves(_Act(policy)(obs, state, first)), tree_leaves(exported(obs, state, first)), strict=True
    ):
        if ours is not None:
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", [None, "gru", "lstm"])
def test_one_step_compiles_to_one_graph(model, kind):
    policy = build(model, recurrent=kind, action_space=BOX).policy
    compiled = torch.compile(policy, backend="eager", fullgraph=True)
    obs, state, first = torch.randn(2, 4), policy.initial_state(2), torch.tensor([True, False])
    torch.testing.assert_close(compiled(obs, state, first)[0], policy(obs, state, first)[0])


@pytest.mark.parametrize("kind", [None, "gru", "lstm"])
def test_nothing_is_bound_to_the_cpu(model, kind):
    """The meta device computes shapes only and refuses to mix with tensors made elsewhere."""
    space = spaces.Dict(a=VECTOR, b=spaces.Discrete(3), c=spaces.Box(0, 255, (40, 40, 3), np.uint8))
    policy = build_actor_critic(space, BOX, model(recurrent=kind), normalize_obs=True).policy.to("meta")
    obs = {
        "a": torch.zeros(2, 4, device="meta"),
        "b": torch.zeros(2, dtype=torch.int64, device="meta"),
        "c": torch.zeros(2, 40, 40, 3, dtype=torch.uint8, device="meta"),
    }
    params, _ = policy(policy.normalize(obs), policy.initial_state(2), torch.zeros(2, dtype=torch.bool, device="meta"))
    assert params.is_meta
    assert params.shape == (2, 4)
