"""Next-action rules and reward transforms by hand."""

from __future__ import annotations

import math

import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.functional.atoms import atoms_mean
from distrl.functional.bellman.next_action import check_temperature, munchausen, next_distribution, soft

TARGET = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 5.0]], dtype=torch.float64)
ONLINE = torch.tensor([[3.0, 2.0, 9.0], [0.0, 1.0, -5.0]], dtype=torch.float64)
MASK = torch.tensor([[True, False, True], [True, True, False]])


def distribution(rule: str, mask: torch.Tensor | None = None, temperature: float = 0.5) -> torch.Tensor:
    choice = register.get("next_action", rule)(TARGET, ONLINE, mask, temperature)
    return atoms_mean(*next_distribution(choice, TARGET.unsqueeze(-1), torch.ones(2, 3, 1, dtype=torch.float64)))


def test_greedy_and_double():
    assert distribution("greedy").tolist() == [2.0, 5.0]
    assert distribution("double").tolist() == [0.0, -1.0]
    assert distribution("greedy", MASK).tolist() == [1.0, 0.0]
    assert distribution("double", MASK).tolist() == [0.0, -1.0]


@pytest.mark.parametrize("masked", [False, True])
def test_soft_is_the_log_sum_of_exponentials(masked: bool):
    """E_pi[Q - T log pi] = T logsumexp(Q / T) for pi = softmax(Q / T)."""
    values = TARGET.masked_fill(~MASK, -math.inf) if masked else TARGET
    expected = 0.5 * torch.logsumexp(values / 0.5, -1)
    torch.testing.assert_close(distribution("soft", MASK if masked else None), expected)
    choice = soft(TARGET, ONLINE, MASK, 0.5)
    assert choice.weight is not None
    assert torch.equal(choice.weight[~MASK], torch.zeros(2, dtype=torch.float64))


def test_distributions_of_weighted_actions_are_mixtures():
    values = torch.randn(2, 3, 4, dtype=torch.float64)
    probs = torch.rand(2, 3, 4, dtype=torch.float64)
    probs = probs / probs.sum(-1, keepdim=True)
    choice = soft(TARGET, ONLINE, None, 1.0)
    mixed = next_distribution(choice, values, probs)
    assert mixed.values.shape == (2, 12)
    torch.testing.assert_close(mixed.probs.sum(-1), torch.ones(2, dtype=torch.float64))
    assert choice.weight is not None
    assert choice.gain is not None
    expected = (choice.weight * (atoms_mean(values, probs) + choice.gain)).sum(-1)
    torch.testing.assert_close(atoms_mean(*mixed), expected)


def test_one_action_of_a_joint_distribution_keeps_its_channels():
    values = torch.arange(2 * 3 * 4 * 2).view(2, 3, 4, 2).double()
    choice = register.get("next_action", "greedy")(TARGET, ONLINE)
    chosen = next_distribution(choice, values, torch.full((2, 3, 4), 0.25))
    assert torch.equal(chosen.values, torch.stack((values[0, 1], values[1, 2])))
    assert chosen.probs.shape == (2, 4)


def test_munchausen_by_hand():
    values = torch.tensor([[0.0, 0.0], [0.0, 10.0]])
    reward, action = torch.tensor([1.0, 1.0]), torch.tensor([0, 0])
    found = munchausen(reward, values, action, scale=0.9, temperature=0.5, lowest=-1.0)
    assert found.tolist() == pytest.approx([1.0 + 0.9 * 0.5 * math.log(0.5), 1.0 - 0.9])


def test_entropy_needs_a_temperature():
    check_temperature("greedy", 0.0, 0.0)
    for rule, scale in (("soft", 0.0), ("greedy", 0.9)):
        with pytest.raises(ConfigError, match="divide by it"):
            check_temperature(rule, 0.0, scale)
