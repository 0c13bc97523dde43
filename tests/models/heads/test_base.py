"""Return heads: shapes, gradients, determinism, what each learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from distrl.config.sections.heads import FAMILIES, ReturnHeadConfig
from distrl.functional.atoms import equal_probs, midpoints
from distrl.functional.risk.measures import make_risk
from distrl.models.heads.make import make_return_head
from tests.exact.distributional import wasserstein1


class PlainLinear(nn.Module):
    """A layer that initializes itself, as noisy ones do."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


@pytest.mark.parametrize("make_linear", [nn.Linear, PlainLinear])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_gradients_and_training(family, dueling, make_linear):
    torch.manual_seed(0)
    head = make_return_head(family, 16, actions=3, dueling=dueling, make_linear=make_linear)
    distribution = head.distribution
    features = torch.randn(5, 16)
    with torch.no_grad():
        params = head(features)
    assert params.shape == (5, 3, distribution.param_size)
    assert distribution.mean(params).shape == (5, 3)
    noise = head.draw_noise(np.random.default_rng(0), (5,))
    learned = head(features, None if noise is None else torch.from_numpy(noise))
    target = distribution.target_atoms(torch.roll(params, 1, 0))
    loss = distribution.loss(learned, target.values + 1.0, target.probs)
    assert loss.shape == (5, 3)
    loss.mean().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_heads_are_deterministic_and_do_not_favor_actions_much(family):
    torch.manual_seed(0)
    head = make_return_head(family, 64, actions=4)
    features = torch.randn(8, 64).tanh()
    with torch.no_grad():
        first, second = head(features), head(features)
    assert torch.equal(first, second)
    means = head.distribution.mean(first)
    assert means.isfinite().all()
    assert means.abs().max() < 6


@pytest.mark.parametrize("family", ["quantile", "iqn", "categorical"])
def test_dueling_separates_state_and_action_values(family):
    head = make_return_head(family, 8, actions=3, dueling=True)
    features = torch.randn(4, 8)
    with torch.no_grad():
        before = head(features)
        network = getattr(head, "network", head)
        network.layer.weight.zero_()
        network.layer.bias.zero_()
        after = head(features)
    size = head.distribution.acting_size if family == "iqn" else head.distribution.param_size
    torch.testing.assert_close(after[..., :size], before[..., :size].mean(1, keepdim=True).expand(4, 3, size))


def test_iqn_reads_given_levels():
    head = make_return_head("iqn", 8, actions=2)
    features = torch.randn(4, 8)
    taus = torch.rand(4, 6)
    with torch.no_grad():
        params = head(features, taus)
        fixed = head(features)
        same = head.at(features, midpoints(32, features))
        distorted = head.at(features, make_risk("cvar", level=1.0).distort(midpoints(32, features)))
    assert params.shape == (4, 2, 12)
    torch.testing.assert_close(params[:, 1, 6:], taus)
    assert torch.equal(fixed, same)
    # entry 3: acting by CVaR at level 1 is acting by the mean
    torch.testing.assert_close(head.distribution.mean(distorted), head.distribution.mean(fixed))


def test_fractions_move_apart_from_the_rest():
    """FQF: the proposal gets its gradient from the fraction loss alone, and gives none to the features."""
    torch.manual_seed(0)
    head = make_return_head("fqf", 8, actions=2)
    features = torch.randn(4, 8, requires_grad=True)
    params = head(features)
    assert params.shape == (4, 2, 4 * 32 - 1)
    widths = params[..., 64:96]
    torch.testing.assert_close(widths.sum(-1), torch.ones(4, 2))
    widths.square().sum().backward(retain_graph=True)
    assert features.grad is None or features.grad.abs().sum() == 0
    head.zero_grad()
    values = params[..., :32]
    values.sum().backward()
    assert head.proposal.weight.grad is None or head.proposal.weight.grad.abs().sum() == 0


def test_fraction_rate_scales_the_step_whatever_the_optimizer():
    steps = []
    for rate in (0.01, 0.1):
        torch.manual_seed(0)
        head = make_return_head(ReturnHeadConfig(name="fqf", size=4, fraction_rate=rate), 8, actions=1)
        features = torch.randn(16, 8)
        optimizer = torch.optim.Adam(head.proposal.parameters(), 1e-2)
        loss = head.distribution.loss(head(features), torch.randn(16, 1, 1), torch.ones(16, 1, 1))
        loss.mean().backward()
        optimizer.step()
        with torch.no_grad():
            steps.append((head(features)[..., 8:12] - 0.25).abs().mean().item())
    assert steps[1] / steps[0] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("family", ["categorical", "quantile", "iqn", "fqf", "gaussian", "mixture"])
def test_every_head_learns_a_distribution(family):
    """Returns of N(1, 0.5), one sample a row: the distribution, not only its mean, is found."""
    torch.manual_seed(0)
    sharp = {"kappa": 0.1}
    options = {"categorical": {"v_min": -3, "v_max": 5}, "quantile": sharp, "iqn": sharp, "fqf": sharp}
    head = make_return_head(ReturnHeadConfig(name=family, **options.get(family, {})), 8, actions=1)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    features = torch.ones(256, 8)
    rng = np.random.default_rng(0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 300)
        noise = head.draw_noise(rng, (256,))
        params = head(features, None if noise is None else torch.from_numpy(noise)).squeeze(1)
        target = 1 + 0.5 * torch.randn(256, 1)
        loss = head.distribution.loss(params, target, torch.ones(256, 1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = head.distribution.atoms(head(features[:1]).squeeze(1)[0])
    distribution = 1 + 0.5 * torch.special.ndtri(midpoints(2000, features))
    assert wasserstein1(found, (distribution, equal_probs(distribution))) < 0.12


@pytest.mark.parametrize("family", ["quantile", "iqn", "fqf", "gaussian"])
def test_heads_survive_a_state_dict_and_a_deep_copy(family):
    import copy

    head, other = make_return_head(family, 8, 2), make_return_head(family, 8, 2)
    other.load_state_dict(head.state_dict())
    features = torch.randn(3, 8)
    with torch.no_grad():
        assert torch.equal(head(features), other(features))
        assert torch.equal(head(features), copy.deepcopy(head)(features))


def test_features_with_time_and_batch():
    for family in FAMILIES:
        head = make_return_head(family, 8, 2)
        with torch.no_grad():
            assert head(torch.randn(6, 3, 8)).shape == (6, 3, 2, head.distribution.param_size)
