"""Small MDPs with known return distributions, registered as `distrl/Chain3-v0` etc."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from distrl.base.errors import ConfigError
from distrl.control.envs.library.tabular import TabularEnv, TabularMDP


def _chain(rewards: list[list[tuple[float, float]]], stds: list[float] | None, length: int, gamma: float) -> TabularMDP:
    """Make `length` states passed in order; actions have (reward, probability) outcomes."""
    actions, width = len(rewards), max(len(row) for row in rewards)
    shape = (length + 1, actions, width)
    probs, reward = np.zeros(shape), np.zeros(shape)
    probs[length, :, 0] = 1.0
    for a, row in enumerate(rewards):
        for m, (value, prob) in enumerate(row):
            reward[:length, a, m], probs[:length, a, m] = value, prob
    following = np.minimum(np.arange(length + 1) + 1, length)
    next_state = np.broadcast_to(following[:, None, None], shape).copy()
    std = None if stds is None else np.broadcast_to(np.asarray(stds)[None, :, None], shape).copy()
    first = np.eye(length + 1)[0]
    return TabularMDP(probs, reward, next_state, np.arange(length + 1) == length, first, gamma, std)


#: Rewards and probabilities of the actions of `chain3`: surely 1, or a gamble with the larger mean 1.6.
CHAIN3 = [[(1.0, 1.0)], [(0.0, 0.6), (4.0, 0.4)]]


def chain3(gamma: float = 0.9) -> TabularMDP:
    """Make three states in a row; action 0 pays 1, action 1 pays 4 with probability 0.4, else 0."""
    return _chain(CHAIN3, None, 3, gamma)


#: Mean and standard deviation of the rewards of `gaussian_chain`.
GAUSSIAN_CHAIN = [(1.0, 0.5), (1.5, 1.5)]


def gaussian_chain(gamma: float = 0.9) -> TabularMDP:
    """Make three states in a row; action 0 pays N(1, 0.5^2) and action 1 N(1.5, 1.5^2)."""
    return _chain([[(mean, 1.0)] for mean, _ in GAUSSIAN_CHAIN], [std for _, std in GAUSSIAN_CHAIN], 3, gamma)


def two_channels(gamma: float = 1.0) -> TabularMDP:
    """Make two reward channels whose joint distribution alone depends on the action.

    The first action leads to state 1 or 2, where with a fair x in {-1, 1} the channels pay (x, -x) or (x, x).
    """
    probs, reward = np.zeros((4, 2, 2)), np.zeros((4, 2, 2, 2))
    probs[[0, 3], :, 0] = 1.0
    probs[1:3] = 0.5
    x = np.array([-1.0, 1.0])
    reward[1, :] = np.stack([x, -x], -1)
    reward[2, :] = np.stack([x, x], -1)
    next_state = np.full((4, 2, 2), 3)
    next_state[0, 0], next_state[0, 1] = 1, 2
    return TabularMDP(probs, reward, next_state, np.arange(4) == 3, np.eye(4)[0], gamma, weights=np.ones(2))


#: Rewards and probabilities of the start and of the two actions of `risky_choice`.
LOTTERY = [(0.0, 0.8), (-8.0, 0.2)]
SAFE, RISKY = [(-3.0, 1.0)], [(0.0, 0.9), (-20.0, 0.1)]


def risky_choice() -> TabularMDP:
    """Make a forced lottery, then a choice between a sure loss and a risky one.

    The lottery costs 0 or (probability 0.2) 8, which only a stock reveals. Then action 0 costs 3, and action 1 costs 0
    or (probability 0.1) 20. With discount 1 the best CVaR at level 0.2 of the whole episode is -10 (safe after 0, risky
    after -8); always safe has -11, always risky -14.8.
    """
    probs, reward = np.zeros((3, 2, 2)), np.zeros((3, 2, 2))
    for s, actions in enumerate(([LOTTERY, LOTTERY], [SAFE, RISKY], [[(0.0, 1.0)]] * 2)):
        for a, outcomes in enumerate(actions):
            for m, (value, prob) in enumerate(outcomes):
                reward[s, a, m], probs[s, a, m] = value, prob
    next_state = np.broadcast_to(np.array([1, 2, 2])[:, None, None], probs.shape).copy()
    return TabularMDP(probs, reward, next_state, np.arange(3) == 2, np.eye(3)[0])


def halving() -> TabularMDP:
    """Make an endless state: action 0 pays 0 or 1 evenly, action 1 pays 0.25; discount 1/2.

    The return of always taking action 0 is sum 2^-t x_t with fair bits x_t: uniform on [0, 2].
    """
    probs = np.array([[[0.5, 0.5], [1.0, 0.0]]])
    reward = np.array([[[0.0, 1.0], [0.25, 0.0]]])
    return TabularMDP(probs, reward, np.zeros((1, 2, 2), np.int64), np.zeros(1, bool), np.ones(1), 0.5)


def ring(states: int = 10, noise: float = 1.0, degrees: float = 2.0, gamma: float = 0.9) -> TabularMDP:
    """Make a ring of S states walked in one direction: state s pays cos(2 pi s / S) plus noise."""
    s = np.arange(states)
    reward = np.cos(2.0 * np.pi * s / states)[:, None, None]
    return TabularMDP(
        np.ones((states, 1, 1)), reward, ((s + 1) % states)[:, None, None], np.zeros(states, bool),
        np.full(states, 1.0 / states), gamma, np.full((states, 1, 1), noise), degrees,
    )  # fmt: skip


MDPS: dict[str, Callable[..., TabularMDP]] = {
    make.__name__: make for make in (chain3, gaussian_chain, two_channels, risky_choice, halving, ring)
}


def make_tabular(
    mdp: str, observation: Literal["one_hot", "index"] = "one_hot", render_mode: str | None = None, **parameters: Any
) -> TabularEnv:
    """Make the environment of an MDP by name; `parameters` are those of its function."""
    if mdp not in MDPS:
        raise ConfigError(f"no tabular MDP {mdp!r}.", f"Known: {', '.join(MDPS)}.")
    return TabularEnv(MDPS[mdp](**parameters), observation, render_mode)
