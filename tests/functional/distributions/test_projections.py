"""Projection of distributions onto grids."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError
from distrl.functional.atoms import atoms_mean
from distrl.functional.distributions.projections import (
    make_grid,
    project_categorical,
    project_to_grid,
    spread_dense,
    two_hot,
)


def slow_projection(values, probs, grid):
    """Shares between floor and ceiling, everything to one atom where they meet."""
    step = (grid[-1] - grid[0]) / (len(grid) - 1)
    mass = torch.zeros(len(grid), dtype=probs.dtype)
    for value, prob in zip(values, probs, strict=True):
        place = (value.clamp(grid[0], grid[-1]) - grid[0]) / step
        lower, upper = int(place.floor()), int(place.ceil())
        if lower == upper:
            mass[lower] += prob
        else:
            mass[lower] += prob * (upper - place)
            mass[upper] += prob * (place - lower)
    return mass


def test_exact_numbers():
    """A worked example, and exact hits."""
    next_values = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    probs = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    found = project_categorical(0.25 + 0.5 * next_values, probs, 0, 2, 3)
    torch.testing.assert_close(found, torch.tensor([0.225, 0.65, 0.125], dtype=torch.float64))
    assert project_categorical(torch.ones(3), torch.full((3,), 1 / 3), 0, 2, 3).tolist() == pytest.approx([0, 1, 0])
    on_51 = project_categorical(torch.tensor([[2.0], [1.0]]), torch.ones(2, 1), -10, 10, 51)
    assert on_51[0, 30].item() == pytest.approx(1, abs=1e-5)
    assert on_51[1, 27:29].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


def test_mass_and_mean_are_kept_for_a_thousand_random_distributions():
    generator = torch.Generator().manual_seed(0)
    grid = make_grid(-10, 10, 51)
    reward = 8 * torch.rand(1000, 1, generator=generator, dtype=torch.float64) - 4
    keep = (torch.rand(1000, 1, generator=generator) > 0.3).double()
    probs = torch.rand(1000, 51, generator=generator, dtype=torch.float64).softmax(-1)
    values = reward + 0.5 * keep * grid
    found = project_categorical(values, probs, -10, 10, 51)
    torch.testing.assert_close(found.sum(-1), torch.ones(1000, dtype=torch.float64))
    torch.testing.assert_close(found @ grid, atoms_mean(values, probs))
    torch.testing.assert_close(project_to_grid(values, probs, grid), found)
    for row in range(20):
        torch.testing.assert_close(found[row], slow_projection(values[row], probs[row], grid))


def test_the_form_for_gpus_gives_the_same():
    place = 6 * torch.rand(40, 9, dtype=torch.float64)
    place[:, :3] = place[:, :3].round()
    probs = torch.rand(40, 9, dtype=torch.float64)
    torch.testing.assert_close(spread_dense(place, probs, 7), project_categorical(place, probs, 0, 6, 7))


@given(st.lists(st.floats(-2e4, 2e4), min_size=1, max_size=5))
def test_two_hot_keeps_the_mean_inside_any_grid(numbers):
    grid = make_grid(-1e4, 1e4, 101, "symlog")
    values = torch.tensor(numbers, dtype=torch.float64)
    probs = two_hot(values, grid)
    assert ((probs > 0).sum(-1) <= 2).all()
    assert (probs >= 0).all()
    torch.testing.assert_close(probs @ grid, values.clamp(-1e4, 1e4), rtol=1e-9, atol=1e-8)


def test_gradients_flow_to_probabilities_and_values():
    values = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    probs = torch.rand(2, 4, dtype=torch.float64).softmax(-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, p: project_categorical(v, p, -3, 3, 8), (values, probs))


@pytest.mark.parametrize("wrong", [(0, 0, 5, "linear"), (0, 1, 1, "linear"), (0, 1, 5, "log")])
def test_grids_that_cannot_be(wrong):
    with pytest.raises(ConfigError):
        make_grid(*wrong)
