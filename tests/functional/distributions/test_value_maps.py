"""Maps of values, and rewards in channels (entry 11)."""

from __future__ import annotations

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.functional.distributions.value_maps import (
    Identity,
    LogMap,
    SquareRoot,
    Symlog,
    banded_channels,
    compose,
    make_value_map,
    mapped_target,
    signed_channels,
    two_rate_update,
)


@pytest.mark.parametrize("value_map", [Identity(), Symlog(), SquareRoot(), LogMap(0.99), LogMap(0.9, k=50)])
def test_maps_are_increasing_and_invertible(value_map):
    x = torch.linspace(0, 100, 2001, dtype=torch.float64)
    if not isinstance(value_map, LogMap):
        x = torch.cat((-x.flip(0)[:-1], x))
    y = value_map.forward(x)
    assert (y.diff() > 0).all()
    torch.testing.assert_close(value_map.inverse(y), x, rtol=0, atol=1e-5)
    assert value_map.forward(torch.zeros((), dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)


def test_names():
    assert isinstance(make_value_map("log", gamma=0.9), LogMap)
    with pytest.raises(ConfigError, match="did you mean 'symlog'"):
        make_value_map("simlog")
    with pytest.raises(ConfigError, match="gamma between 0 and 1"):
        make_value_map("log", gamma=1.0)


def test_channels_add_up_to_the_reward():
    reward = torch.tensor([-2.0, 0.0, 3.0, 0.5, -0.5, 1.0])
    for channels, weights in (signed_channels(reward), banded_channels(reward, [1.0])):
        assert (channels >= 0).all()
        torch.testing.assert_close(channels @ torch.tensor(weights), reward)
    bands, weights = banded_channels(reward, [1.0])
    assert weights == (1.0, 1.0, -1.0, -1.0)
    assert bands[2].tolist() == [0, 3, 0, 0]
    assert bands[3].tolist() == [0.5, 0, 0, 0]
    assert bands[0].tolist() == [0, 0, 0, 2]


def test_tabular_update_with_the_identity_is_q_learning():
    found = two_rate_update(torch.tensor(1.0), torch.tensor(3.0), Identity(), 0.5, 0.2)
    assert found.item() == pytest.approx(1.2)


def test_tabular_update_averages_returns_not_logarithms():
    """Rewards 0 or 2 with equal chance: the value is 1, where averaging in the mapped space would give less."""
    value_map = LogMap(0.9, k=20)
    generator = torch.Generator().manual_seed(0)
    mapped = value_map.forward(torch.tensor(1.0, dtype=torch.float64))
    total = 0.0
    for reward in 2.0 * torch.randint(0, 2, (4000,), generator=generator).double():
        mapped = two_rate_update(mapped, reward, value_map, 0.01, 0.5)
        total += value_map.inverse(mapped).item()
    assert total / 4000 == pytest.approx(1.0, abs=0.05)
    wrong = value_map.inverse(value_map.forward(torch.tensor([0.0, 2.0])).mean()).item()
    assert wrong < 0.7


def test_deep_target_maps_the_one_step_return_of_each_channel():
    maps = [LogMap(0.9, k=50), Identity()]
    q = torch.tensor([[4.0, 2.0]], dtype=torch.float64)
    mapped = torch.stack([f.forward(x) for f, x in zip(maps, q.unbind(-1), strict=True)], -1)
    torch.testing.assert_close(compose(mapped, maps, (1.0, -1.0)), torch.tensor([2.0], dtype=torch.float64))
    channels = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    target = mapped_target(channels, torch.tensor([0.5], dtype=torch.float64), mapped, maps)
    assert maps[0].inverse(target[:, 0]).item() == pytest.approx(3.0)
    assert target[0, 1].item() == pytest.approx(1.5)
