"""Observation normalization."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from distrl.models.layers.normalizer import Normalizer

VECTOR = spaces.Box(-1, 1, (3,))
NEST = spaces.Dict(
    a=spaces.Box(-1, 1, (2, 2), np.float64),
    b=spaces.Discrete(4),
    c=spaces.Tuple((spaces.Box(0, 255, (2,), np.uint8), spaces.Box(-1, 1, ()))),
)


def test_matches_the_formula_in_float64():
    rng = np.random.default_rng(0)
    normalizer = Normalizer(VECTOR, clip=2.0)
    mean, var = rng.normal(size=3) * 10, rng.random(3) + 0.1
    normalizer.load(mean, var, 100)
    obs = rng.normal(size=(50, 3)) * 3 + mean
    expected = np.clip((obs - mean) / np.sqrt(var + 1e-8), -2, 2)
    result = normalizer(torch.from_numpy(obs))
    assert result.dtype == torch.float32
    assert (np.abs(expected) == 2).any()
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-5)
    lead = normalizer(torch.from_numpy(obs.reshape(5, 10, 3)))
    torch.testing.assert_close(lead.reshape(50, 3), result)


def test_starts_as_identity_and_has_no_parameters():
    normalizer = Normalizer(VECTOR)
    obs = torch.randn(4, 3)
    torch.testing.assert_close(normalizer(obs), obs)
    assert list(normalizer.parameters()) == []
    state = normalizer.state_dict()
    assert set(state) == {"mean", "var", "count"}
    assert all(tensor.dtype == torch.float64 for tensor in state.values())
    assert state["count"] == 1e-4


def test_tree_touches_only_real_leaves():
    normalizer = Normalizer(NEST)
    assert normalizer.size == 5
    normalizer.load(np.arange(5.0), np.full(5, 4.0), 1)
    obs = {
        "a": torch.ones(3, 2, 2, dtype=torch.float64),
        "b": torch.tensor([0, 1, 2]),
        "c": (torch.full((3, 2), 7, dtype=torch.uint8), torch.ones(3)),
    }
    result = normalizer(obs)
    assert result["b"] is obs["b"]
    assert result["c"][0] is obs["c"][0]
    torch.testing.assert_close(result["a"][0], torch.tensor([[0.5, 0.0], [-0.5, -1.0]]))
    torch.testing.assert_close(result["c"][1], torch.full((3,), -1.5))


def test_rows_are_in_the_order_of_the_statistics():
    normalizer = Normalizer(NEST)
    obs = {
        "a": np.arange(24.0).reshape(3, 2, 2, 2),
        "b": np.zeros((3, 2), int),
        "c": (np.zeros((3, 2, 2), np.uint8), np.arange(6.0).reshape(3, 2)),
    }
    rows = normalizer.rows(obs)
    assert rows.shape == (6, 5)
    assert rows.dtype == np.float64
    assert rows[4].tolist() == [16, 17, 18, 19, 4]
    normalizer.load(rows.mean(0), rows.var(0), len(rows))
    result = normalizer(
        {"a": torch.from_numpy(obs["a"]), "b": torch.zeros(3, 2), "c": (None, torch.from_numpy(obs["c"][1]))}
    )
    assert result["a"].mean((0, 1)).abs().max() < 1e-6
    assert abs(result["c"][1].std(correction=0) - 1) < 1e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_disabled_only_makes_float32(dtype):
    normalizer = Normalizer(spaces.Box(-1, 1, (3,), dtype), enabled=False)
    assert normalizer.state_dict() == {}
    obs = torch.full((2, 3), 50.0, dtype=torch.float64 if dtype == np.float64 else torch.float32)
    result = normalizer(obs)
    assert torch.equal(result, torch.full((2, 3), 50.0))
    assert result.dtype == torch.float32


def test_spaces_without_real_numbers_pass():
    normalizer = Normalizer(spaces.Discrete(3))
    obs = torch.tensor([1, 2])
    assert normalizer(obs) is obs
    assert not normalizer.enabled


def test_loading_a_state_dict_refreshes():
    source, target = Normalizer(VECTOR), Normalizer(VECTOR)
    source.load([1.0, 2.0, 3.0], [4.0, 4.0, 4.0], 5)
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target(torch.ones(1, 3)), source(torch.ones(1, 3)))
    torch.testing.assert_close(target(torch.ones(1, 3)), torch.tensor([[0.0, -0.5, -1.0]]))
