"""Warnings about return distributions on too narrow a grid."""

from __future__ import annotations

import torch

from distrl.functional.distributions.base import make_return_distribution
from distrl.learning.support_watch import SupportWatch


def test_a_support_that_cannot_hold_the_returns_is_told_once():
    watch = SupportWatch(make_return_distribution("categorical", v_min=0, v_max=100))
    watch.observe(torch.tensor([[1.0, 50.0]]))
    assert watch.warnings() == []
    watch.observe(torch.tensor([[-3.0, 250.0]]))
    (text,) = watch.warnings()
    assert "returns from -3 to 250 do not fit into the support from v_min 0 to v_max 100" in text
    assert watch.warnings() == []
    for free in (SupportWatch(make_return_distribution("quantile")), SupportWatch(None)):
        free.observe(torch.tensor([1e9]))
        assert free.warnings() == []
