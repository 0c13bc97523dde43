"""Risk measures: exact numbers, closed forms, gradients, distortions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.functional.atoms import equal_probs, midpoints
from distrl.functional.risk.measures import make_risk

FOUR = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
NAMES = [method.name for method in register.methods("risk")]
DISTORTIONS = ["mean", "cvar", "wang", "cpw", "power", "norm", "mixed_var"]

numbers = st.floats(-20, 20, allow_nan=False)
distributions = st.lists(st.tuples(numbers, st.floats(0.05, 1)), min_size=1, max_size=8)


def distribution(pairs):
    values, weights = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    return values, weights / weights.sum()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mean", {}, 2.5),
        ("cvar", {"level": 0.5}, 1.5),
        ("cvar", {"level": 0.25}, 1.0),
        ("cvar", {"level": 0.6}, 1.75),
        ("cvar", {"level": 1.0}, 2.5),
        ("wang", {"eta": -0.75}, 1.7737),
        ("power", {"eta": -2.0}, 1.5625),
        ("power", {"eta": 2.0}, 3.4375),
        ("entropic", {"beta": -1.0}, 1.9461),
        ("entropic", {"beta": 0.0}, 2.5),
        ("entropic", {"beta": -1e-6}, 2.5),
        ("mean_variance", {"weight": 0.5}, 1.875),
        ("var", {"level": 0.25}, 1.0),
        ("var", {"level": 0.26}, 2.0),
        ("norm", {"count": 1}, 2.5),
        ("cpw", {"curvature": 1.0}, 2.5),
    ],
)
def test_exact_numbers(name, options, expected):
    """Closed forms."""
    measure = make_risk(name, **options)
    assert measure(FOUR, equal_probs(FOUR)).item() == pytest.approx(expected, abs=5e-5)
    assert measure(FOUR[[2, 0, 3, 1]], equal_probs(FOUR)).item() == pytest.approx(expected, abs=5e-5)


def test_wang_weights_and_cpw_levels():
    wang = make_risk("wang", eta=-0.75)
    assert wang.weights(equal_probs(FOUR)).tolist() == pytest.approx([0.5301, 0.2433, 0.1495, 0.0772], abs=1e-4)
    levels = make_risk("cpw").distort(torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=torch.float64))
    assert levels.tolist() == pytest.approx([0.1656, 0.2929, 0.4606, 0.6389, 0.7881], abs=1e-4)


def test_mixed_var_is_the_weighted_mean_of_lower_tail_and_middle():
    ten = torch.arange(1.0, 11.0, dtype=torch.float64)
    tail, middle = 1.5, 5.5  # means of the lowest 2, and of numbers 3 to 8
    found = make_risk("mixed_var", low=0.2, high=0.8, weight=1.5)(ten, equal_probs(ten))
    assert found.item() == pytest.approx((1.5 * tail + middle) / 2.5)
    # the upper tail has no say
    higher = ten.clone()
    higher[8:] += 100
    assert make_risk("mixed_var")(higher, equal_probs(ten)).item() == pytest.approx(found.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("wang", {"eta": -0.75}, 3 - 0.75 * 2),
        ("wang", {"eta": 0.75}, 3 + 0.75 * 2),
        ("cvar", {"level": 0.1}, 3 - 1.75498 * 2),
        ("cvar", {"level": 0.25}, 3 - 1.27111 * 2),
        ("entropic", {"beta": -0.5}, 3 - 0.5 * 4 / 2),
        ("mean_variance", {"weight": 0.25}, 3 - 0.25 * 4),
        ("var", {"level": 0.1}, 3 - 1.28155 * 2),
        ("norm", {"count": 3}, 3.0),
    ],
)
def test_closed_forms_of_a_normal_distribution(name, options, expected, dtype):
    values = 3 + 2 * torch.special.ndtri(midpoints(20000, torch.zeros((), dtype=dtype)))
    assert make_risk(name, **options)(values, equal_probs(values)).item() == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_distortion_and_its_sampling_map_are_inverse_and_agree(name):
    """E F^-1(beta(tau)) for uniform tau is the same functional (the acting rule of IQN)."""
    measure = make_risk(name)
    level = torch.linspace(0.001, 0.99, 200, dtype=torch.float64)
    inside = measure.weigh(level) < 1 - 1e-9  # beyond, g is flat and has no inverse
    back = measure.distort(measure.weigh(level[inside]))
    torch.testing.assert_close(back, level[inside], rtol=0, atol=1e-6)
    tau = midpoints(200_000, level)
    sampled = torch.special.ndtri(measure.distort(tau)).mean()
    fine = torch.special.ndtri(midpoints(20_000, level))
    assert sampled.item() == pytest.approx(measure(fine, equal_probs(fine)).item(), abs=2e-3)


def test_value_at_risk_reads_one_level():
    assert make_risk("var", level=0.3).distort(torch.rand(4)).tolist() == pytest.approx([0.3] * 4)


@given(distributions, st.sampled_from(NAMES), st.floats(-5, 5))
def test_translation_bounds_and_weights(pairs, name, shift):
    values, probs = distribution(pairs)
    measure = make_risk(name)
    found = measure(values, probs)
    torch.testing.assert_close(measure(values + shift, probs), found + shift, rtol=1e-6, atol=1e-6)
    weights = measure.risk_probs(values, probs)
    assert weights.sum().item() == pytest.approx(1, abs=1e-9)
    if measure.is_distortion:
        assert (weights >= 0).all()
        torch.testing.assert_close((weights * values).sum(), found)
        torch.testing.assert_close(measure(3 * values, probs), 3 * found, rtol=1e-6, atol=1e-6)
        assert values.min() - 1e-9 <= found <= values.max() + 1e-9


@given(distributions, st.floats(0.01, 1))
def test_cvar_is_rockafellar_and_uryasevs_maximum(pairs, level):
    values, probs = distribution(pairs)
    best = max(float(b + (probs * (values - b).clamp(max=0)).sum() / level) for b in values)
    assert make_risk("cvar", level=level)(values, probs).item() == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_risk_probs_are_the_gradient(name):
    values = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    probs = torch.rand(3, 6, dtype=torch.float64).softmax(-1)
    measure = make_risk(name)
    (gradient,) = torch.autograd.grad(measure(values, probs).sum(), values)
    torch.testing.assert_close(measure.risk_probs(values, probs), gradient, rtol=1e-6, atol=1e-9)
    assert torch.autograd.gradcheck(lambda v: measure(v, probs), values)
    ascending = values.detach().sort(-1).values
    torch.testing.assert_close(measure.risk_probs(ascending, probs, ordered=True), measure.risk_probs(ascending, probs))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "var"])
def test_gradient_by_probabilities(name):
    """The terms of a categorical head's policy gradient."""
    logits = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    values = torch.linspace(-2, 3, 6, dtype=torch.float64).expand(2, 6)
    assert torch.autograd.gradcheck(lambda x: make_risk(name)(values, x.softmax(-1), ordered=True), logits)


@pytest.mark.parametrize("name", NAMES)
def test_equal_probabilities_as_a_view_and_written_out_give_the_same(name):
    values = torch.randn(4, 3, 10, dtype=torch.float64)
    measure, view = make_risk(name), equal_probs(values)
    torch.testing.assert_close(measure(values, view), measure(values, view.contiguous()))
    torch.testing.assert_close(measure.risk_probs(values, view), measure.risk_probs(values, view.contiguous()))


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_distribution_has_no_risk(name):
    """Equal quantiles give every distortion the same advantages."""
    values = torch.full((2, 8), 1.25)
    torch.testing.assert_close(make_risk(name)(values, equal_probs(values)), torch.full((2,), 1.25))


def test_risk_averse_acting_on_the_two_armed_bandit():
    """Arm B, 10 % -8 and else 2.2, has the higher mean; CVaR takes arm A, N(1, 0.1)."""
    safe = 1 + 0.1 * torch.special.ndtri(midpoints(100, torch.zeros(())))
    risky = torch.full((100,), 2.2)
    risky[:10] = -8.0
    arms = torch.stack((safe, risky))
    assert make_risk("mean")(arms, equal_probs(arms)).argmax() == 1
    assert make_risk("cvar", level=0.25)(arms, equal_probs(arms)).argmax() == 0


@pytest.mark.parametrize("level", [0.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["cvar", "var"])
def test_levels_outside_are_refused(name, level):
    with pytest.raises(ConfigError, match=r"expected a number in \(0, 1\]"):
        make_risk(name, level=level)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cvarr", {}, "did you mean 'cvar'"),
        ("cvar", {"alpha": 0.1}, "Its options: level"),
        ("mean", {"level": 0.1}, "It has none"),
        ("mixed_var", {"low": 0.8, "high": 0.2}, "expected low < high"),
        ("mixed_var", {"weight": -1.0}, "at least 0"),
        ("cpw", {"curvature": 0.1}, "from 0.3 to 1"),
        ("norm", {"count": 0}, "whole number from 1 to 10"),
        ("entropic", {"beta": float("inf")}, "finite"),
        ("wang", {"eta": float("nan")}, "finite"),
    ],
)
def test_wrong_measures(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make_risk(name, **options)


@pytest.mark.parametrize("name", ["mean_variance", "entropic"])
def test_only_distortions_distort(name):
    with pytest.raises(ConfigError, match="no distortion"):
        make_risk(name).distort(torch.rand(3))


@pytest.mark.parametrize("name", NAMES)
def test_float32_weights_stay_whole_with_many_atoms_and_empty_ends(name):
    probs = np.zeros(200, dtype=np.float32)
    probs[50:150] = 0.01
    values = torch.linspace(-10, 10, 200)
    weights = make_risk(name).risk_probs(values, torch.from_numpy(probs), ordered=True)
    assert weights.isfinite().all()
    assert weights.sum().item() == pytest.approx(1, abs=1e-4)
