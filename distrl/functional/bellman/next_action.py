"""Next-action rules of critic targets.

    target = reward_transform(reward) + discount * next distribution

A rule maps action values to an action or to weights of the next actions and, with entropy, to gains of their values.
It applies to any return distribution: weights mix distributions, gains shift them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distrl.base.errors import ConfigError
from distrl.base.registry import register
from distrl.functional.atoms import Atoms

#: Value of forbidden actions in an argmax.
FORBIDDEN = -torch.inf


class NextAction(NamedTuple):
    """Result of a next-action rule: one action of each row, or weights of all actions.

    Attributes:
        action: (N,) int64, or None.
        weight: (N, A) probabilities, or None.
        gain: (N, A), added to each action's return (an entropy bonus), or None.
    """

    action: Tensor | None = None
    weight: Tensor | None = None
    gain: Tensor | None = None


def allowed(values: Tensor, mask: Tensor | None) -> Tensor:
    """Set the values (..., A) of forbidden actions to -inf."""
    return values if mask is None else torch.where(mask, values, FORBIDDEN)


@register.next_action("greedy", paper="Human-level control through deep RL, Mnih et al. 2015")
def greedy(target: Tensor, online: Tensor, mask: Tensor | None = None, temperature: float = 0.0) -> NextAction:
    """Take the best action of the target network. Mnih et al. 2015."""
    return NextAction(action=allowed(target, mask).argmax(-1))


@register.next_action("double", paper="Deep RL with Double Q-learning, van Hasselt et al. 2016")
def double(target: Tensor, online: Tensor, mask: Tensor | None = None, temperature: float = 0.0) -> NextAction:
    """Take the best action of the online network, at its target value. van Hasselt et al. 2016."""
    return NextAction(action=allowed(online, mask).argmax(-1))


@register.next_action("soft", paper="Munchausen Reinforcement Learning, Vieillard et al. 2020, eq. 2")
def soft(target: Tensor, online: Tensor, mask: Tensor | None = None, temperature: float = 0.03) -> NextAction:
    """Weigh actions by softmax(Q / temperature), with the entropy bonus -temperature log pi."""
    logp = F.log_softmax(allowed(target, mask) / temperature, -1)
    weight = logp.exp()
    return NextAction(weight=weight, gain=torch.where(weight > 0, -temperature * logp, 0.0))


def take_action(params: Tensor, index: Tensor) -> Tensor:
    """Select one action of each row: (N, A, ...) and (N,) to (N, ...)."""
    return params[torch.arange(len(index), device=params.device), index]


def next_distribution(choice: NextAction, values: Tensor, probs: Tensor) -> Atoms:
    """Compute the distribution of the return after the next action, (N, M).

    Args:
        choice: Of a next-action rule; weighted actions give the mixture (N, A * M).
        values, probs: Atoms of every action, (N, A, M); values (N, A, M, K) for distributions of K reward channels.
    """
    if choice.action is not None:
        every = probs.expand(values.shape[:3])
        return Atoms(take_action(values, choice.action), take_action(every, choice.action))
    assert choice.weight is not None
    if choice.gain is not None:
        values = values + choice.gain.unsqueeze(-1)
    mixed = choice.weight.unsqueeze(-1) * probs
    return Atoms(values.flatten(1), mixed.expand(values.shape).flatten(1))


def munchausen(
    reward: Tensor,
    values: Tensor,
    action: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float = 0.9,
    temperature: float = 0.03,
    lowest: float = -1.0,
) -> Tensor:
    """Add the scaled log-probability of the action to the reward. Vieillard et al. 2020, eq. 3.

    r + scale * clip(temperature log pi(a|s), lowest, 0) with pi = softmax(Q / temperature).

    Args:
        values: Q of the target network at the same observation (N, A).
        mask: (N, A) bool.
        scale: The paper's alpha.
        lowest: The paper's l_0, which keeps the logarithm finite.
    """
    logp = F.log_softmax(allowed(values, mask) / temperature, -1).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)
    return reward + scale * (temperature * logp).clamp(lowest, 0.0)


def check_temperature(rule: str, temperature: float, munchausen_scale: float) -> None:
    """Refuse a temperature of zero for rules with entropy."""
    if temperature <= 0 and (rule == "soft" or munchausen_scale > 0):
        raise ConfigError(
            f"algorithm.temperature is {temperature:g}, but soft and Munchausen targets divide by it.",
            "For example algorithm.temperature=0.03.",
        )
