"""Small MDPs whose return laws are known in closed form. Registered as `distrl/Chain3-v0` and so on.

Every law is that of the return from the first state, of the policy or the action that its function names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distrl.base.errors import ConfigError
from distrl.control.envs.library.return_law import ReturnLaw, independent_sum
from distrl.control.envs.library.tabular import TabularEnv, TabularMDP


def _chain(rewards: list[list[tuple[float, float]]], stds: list[float] | None, length: int, gamma: float) -> TabularMDP:
    """`length` states passed one after the other whatever is done; an action's reward is one of (reward, prob)."""
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


#: Reward and probability of what the actions of `chain3` pay: 1 for sure, or a gamble with the larger mean 1.6.
CHAIN3 = [[(1.0, 1.0)], [(0.0, 0.6), (4.0, 0.4)]]


def chain3(gamma: float = 0.9) -> TabularMDP:
    """Three states in a row; in each, action 0 pays 1 and action 1 pays 4 with probability 0.4, else nothing."""
    return _chain(CHAIN3, None, 3, gamma)


def chain3_law(actions: Sequence[int], gamma: float = 0.9) -> ReturnLaw:
    """The return of taking these actions, one after the other; fewer than 3 begin further down the chain."""
    laws = [ReturnLaw(*np.array(CHAIN3[a]).T) for a in actions]
    return independent_sum(laws, gamma)


#: Mean and standard deviation of what the actions of `gaussian_chain` pay.
GAUSSIAN_CHAIN = [(1.0, 0.5), (1.5, 1.5)]


def gaussian_chain(gamma: float = 0.9) -> TabularMDP:
    """Three states in a row; action 0 pays N(1, 0.5^2) and action 1 N(1.5, 1.5^2), so returns are normal."""
    return _chain([[(mean, 1.0)] for mean, _ in GAUSSIAN_CHAIN], [std for _, std in GAUSSIAN_CHAIN], 3, gamma)


def gaussian_chain_law(actions: Sequence[int], gamma: float = 0.9) -> ReturnLaw:
    """N(sum gamma^t mean_t, sum gamma^2t std_t^2)."""
    means, stds = np.array(GAUSSIAN_CHAIN)[list(actions)].T
    discount = gamma ** np.arange(len(actions))
    return ReturnLaw(np.array([discount @ means]), np.ones(1), np.array([np.sqrt(discount**2 @ stds**2)]))


def two_channels(gamma: float = 1.0) -> TabularMDP:
    """Two reward channels that only their joint law tells apart (the coin of entry 14).

    The first action leads, without reward, to state 1 or 2. Whatever is done there, a fair x in {-1, 1} is drawn and
    the channels pay (x, -x) in state 1 and (x, x) in state 2. Both actions have the same marginals.
    """
    probs, reward = np.zeros((4, 2, 2)), np.zeros((4, 2, 2, 2))
    probs[[0, 3], :, 0] = 1.0
    probs[1:3] = 0.5
    x = np.array([-1.0, 1.0])
    reward[1, :] = np.stack([x, -x], -1)
    reward[2, :] = np.stack([x, x], -1)
    next_state = np.full((4, 2, 2), 3)
    next_state[0, 0], next_state[0, 1] = 1, 2
    return TabularMDP(
        probs, reward, next_state, np.arange(4) == 3, np.eye(4)[0], gamma, weights=np.ones(2)
    )  # fmt: skip


def two_channels_law(action: int, gamma: float = 1.0) -> ReturnLaw:
    """The joint return of both channels after the first action: correlation -1 after action 0, +1 after action 1."""
    x = gamma * np.array([-1.0, 1.0])
    return ReturnLaw(np.stack([x, -x if action == 0 else x], -1), np.full(2, 0.5))


#: What the start and the two actions of `risky_choice` pay: (reward, probability).
LOTTERY = [(0.0, 0.8), (-8.0, 0.2)]
SAFE, RISKY = [(-3.0, 1.0)], [(0.0, 0.9), (-20.0, 0.1)]


def risky_choice() -> TabularMDP:
    """A lottery that nobody escapes, then a choice between a sure loss and a risky one (entry 15).

    The lottery costs 0 or (probability 0.2) 8, and the next observation does not tell which: only a stock does. Then
    action 0 costs 3 and action 1 costs 0 or (probability 0.1) 20. With discount 1 the best CVaR at level 0.2 of the
    whole episode is -10 (safe after 0, risky after -8); always safe has -11, always risky -14.8.
    """
    probs, reward = np.zeros((3, 2, 2)), np.zeros((3, 2, 2))
    for s, a, law in (
        (0, 0, LOTTERY),
        (0, 1, LOTTERY),
        (1, 0, SAFE),
        (1, 1, RISKY),
        (2, 0, [(0, 1)]),
        (2, 1, [(0, 1)]),
    ):
        for m, (value, prob) in enumerate(law):
            reward[s, a, m], probs[s, a, m] = value, prob
    next_state = np.broadcast_to(np.array([1, 2, 2])[:, None, None], probs.shape).copy()
    return TabularMDP(probs, reward, next_state, np.arange(3) == 2, np.eye(3)[0])


def risky_choice_law(after_nothing: int, after_loss: int) -> ReturnLaw:
    """The return of a policy that knows the lottery's outcome: its action after 0 and its action after -8."""
    parts = [
        (first + second, p * q)
        for (first, p), action in zip(LOTTERY, (after_nothing, after_loss), strict=True)
        for second, q in (SAFE, RISKY)[action]
    ]
    return ReturnLaw(*np.array(parts).T)


def halving() -> TabularMDP:
    """A state that never ends: action 0 pays 0 or 1 evenly, action 1 pays 0.25. For discount 1/2.

    The return of action 0 for ever is sum 2^-t x_t with fair bits x_t: uniform on [0, 2].
    """
    probs = np.array([[[0.5, 0.5], [1.0, 0.0]]])
    reward = np.array([[[0.0, 1.0], [0.25, 0.0]]])
    return TabularMDP(probs, reward, np.zeros((1, 2, 2), np.int64), np.zeros(1, bool), np.ones(1), 0.5)


def halving_law(action: int, points: int = 4096) -> ReturnLaw:
    """The return of an action followed by action 0 for ever: U[0, 2], or 0.25 + U[0, 1], as `points` midpoints.

    Its W1 distance to the uniform law is (b - a) / (4 points).
    """
    uniform = 2.0 * (np.arange(points) + 0.5) / points
    return ReturnLaw(uniform if action == 0 else 0.25 + 0.5 * uniform, np.full(points, 1.0 / points))


def ring(states: int = 10, noise: float = 1.0, degrees: float = 2.0, gamma: float = 0.9) -> TabularMDP:
    """A ring walked in one direction with noisy rewards (entry 8): state s pays cos(2 pi s / S) plus noise.

    Args:
        states: S.
        noise: Scale of the noise.
        degrees: Its degrees of freedom: 2 has no variance, infinity is normal noise.
        gamma: Discount of `ring_values`.
    """
    s = np.arange(states)
    reward = np.cos(2.0 * np.pi * s / states)[:, None, None]
    return TabularMDP(
        np.ones((states, 1, 1)), reward, ((s + 1) % states)[:, None, None], np.zeros(states, bool),
        np.full(states, 1.0 / states), gamma, np.full((states, 1, 1), noise), degrees,
    )  # fmt: skip


def ring_values(mdp: TabularMDP) -> np.ndarray:
    """Mean returns (S,): Re e^(i w s) / (1 - gamma e^(i w)) with w = 2 pi / S, a geometric series."""
    turn = np.exp(2j * np.pi / mdp.num_states)
    return np.real(turn ** np.arange(mdp.num_states) / (1.0 - mdp.gamma * turn))


MDPS = {
    "chain3": chain3,
    "gaussian_chain": gaussian_chain,
    "two_channels": two_channels,
    "risky_choice": risky_choice,
    "halving": halving,
    "ring": ring,
}


def make_tabular(
    mdp: str, observation: Any = "one_hot", render_mode: str | None = None, **parameters: Any
) -> TabularEnv:
    """An environment of one of these MDPs, by name; `parameters` are those of its function.

    Raises:
        ConfigError: No such MDP.
    """
    if mdp not in MDPS:
        raise ConfigError(f"no tabular MDP {mdp!r}.", f"Known: {', '.join(MDPS)}.")
    return TabularEnv(MDPS[mdp](**parameters), observation, render_mode)
