"""The protocol of return distributions, family by family."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.config.sections.heads import FAMILIES, NETWORK_KEYS, RISKS
from distrl.functional.atoms import atoms_mean, atoms_variance, equal_probs, midpoints
from distrl.functional.distributions.base import ReturnDistribution, make_return_distribution
from distrl.functional.distributions.gaussian import gaussian_loss, normal_atoms
from distrl.functional.risk.measures import make_risk
from tests.exact.distributional import wasserstein1

#: Small ones, so that finite differences are quick.
SMALL = {
    "scalar": {},
    "categorical": {"size": 7, "v_min": -4, "v_max": 5},
    "two_hot": {"size": 9, "v_min": -5, "v_max": 5},
    "quantile": {"size": 5},
    "iqn": {"acting_size": 5},
    "fqf": {"size": 4},
    "gaussian": {"size": 32},
    "mixture": {"size": 3},
    "joint": {"size": 4, "channels": 2},
}
DISCRETE = ["scalar", "categorical", "two_hot", "quantile", "iqn", "fqf", "joint"]
DENSITIES = ["gaussian", "mixture"]


def small(family: str) -> ReturnDistribution:
    return make_return_distribution(family, **SMALL[family])


def random_params(family: str, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64):
    """Valid parameters: levels in (0, 1), widths that sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    distribution = small(family)
    params = torch.randn(*shape, distribution.param_size, generator=generator, dtype=dtype)
    if family == "iqn":
        params[..., 5:] = params[..., 5:].sigmoid()
    if family == "fqf":
        widths = params[..., 8:].softmax(-1)
        params[..., 8:] = widths
        params[..., 4:8] = widths.cumsum(-1) - widths / 2
    return params


def target_for(distribution: ReturnDistribution, shape: tuple[int, ...], seed: int = 9):
    generator = torch.Generator().manual_seed(seed)
    channels = (distribution.channels,) if distribution.channels > 1 else ()
    values = 2 * torch.randn(*shape, 6, *channels, generator=generator, dtype=torch.float64)
    return values, torch.rand(*shape, 6, generator=generator, dtype=torch.float64).softmax(-1)


def test_every_family_and_measure_is_in_the_config_with_the_same_defaults():
    families = {method.name for method in register.methods("return_distribution")}
    assert families == set(FAMILIES) == set(SMALL)
    for family, keys in FAMILIES.items():
        options = {key: value for key, value in keys.items() if key not in NETWORK_KEYS}
        assert vars(make_return_distribution(family, **options)).keys() == vars(make_return_distribution(family)).keys()
        for key, value in options.items():
            if hasattr(make_return_distribution(family), key) and key != "weights":
                assert getattr(make_return_distribution(family), key) == value, (family, key)
    assert {method.name for method in register.methods("risk")} == set(RISKS)
    for risk, keys in RISKS.items():
        assert vars(make_risk(risk, **keys)) == vars(make_risk(risk))


@pytest.mark.parametrize("family", SMALL)
def test_shapes(family):
    distribution = small(family)
    params = random_params(family, (2, 3))
    values, probs = distribution.atoms(params)
    assert values.shape == probs.shape
    assert values.shape[:2] == (2, 3)
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert distribution.initial_bias().shape == (distribution.param_size,)
    for found in (distribution.mean(params), distribution.variance(params), distribution.quantile(params, 0.3)):
        assert found.shape == (2, 3)
    assert distribution.cdf(params, 0.3).shape == (2, 3)
    for levels in (torch.rand(4).double(), torch.rand(2, 3, 4).double()):
        assert distribution.quantile(params, levels).shape == (2, 3, 4)
        assert distribution.cdf(params, levels).shape == (2, 3, 4)
        assert distribution.sample(params, levels).shape == (2, 3, 4)
    if distribution.ordered:
        assert (values.diff(dim=-1) >= 0).all()


@settings(max_examples=15)
@given(st.sampled_from(list(SMALL)), st.integers(0, 10_000))
def test_mean_variance_quantile_cdf_and_samples_are_of_one_distribution(family, seed):
    distribution = small(family)
    params = random_params(family, (2,), seed)
    levels = midpoints(4000, params)
    samples = distribution.sample(params, levels)
    spread = distribution.variance(params).sqrt()
    slack = 0.02 * spread + 1e-6
    assert ((samples.mean(-1) - distribution.mean(params)).abs() <= slack).all()
    assert ((samples.std(-1) - spread).abs() <= 2 * slack).all()
    torch.testing.assert_close(atoms_mean(*distribution.atoms(params)), distribution.mean(params), atol=1e-9, rtol=1e-9)
    some = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    quantiles = distribution.quantile(params, some)
    assert (quantiles.diff(dim=-1) >= 0).all()
    reached = distribution.cdf(params, quantiles)
    assert (reached >= some - 2e-6).all()
    if family in DENSITIES:
        torch.testing.assert_close(reached, some.expand_as(reached), atol=1e-6, rtol=0)
    points = torch.tensor([-1.0, 0.0, 1.5], dtype=torch.float64)
    empirical = (samples.unsqueeze(-2) <= points.unsqueeze(-1)).double().mean(-1)
    torch.testing.assert_close(distribution.cdf(params, points), empirical, atol=1e-3, rtol=0)


@pytest.mark.parametrize("family", SMALL)
def test_gradient_of_the_loss_against_finite_differences(family):
    distribution = small(family)
    params = random_params(family, (3,), seed=4)
    target = target_for(distribution, (3,))
    learned = {"iqn": 5, "fqf": 4}.get(family, distribution.param_size)  # levels are not learned by this loss
    moving = params[..., :learned].clone().requires_grad_()

    def loss(part: torch.Tensor) -> torch.Tensor:
        return distribution.loss(torch.cat((part, params[..., learned:]), -1), *target)

    assert loss(moving).shape == (3,)
    assert torch.autograd.gradcheck(loss, moving)


@pytest.mark.parametrize("family", SMALL)
def test_priorities_are_never_negative(family):
    distribution = small(family)
    params = random_params(family, (50,)).requires_grad_()
    if family in DENSITIES:
        params = (params - 5 * torch.eye(params.shape[-1])[-1]).detach().requires_grad_()  # sharp: negative losses
    target = target_for(distribution, (50,))
    loss = distribution.loss(params, *target)
    if family == "joint":
        target = (target[0].sum(-1), target[1])
    priority = distribution.priority(params, loss, *target)
    assert priority.shape == (50,)
    assert not priority.requires_grad
    assert (priority >= 0).all()


@pytest.mark.parametrize("family", SMALL)
def test_targets_get_no_gradient(family):
    distribution = small(family)
    values, probs = (x.requires_grad_() for x in target_for(distribution, (3,)))
    params = random_params(family, (3,)).requires_grad_()
    loss = distribution.loss(params, values, probs)
    gradients = torch.autograd.grad(loss.sum(), (params, values, probs), allow_unused=True)
    assert gradients[0] is not None
    assert gradients[1] is None
    assert gradients[2] is None


@pytest.mark.parametrize("family", SMALL)
def test_any_family_learns_from_any_other(family):
    """The target of one family is a valid target of all."""
    learner = small(family)
    if family == "joint":
        learner = make_return_distribution("joint", size=4, channels=1)
    params = torch.cat([random_params(family, (2,))], -1) if family != "joint" else torch.randn(2, 4).double()
    for other in SMALL:
        atoms = small(other).atoms(random_params(other, (2,)))
        assert learner.loss(params, *atoms).isfinite().all()


@pytest.mark.parametrize("family", ["categorical", "quantile", "gaussian", "mixture"])
def test_learns_a_distribution_it_can_represent(family):
    """Fitted to its own kind of distribution by gradient steps, it ends near in Wasserstein-1."""
    options = {"quantile": {"size": 8, "kappa": 0.0}, "mixture": {"size": 2}, "categorical": SMALL["categorical"]}
    distribution = make_return_distribution(family, **options.get(family, {}))
    generator = torch.Generator().manual_seed(1)
    goal = torch.randn(distribution.param_size, generator=generator, dtype=torch.float64)
    target = distribution.atoms(goal)
    params = distribution.initial_bias().double().requires_grad_()
    optimizer = torch.optim.Adam([params], 0.05)
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 500)
        optimizer.zero_grad()
        distribution.loss(params, *target).backward()
        optimizer.step()
    assert wasserstein1(distribution.atoms(params.detach()), target) < 0.1


NORMAL_CLOSED_FORMS = [
    ("mean", {}, 0.0),
    ("cvar", {"level": 0.1}, -1.75498),
    ("cvar", {"level": 0.25}, -1.27111),
    ("wang", {"eta": -0.75}, -0.75),
    ("wang", {"eta": 0.75}, 0.75),
    ("entropic", {"beta": -1.0}, -0.5),
    ("mean_variance", {"weight": 0.5}, -0.5),
    ("var", {"level": 0.1}, -1.28155),
    ("power", {"eta": -1.0}, -0.56419),  # the smaller of two: -1 / sqrt(pi)
    ("mixed_var", {}, (1.5 * -1.39981) / 2.5),
]


@pytest.mark.parametrize(("name", "options", "expected"), NORMAL_CLOSED_FORMS)
def test_risk_of_densities_within_one_percent(name, options, expected):
    """A standard normal distribution, as one Gaussian and as two equal components."""
    measure = make_risk(name, **options)
    raw = torch.log(torch.expm1(torch.tensor(1.0 - 0.01, dtype=torch.float64)))
    gaussian = make_return_distribution("gaussian")
    params = torch.stack((torch.tensor(0.0).double(), raw))
    assert gaussian.risk(params, measure).item() == pytest.approx(expected, rel=0.01, abs=1e-9)
    mixture = make_return_distribution("mixture", size=2)  # two equal components: the same distribution
    params = torch.stack((torch.zeros(2), torch.zeros(2), raw.repeat(2)), 0).flatten().double()
    assert mixture.risk(params, measure).item() == pytest.approx(expected, rel=0.01, abs=1e-9)


@pytest.mark.parametrize("family", ["categorical", "quantile", "iqn", "fqf", "joint"])
@pytest.mark.parametrize("name", sorted(RISKS))
def test_risk_of_discrete_families_is_exact(family, name):
    """Returns 1, 2, 3, 4 with probability 1/4 each, as every family's parameters."""
    four = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    quarter = torch.full((4,), 0.25, dtype=torch.float64)
    params = {
        "categorical": torch.zeros(4, dtype=torch.float64),
        "quantile": four,
        "iqn": torch.cat((four, midpoints(4, four))),
        "fqf": torch.cat((four, midpoints(4, four), quarter)),
        "joint": torch.stack((four / 2, four / 2), -1).flatten(),
    }[family]
    options = {"categorical": {"size": 4, "v_min": 1, "v_max": 4}, "iqn": {}}.get(family, {"size": 4})
    measure = make_risk(name)
    found = make_return_distribution(family, **options).risk(params, measure)
    torch.testing.assert_close(found, measure(four, quarter), atol=1e-6, rtol=0)


def test_normal_atoms_have_exact_moments_and_are_close_in_wasserstein():
    fine = torch.special.ndtri(midpoints(20_000, torch.zeros((), dtype=torch.float64)))
    for count in (2, 3, 8, 64, 1024):
        values, probs = normal_atoms(count)
        assert atoms_mean(values, probs).item() == pytest.approx(0, abs=1e-12)
        assert atoms_variance(values, probs).item() == pytest.approx(1)
        assert (values.diff() > 0).all()
    assert wasserstein1(normal_atoms(64), (fine, equal_probs(fine))) < 0.06


def test_gaussian_gradients_of_dsac():
    """With y - Q = 3, sigma = 2 gives dQ = -0.75 and dsigma = -0.625."""
    mean, sigma = torch.tensor(0.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    target = (torch.tensor([3.0]), torch.ones(1))
    by_mean, by_sigma = torch.autograd.grad(gaussian_loss(mean, sigma, *target), (mean, sigma))
    assert (by_mean.item(), by_sigma.item()) == pytest.approx((-0.75, -0.625))
    by_mean, by_sigma = torch.autograd.grad(gaussian_loss(mean, sigma, *target, clip=1.0), (mean, sigma))
    assert (by_mean.item(), by_sigma.item()) == pytest.approx((-0.75, -(1 - 4) / 8))  # the clip is sigma's alone
    loss = gaussian_loss(mean, sigma, *target, mean_target=torch.tensor(1.0), scale=4.0, eps=0.1)
    by_mean, by_sigma = torch.autograd.grad(loss, (mean, sigma))
    assert (by_mean.item(), by_sigma.item()) == pytest.approx((-4 * 1 / 4.1, -4 * 5 / 8.1))


def test_gaussian_with_sigma_one_is_half_the_squared_error():
    mean = torch.randn(5, dtype=torch.float64, requires_grad=True)
    target = torch.randn(5, 1, dtype=torch.float64)
    loss = gaussian_loss(mean, torch.ones(5, dtype=torch.float64), target, torch.ones(5, 1, dtype=torch.float64))
    (by_mean,) = torch.autograd.grad(loss.sum(), mean)
    torch.testing.assert_close(by_mean, (mean - target.squeeze(-1)).detach())


def test_scalar_is_mean_regression_and_tqc_of_one_atom_is_half_of_it():
    """With n = M = 1, d = 0: half the Huber loss."""
    params, target = torch.tensor([[0.5]]), (torch.tensor([[3.0]]), torch.ones(1, 1))
    huber = make_return_distribution("scalar", kappa=1.0).loss(params, *target)
    assert huber.item() == pytest.approx(2.0)
    assert make_return_distribution("quantile", size=1).loss(params, *target).item() == pytest.approx(0.5 * 2.0)
    assert make_return_distribution("scalar").loss(params, *target).item() == pytest.approx(0.5 * 2.5**2)


def test_two_hot_learns_the_mean_only():
    distribution = make_return_distribution("two_hot", size=5, v_min=-2, v_max=2, spacing="linear")
    params = torch.randn(1, 5).double()
    spread = distribution.loss(params, torch.tensor([[-1.0, 2.0]]).double(), torch.tensor([[0.5, 0.5]]).double())
    point = distribution.loss(params, torch.tensor([[0.5]]).double(), torch.ones(1, 1).double())
    torch.testing.assert_close(spread, point)


def test_monotone_quantiles_never_cross():
    distribution = make_return_distribution("quantile", size=6, monotone=True)
    params = 3 * torch.randn(20, 6).double().requires_grad_()
    assert (distribution.values(params).diff(dim=-1) > 0).all()
    assert distribution.values(distribution.initial_bias()).mean().item() == pytest.approx(0, abs=1e-6)
    target = torch.randn(20, 4).double(), torch.full((20, 4), 0.25).double()
    leaf = params.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: distribution.loss(p, *target), leaf)


def test_gradients_of_mixture_quantiles():
    distribution = small("mixture")
    params = random_params("mixture", (2,)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: distribution.quantile(p, torch.tensor([0.2, 0.7]).double()), params)


def test_fqf_fractions_move_by_gradient_only():
    distribution = small("fqf")
    params = random_params("fqf", (2,))
    target = target_for(distribution, (2,))
    plain = distribution.loss(params, *target)
    longer = torch.cat((params, torch.randn(2, 3).double()), -1).requires_grad_()
    loss = distribution.loss(longer, *target)
    torch.testing.assert_close(loss, plain)
    (gradient,) = torch.autograd.grad(loss.sum(), longer)
    assert gradient[..., 8:12].abs().sum() > 0  # widths
    assert gradient[..., 4:8].abs().sum() == 0  # midpoints
    assert gradient[..., 12:].abs().sum() == 0  # boundary values


def test_joint_distribution_reads_as_the_weighted_sum_of_channels():
    distribution = make_return_distribution("joint", size=2, channels=2, weights=[1.0, -2.0])
    params = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert distribution.atoms(params).values.tolist() == [[-3.0, -5.0]]
    assert distribution.target_atoms(params).values.tolist() == [[[1.0, 2.0], [3.0, 4.0]]]
    assert distribution.mean(params).tolist() == [-4.0]
    bias = distribution.vectors(distribution.initial_bias())
    assert len(torch.unique(bias, dim=0)) == 2


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("quantil", {}, "did you mean 'quantile'"),
        ("quantile", {"v_min": 0}, "has no option 'v_min'"),
        ("quantile", {"size": 0}, "whole number of at least 1"),
        ("quantile", {"kappa": -1.0}, "at least 0"),
        ("categorical", {"v_min": 1, "v_max": 1}, "v_min < v_max"),
        ("categorical", {"spacing": "log"}, "unknown spacing"),
        ("gaussian", {"clip": 0.0}, "more than 0"),
        ("joint", {"channels": 2, "weights": [1.0]}, "1 weights for 2 channels"),
        ("joint", {"kernel": "rbf"}, "unknown kernel"),
    ],
)
def test_wrong_families(family, options, message):
    with pytest.raises(ConfigError, match=message):
        make_return_distribution(family, **options)
