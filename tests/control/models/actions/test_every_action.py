"""Action distributions against torch.distributions, and their samples against their probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions as reference

from distrl.base.errors import ConfigError
from distrl.control.models.actions.for_space import action_distribution

DISCRETE = spaces.Discrete(5)
BOX = spaces.Box(-1.0, 1.0, (2, 3))
MULTI_DISCRETE = spaces.MultiDiscrete([3, 2, 4])
MULTI_BINARY = spaces.MultiBinary(4)
DICT = spaces.Dict(
    turn=spaces.Discrete(3), push=spaces.Box(-1, 1, (2,)), more=spaces.Tuple((MULTI_BINARY, MULTI_DISCRETE))
)
ALL = [DISCRETE, BOX, MULTI_DISCRETE, MULTI_BINARY, DICT]

#: 99.9 percent points of chi-square for 1 to 24 degrees of freedom.
CHI_SQUARE_LIMIT = {1: 10.8, 2: 13.8, 3: 16.3, 4: 18.5, 23: 49.7}


def params_of(actions, shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, actions.param_size, generator=generator, dtype=torch.float64).to(dtype)


def sample_of(actions, params, seed=0, mask=None):
    noise = torch.from_numpy(actions.draw_noise(np.random.default_rng(seed), params.shape[:-1]))
    return actions.sample(params, noise.to(params.dtype), mask)


def chi_square(counts, probabilities):
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("space", ALL, ids=lambda s: type(s).__name__)
def test_sizes_and_shapes(space):
    actions = action_distribution(space)
    params = params_of(actions, (7, 3), dtype=torch.float32)
    noise = actions.draw_noise(np.random.default_rng(0), (7, 3))
    assert noise.dtype == np.float32
    assert noise.shape == (7, 3, actions.noise_size)
    assert actions.param_size == actions.head_size + actions.log_std_size
    action = actions.sample(params, torch.from_numpy(noise))
    assert actions.logp(params, action).shape == (7, 3)
    assert actions.entropy(params).shape == (7, 3)
    assert actions.kl(params, params).abs().max() < 1e-6

    def leaf(tree):
        if isinstance(tree, dict):
            return {key: leaf(child) for key, child in tree.items()}
        if isinstance(tree, tuple):
            return tuple(leaf(child) for child in tree)
        value = tree[0, 0].numpy()
        return value.item() if value.ndim == 0 else value

    one = leaf(action)
    if space is BOX:
        assert one.shape == BOX.shape
        assert one.dtype == np.float32
    elif space is DICT:
        assert DICT["turn"].contains(one["turn"])
        assert DICT["more"].contains(one["more"])
    else:
        assert space.contains(one)


@pytest.mark.parametrize("space", ALL, ids=lambda s: type(s).__name__)
def test_sampling_is_a_function_of_the_noise(space):
    actions = action_distribution(space)
    params = params_of(actions, (4,))
    first, again, other = (actions.logp(params, sample_of(actions, params, seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_categorical_matches_reference():
    actions = action_distribution(DISCRETE)
    p, q = params_of(actions, (50,), 1), params_of(actions, (50,), 2)
    action = sample_of(actions, p)
    dist_p, dist_q = reference.Categorical(logits=p), reference.Categorical(logits=q)
    torch.testing.assert_close(actions.logp(p, action), dist_p.log_prob(action))
    torch.testing.assert_close(actions.entropy(p), dist_p.entropy())
    torch.testing.assert_close(actions.kl(p, q), reference.kl_divergence(dist_p, dist_q))
    assert torch.equal(actions.mode(p), p.argmax(-1))
    assert action.dtype == torch.int64


def test_gaussian_matches_reference():
    actions = action_distribution(BOX)
    p, q = params_of(actions, (50,), 1), params_of(actions, (50,), 2)
    action = sample_of(actions, p)

    def dist(params):
        mean, log_std = params.chunk(2, -1)
        return reference.Independent(reference.Normal(mean, log_std.exp()), 1)

    torch.testing.assert_close(actions.logp(p, action), dist(p).log_prob(action.flatten(1)))
    torch.testing.assert_close(actions.entropy(p), dist(p).entropy())
    torch.testing.assert_close(actions.kl(p, q), reference.kl_divergence(dist(p), dist(q)))
    assert torch.equal(actions.mode(p).flatten(1), p[:, :6])


def test_gaussian_of_a_scalar_box():
    actions = action_distribution(spaces.Box(-1.0, 1.0, ()))
    params = params_of(actions, (9, 4))
    action = sample_of(actions, params)
    assert action.shape == (9, 4)
    expected = reference.Normal(params[..., 0], params[..., 1].exp()).log_prob(action)
    torch.testing.assert_close(actions.logp(params, action), expected)


def test_multi_discrete_matches_reference():
    actions = action_distribution(MULTI_DISCRETE)
    p, q = params_of(actions, (50,), 1), params_of(actions, (50,), 2)
    action = sample_of(actions, p)
    parts = [
        (reference.Categorical(logits=x), reference.Categorical(logits=y), action[:, i])
        for i, (x, y) in enumerate(zip(p.split([3, 2, 4], -1), q.split([3, 2, 4], -1), strict=True))
    ]
    torch.testing.assert_close(actions.logp(p, action), sum(x.log_prob(a) for x, _, a in parts))
    torch.testing.assert_close(actions.entropy(p), sum(x.entropy() for x, _, _ in parts))
    torch.testing.assert_close(actions.kl(p, q), sum(reference.kl_divergence(x, y) for x, y, _ in parts))


def test_multi_binary_matches_reference():
    actions = action_distribution(MULTI_BINARY)
    p, q = params_of(actions, (50,), 1), params_of(actions, (50,), 2)
    action = sample_of(actions, p)
    dist_p, dist_q = (reference.Independent(reference.Bernoulli(logits=x), 1) for x in (p, q))
    torch.testing.assert_close(actions.logp(p, action), dist_p.log_prob(action.double()))
    torch.testing.assert_close(actions.entropy(p), dist_p.entropy())
    torch.testing.assert_close(actions.kl(p, q), reference.kl_divergence(dist_p, dist_q))
    assert torch.equal(actions.mode(p), (p > 0).to(torch.int8))


def test_composite_is_the_sum_of_its_parts():
    actions = action_distribution(DICT)
    p, q = params_of(actions, (20,), 1), params_of(actions, (20,), 2)
    action = sample_of(actions, p)
    names = list(DICT.spaces)
    parts = {name: action_distribution(DICT[name]) for name in names}
    sizes = [parts[name].param_size for name in names]
    p_parts, q_parts = (dict(zip(names, x.split(sizes, -1), strict=True)) for x in (p, q))
    torch.testing.assert_close(
        actions.logp(p, action), sum(parts[name].logp(p_parts[name], action[name]) for name in names)
    )
    torch.testing.assert_close(actions.entropy(p), sum(parts[name].entropy(p_parts[name]) for name in names))
    torch.testing.assert_close(actions.kl(p, q), sum(parts[name].kl(p_parts[name], q_parts[name]) for name in names))


def test_composite_joins_log_std_where_it_belongs():
    space = spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.Discrete(3), spaces.Box(-1, 1, (1,))))
    actions = action_distribution(space)
    head, log_std = torch.arange(12.0).reshape(2, 6), torch.tensor([-1.0, -2.0, -3.0])
    params = actions.join(head, log_std)
    assert params[0].tolist() == [0, 1, -1, -2, 2, 3, 4, 5, -3]
    assert params[1].tolist() == [6, 7, -1, -2, 8, 9, 10, 11, -3]


@pytest.mark.parametrize("seed", [0, 1])
def test_categorical_frequencies(seed):
    actions = action_distribution(DISCRETE)
    logits = params_of(actions, (), seed)
    action = sample_of(actions, logits.expand(20_000, 5), seed)
    counts = np.bincount(action.numpy(), minlength=5)
    assert chi_square(counts, logits.softmax(-1).numpy()) < CHI_SQUARE_LIMIT[4]


def test_masked_categorical_frequencies():
    actions = action_distribution(DISCRETE)
    logits = params_of(actions, ())
    mask = torch.tensor([True, False, True, True, False])
    action = sample_of(actions, logits.expand(20_000, 5), 3, mask.expand(20_000, 5))
    counts = np.bincount(action.numpy(), minlength=5)
    assert counts[1] == counts[4] == 0
    assert chi_square(counts[mask.numpy()], logits[mask].softmax(-1).numpy()) < CHI_SQUARE_LIMIT[2]


def test_multi_discrete_frequencies_are_those_of_the_product():
    actions = action_distribution(MULTI_DISCRETE)
    logits = params_of(actions, ())
    action = sample_of(actions, logits.expand(40_000, 9), 4)
    counts = np.bincount(np.ravel_multi_index(tuple(action.T.numpy()), (3, 2, 4)), minlength=24)
    a, b, c = (part.softmax(-1).numpy() for part in logits.split([3, 2, 4]))
    assert chi_square(counts, np.einsum("i,j,k->ijk", a, b, c).reshape(-1)) < CHI_SQUARE_LIMIT[23]


def test_multi_binary_frequencies():
    actions = action_distribution(MULTI_BINARY)
    logits = params_of(actions, ())
    ones = sample_of(actions, logits.expand(20_000, 4), 5).sum(0).numpy()
    for count, probability in zip(ones, torch.sigmoid(logits).numpy(), strict=True):
        counts = np.array([20_000 - count, count])
        assert chi_square(counts, np.array([1 - probability, probability])) < CHI_SQUARE_LIMIT[1]


def test_gaussian_moments():
    actions = action_distribution(BOX)
    params = params_of(actions, ())
    action = sample_of(actions, params.expand(40_000, 12), 6).flatten(1)
    mean, std = params[:6], params[6:].exp()
    assert (((action.mean(0) - mean) / std).abs() < 4 / 200).all()
    assert ((action.std(0) / std - 1).abs() < 4 / np.sqrt(2 * 40_000)).all()


@pytest.mark.parametrize("space", [DISCRETE, MULTI_DISCRETE, MULTI_BINARY], ids=lambda s: type(s).__name__)
def test_gradients_stay_finite_under_masks(space):
    actions = action_distribution(space)
    params = params_of(actions, (6,), dtype=torch.float32).mul_(30).requires_grad_()
    mask = torch.rand(6, actions.mask_size, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:, ::2] = True
    mask[5] = False  # an environment that forbids everything must not make a NaN either
    action = sample_of(actions, params.detach(), 0, mask)
    old = params.detach() + 0.1
    loss = actions.logp(params, action, mask) + actions.entropy(params, mask) + actions.kl(old, params, mask)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert params.grad is not None
    assert params.grad.isfinite().all()
    assert (params.grad[~mask] == 0).all()


def test_masked_entropy_is_that_of_the_rest():
    actions = action_distribution(DISCRETE)
    logits = params_of(actions, (8,))
    mask = torch.tensor([True, False, True, True, False])
    dist = reference.Categorical(logits=logits[:, mask])
    torch.testing.assert_close(actions.entropy(logits, mask.expand(8, 5)), dist.entropy())
    assert mask[actions.mode(logits, mask.expand(8, 5))].all()


def test_composite_masks_are_trees():
    actions = action_distribution(DICT)
    params = params_of(actions, (500,))
    mask = {"turn": torch.tensor([False, True, False]).expand(500, 3), "more": (None, None)}
    action = sample_of(actions, params, 0, mask)
    assert (action["turn"] == 1).all()
    whole = actions.logp(params, action, mask)
    rest = actions.logp(params, action) - action_distribution(DICT["turn"]).logp(params[:, :3], action["turn"])
    torch.testing.assert_close(whole, rest)


def test_discrete_start_is_left_to_the_environment():
    actions = action_distribution(spaces.Discrete(3, start=5))
    assert set(sample_of(actions, params_of(actions, (100,))).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("space", [spaces.Box(0, 255, (3,), np.uint8), spaces.Text(5)])
def test_unknown_action_spaces_are_refused(space):
    with pytest.raises(ConfigError, match=r"action space"):
        action_distribution(space)
