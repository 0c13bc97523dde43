"""Maps of values, and rewards in channels."""

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
    make_value_map,
    signed_channels,
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
