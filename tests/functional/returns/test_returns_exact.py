"""Numbers worked out by hand, and the identities between estimators."""

from __future__ import annotations

import pytest
import torch

from distrl.functional.returns.state_values import Steps, gae, lambda_returns, next_values, vtrace


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def flags(*values: bool) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def near(found: torch.Tensor, *numbers: float) -> None:
    assert found[:, 0].tolist() == pytest.approx(list(numbers), abs=1e-12)


THREE = Steps(column(1, 1, 1), column(0.5, 0.5, 0.5), column(0.5, 0.5, 0.5), flags(*[False] * 3), flags(*[False] * 3))
YES, NO = flags(True), flags(False)


@pytest.mark.parametrize(
    ("terminated", "truncated", "delta"), [(NO, YES, 10.0), (YES, NO, 1.0), (YES, YES, 1.0), (NO, NO, 10.0)]
)
def test_truncation_bootstraps_and_termination_does_not(terminated, truncated, delta):
    # r = 1, V(s) = 0, V(s_final) = 10, gamma = .9: 1 + .9 * 10, or 1; where both flags hold, termination wins
    step = Steps(column(1), column(0), column(10), terminated, truncated)
    near(gae(step, 0.9, 0.5)[0], delta)
    near(lambda_returns(step, 0.9, 0.5), delta)
    near(vtrace(step, column(0), 0.9).vs, delta)
    near(vtrace(step, column(0), 0.9).advantage, delta)


def test_gae_by_hand():
    # delta = .95 each; A_1 = .95 + .72 * .95 = 1.634; A_0 = .95 + .72 * 1.634 = 2.12648
    advantage, target = gae(THREE, 0.9, 0.8)
    near(advantage, 2.12648, 1.634, 0.95)
    near(target, 2.62648, 2.134, 1.45)


def test_gae_with_lam_1_and_lam_0_by_hand():
    # lam 1: 1 + .9 + .81 + .729 * .5 - .5 = 2.5745; one step later 1 + .9 + .81 * .5 - .5 = 1.805
    near(gae(THREE, 0.9, 1.0)[0], 2.5745, 1.805, 0.95)
    near(gae(THREE, 0.9, 0.0)[0], 0.95, 0.95, 0.95)


def test_the_trace_stops_at_a_truncation_and_the_bootstrap_does_not():
    # step 1 was cut by a time limit before a state worth 10: delta = (.95, 1 + 9 - .5, .95)
    next_value = next_values(column(0.5, 0.5, 0.5), torch.tensor([0.5]).double(), torch.tensor([10.0]), INDEX)
    near(next_value, 0.5, 10.0, 0.5)
    batch = Steps(*THREE[:2], next_value, THREE[3], flags(False, True, False))
    near(gae(batch, 0.9, 0.8)[0], 0.95 + 0.72 * 9.5, 9.5, 0.95)
    near(lambda_returns(batch, 0.9, 1.0), 1 + 0.9 * 10.0, 10.0, 1.45)


INDEX = torch.tensor([[1, 0]])


def test_next_values_without_truncations_is_a_shift():
    value = torch.arange(6.0).reshape(3, 2)
    none = torch.zeros(0), torch.zeros((0, 2), dtype=torch.int64)
    found = next_values(value, torch.tensor([8.0, 9.0]), *none)
    assert found.tolist() == [[2.0, 3.0], [4.0, 5.0], [8.0, 9.0]]
    assert value.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]


def test_vtrace_by_hand():
    # rho = (1, .5), c = (1, .5): vs_1 = .5 (1 + .9) = .95, vs_0 = 1 + .9 * .95 = 1.855
    batch = Steps(column(1, 1), column(0, 0), column(0, 1), flags(False, False), flags(False, False))
    found = vtrace(batch, column(2, 0.5).log(), 0.9)
    near(found.vs, 1.855, 0.95)
    near(found.advantage, 1.855, 0.95)
    near(found.rho, 1.0, 0.5)


def test_vtrace_weights_of_values_and_of_the_policy_gradient_are_apart():
    batch = Steps(column(1, 1), column(0, 0), column(0, 1), flags(False, False), flags(False, False))
    found = vtrace(batch, column(2, 0.5).log(), 0.9, rho_bar=1.0, pg_rho_bar=3.0)
    near(found.vs, 1.855, 0.95)
    near(found.advantage, 2 * 1.855, 0.95)


def test_on_policy_vtrace_is_the_return_of_all_steps():
    # r_0 + g r_1 + g^2 V = 1 + .9 + .81 * 2
    batch = Steps(column(1, 1), column(0.3, 0.7), column(0.7, 2), flags(False, False), flags(False, False))
    near(vtrace(batch, column(0, 0), 0.9).vs, 3.52, 2.8)


def test_on_policy_vtrace_across_a_truncation():
    """The final observation's value, not the next row's target, follows a truncated step."""
    batch = Steps(column(1, 1), column(0.5, 3.0), column(4.0, 2.0), flags(False, False), flags(True, False))
    found = vtrace(batch, column(0, 0), 0.9)
    near(found.vs, 1 + 0.9 * 4.0, 1 + 0.9 * 2.0)
    near(found.advantage, 4.6 - 0.5, 2.8 - 3.0)


def test_huge_ratios_stay_finite():
    batch = Steps(column(1), column(0), column(1), NO, NO)
    near(vtrace(batch, column(2000.0), 0.9).vs, 1.9)


def test_gradients_stop_at_the_estimators():
    value = torch.full((3, 1), 0.5, dtype=torch.float64, requires_grad=True)
    advantage, target = gae(Steps(THREE.reward, value, value, *THREE[3:]), 0.9, 0.8)
    assert not advantage.requires_grad
    assert not target.requires_grad
    assert not vtrace(Steps(THREE.reward, value, value, *THREE[3:]), value, 0.9).vs.requires_grad
