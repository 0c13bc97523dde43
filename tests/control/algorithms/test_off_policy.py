"""Parts, targets, the guard against broken numbers, and states of off-policy algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distrl.base.errors import NonFiniteError
from distrl.base.pack import pack, unpack
from distrl.models.parameters.trained import TrainedModule
from tests.support.q_learners import make_batch, make_q, parameters

#: a network that is written out, one that is not, one whose head draws noise, and a chain
KINDS: list[dict[str, Any]] = [
    {"next_action": "double"},
    {"dueling": True, "noisy": True},
    {"name": "iqn", "prioritized": True},
    {"name": "iterated_q", "iterations": 2, "sync_interval": 2},
]


def steps(algorithm: Any, count: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    algorithm.begin_steps()
    for number in range(count):
        batch = make_batch(seed=seed + number)
        algorithm.update(batch, rng)
    algorithm.end_steps(batch)


def test_a_part_takes_adams_step_and_its_target_follows():
    torch.manual_seed(0)
    module, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(module.state_dict())
    part = TrainedModule(module, target=True)
    first = part.flat.data.clone()
    x = torch.randn(5, 3)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.1)
    for _ in range(3):
        norm = part.minimize(module(x).square().mean(), 0.1, max_norm=0.5)
        optimizer.zero_grad()
        plain(x).square().mean().backward()
        expected = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        assert float(norm) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(module.weight, plain.weight)
    assert torch.equal(part.target_flat.data, first)
    part.track(0.25)
    torch.testing.assert_close(part.target_flat.data, 0.75 * first + 0.25 * part.flat.data)
    part.track(1.0)
    assert torch.equal(part.target.weight, module.weight)
    assert not any(parameter.requires_grad for parameter in part.target.parameters())


def test_targets_move_when_they_are_due():
    algorithm = make_q(target_interval=3, hidden=(8,))
    part = algorithm.modules["policy"]
    before = part.target_flat.data.clone()
    steps(algorithm, 2)
    assert torch.equal(part.target_flat.data, before)
    steps(algorithm, 1)
    assert torch.equal(part.target_flat.data, part.flat.data)
    soft = make_q(tau=0.5, target_interval=1)
    part, before = soft.modules["policy"], soft.modules["policy"].target_flat.data.clone()
    steps(soft, 1)
    torch.testing.assert_close(part.target_flat.data, 0.5 * (before + part.flat.data))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_state_continues_bit_for_bit(kind: dict[str, Any]):
    first, second = make_q(**kind), make_q(**kind, seed=1)
    steps(first, 3)
    skeleton, arrays = pack(first.state())
    second.load_state(unpack(skeleton, arrays))
    for algorithm in (first, second):
        steps(algorithm, 4, seed=10)
    assert torch.equal(parameters(first), parameters(second))
    assert first.gradient_steps == second.gradient_steps == 7


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_broken_numbers_change_nothing(kind: dict[str, Any], after: int):
    algorithm = make_q(**kind, target_interval=1)
    steps(algorithm, after) if after else None
    state = algorithm.state()
    rng = np.random.default_rng(0)
    algorithm.begin_steps()
    algorithm.update(make_batch(), rng)
    bad = make_batch(reward=torch.full((8,), torch.nan))
    algorithm.update(bad, rng)
    with pytest.raises(NonFiniteError, match="'reward' holds 8 non-finite values of 8"):
        algorithm.end_steps(bad)
    restored = algorithm.state()
    assert restored["gradient_steps"] == state["gradient_steps"] == after
    for name, trained in state["modules"].items():
        assert trained["optimizer"].keys() == restored["modules"][name]["optimizer"].keys()
        assert all(torch.equal(trained[key], restored["modules"][name][key]) for key in ("data", "target"))
        for number, slot in trained["optimizer"].items():
            again = restored["modules"][name]["optimizer"][number]
            assert all(torch.equal(value, again[key]) for key, value in slot.items())
    steps(algorithm, 2)
    assert bool(torch.isfinite(parameters(algorithm)).all())


def test_only_the_policy_is_published():
    algorithm = make_q("iterated_q", iterations=2)
    published = algorithm.acting_model(algorithm.model).state_dict()
    assert all(name.startswith("policy.") for name in published)
    assert len(published) < len(algorithm.model.state_dict())
