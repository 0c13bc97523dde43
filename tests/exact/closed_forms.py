"""Return distributions in closed form, of the built-in tabular environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erf

import numpy as np

from distrl.control.envs.library.risky_path import RiskyPath
from distrl.control.envs.library.tabular import TabularMDP
from distrl.control.envs.library.tabular_examples import CHAIN3, GAUSSIAN_CHAIN, LOTTERY, RISKY, SAFE

_erf = np.vectorize(erf, otypes=[np.float64])


@dataclass(frozen=True)
class ExactReturn:
    """A mixture of normal distributions; with `std` 0 an atom each. One reward channel, or several jointly.

    Args:
        values: (M,) or (M, K) float64, means of the parts.
        probs: (M,), summing to 1.
        std: Same shape as `values`, or None: atoms.
    """

    values: np.ndarray
    probs: np.ndarray
    std: np.ndarray | None = None

    @property
    def mean(self) -> np.ndarray:
        """Scalar, or (K,)."""
        return self.probs @ self.values

    @property
    def covariance(self) -> np.ndarray:
        """Variance (scalar), or covariance (K, K) of several channels."""
        centered = self.values - self.mean
        noise = 0.0 if self.std is None else self.probs @ self.std**2
        if self.values.ndim == 1:
            return self.probs @ centered**2 + noise
        return np.einsum("m,mi,mj->ij", self.probs, centered, centered) + np.diag(
            np.broadcast_to(noise, centered[0].shape)
        )

    def channel(self, k: int) -> ExactReturn:
        """The marginal distribution of reward channel k."""
        return ExactReturn(self.values[:, k], self.probs, None if self.std is None else self.std[:, k])

    def cdf(self, x: np.ndarray | float) -> np.ndarray:
        """P(G <= x), the shape of x. One channel."""
        gap = np.asarray(x, np.float64)[..., None] - self.values
        if self.std is None:
            return (gap >= -1e-12) @ self.probs
        spread = np.where(self.std > 0, self.std, 1.0)
        normal = 0.5 * (1.0 + _erf(gap / (spread * 2.0**0.5)))
        return np.where(self.std > 0, normal, gap >= -1e-12) @ self.probs

    def quantile(self, tau: np.ndarray | float) -> np.ndarray:
        """The least x with P(G <= x) >= tau, the shape of tau; to 1e-9 where there is noise. One channel."""
        tau = np.asarray(tau, np.float64)
        if self.std is None:
            order = np.argsort(self.values)
            mass = self.probs[order].cumsum()
            return self.values[order][np.searchsorted(mass + 1e-12, tau).clip(max=len(mass) - 1)]
        low, high = self._range()
        lower, upper = np.full(tau.shape, low), np.full(tau.shape, high)
        for _ in range(60):
            middle = 0.5 * (lower + upper)
            below = self.cdf(middle) < tau
            lower, upper = np.where(below, middle, lower), np.where(below, upper, middle)
        return upper

    def cvar(self, alpha: float, points: int = 20_000) -> float:
        """The mean of the worst share alpha of returns: exact for atoms, else by `points` quantiles. One channel."""
        if self.std is None:
            b = self.quantile(alpha)
            return float(b + self.probs @ np.minimum(self.values - b, 0.0) / alpha)
        return float(self.quantile(alpha * (np.arange(points) + 0.5) / points).mean())

    def wasserstein(self, values: np.ndarray, probs: np.ndarray | None = None, points: int = 20_001) -> float:
        """W1 to atoms, such as a head's: exact where this one is atoms, else by the trapezoid rule. One channel.

        Args:
            values: (N,).
            probs: (N,); by default all equal.
            points: Of the trapezoid rule.
        """
        values = np.asarray(values, np.float64)
        probs = np.full(len(values), 1.0 / len(values)) if probs is None else np.asarray(probs, np.float64)
        other = ExactReturn(values, probs)
        if self.std is None:
            edges = np.sort(np.concatenate([self.values, values]))
            return float(np.abs(self.cdf(edges[:-1]) - other.cdf(edges[:-1])) @ np.diff(edges))
        low, high = self._range()
        grid = np.union1d(np.linspace(min(low, values.min()), max(high, values.max()), points), values)
        return float(np.trapezoid(np.abs(self.cdf(grid) - other.cdf(grid)), grid))

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """(size,) or (size, K) independent returns."""
        part = rng.choice(len(self.probs), size, p=self.probs)
        drawn = self.values[part]
        return drawn if self.std is None else drawn + self.std[part] * rng.standard_normal(drawn.shape)

    def _range(self) -> tuple[float, float]:
        reach = 9.0 * (0.0 if self.std is None else self.std)
        return float((self.values - reach).min()), float((self.values + reach).max())


def independent_sum(terms: Sequence[ExactReturn], gamma: float) -> ExactReturn:
    """The distribution of sum_t gamma^t X_t for independent X_t: their convolution, equal atoms joined.

    >>> coin = ExactReturn(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    >>> independent_sum([coin, coin], 1.0).probs.tolist()
    [0.25, 0.5, 0.25]
    """
    first = terms[0]
    values, probs = np.zeros((1, *first.values.shape[1:])), np.ones(1)
    noisy = any(term.std is not None for term in terms)
    variance = np.zeros_like(values)
    for t, term in enumerate(terms):
        spread = np.zeros_like(term.values) if term.std is None else term.std
        values = _pairs(values, gamma**t * term.values)
        variance = _pairs(variance, (gamma**t * spread) ** 2)
        probs = np.outer(probs, term.probs).ravel()
    if noisy:
        return ExactReturn(values, probs, np.sqrt(variance))
    atoms, owner = np.unique(values.round(12), axis=0, return_inverse=True)
    return ExactReturn(atoms, np.bincount(owner.ravel(), probs))


def _pairs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Every sum of a row of `one` and a row of `other`, (M * N, ...)."""
    return (one[:, None] + other[None]).reshape(-1, *one.shape[1:])


def chain3_return(actions: Sequence[int], gamma: float = 0.9) -> ExactReturn:
    """The return of taking these actions, one after the other; fewer than 3 begin further down the chain."""
    distributions = [ExactReturn(*np.array(CHAIN3[a]).T) for a in actions]
    return independent_sum(distributions, gamma)


def gaussian_chain_return(actions: Sequence[int], gamma: float = 0.9) -> ExactReturn:
    """N(sum gamma^t mean_t, sum gamma^2t std_t^2)."""
    means, stds = np.array(GAUSSIAN_CHAIN)[list(actions)].T
    discount = gamma ** np.arange(len(actions))
    return ExactReturn(np.array([discount @ means]), np.ones(1), np.array([np.sqrt(discount**2 @ stds**2)]))


def two_channels_return(action: int, gamma: float = 1.0) -> ExactReturn:
    """The joint return of both channels after the first action: correlation -1 after action 0, +1 after action 1."""
    x = gamma * np.array([-1.0, 1.0])
    return ExactReturn(np.stack([x, -x if action == 0 else x], -1), np.full(2, 0.5))


def risky_choice_return(after_nothing: int, after_loss: int) -> ExactReturn:
    """The return of a policy that knows the lottery's outcome: its action after 0 and its action after -8."""
    parts = [
        (first + second, p * q)
        for (first, p), action in zip(LOTTERY, (after_nothing, after_loss), strict=True)
        for second, q in (SAFE, RISKY)[action]
    ]
    return ExactReturn(*np.array(parts).T)


def halving_return(action: int, points: int = 4096) -> ExactReturn:
    """The return of an action followed by action 0 for ever: U[0, 2], or 0.25 + U[0, 1], as `points` midpoints.

    Its W1 distance to the uniform distribution is (b - a) / (4 points).
    """
    uniform = 2.0 * (np.arange(points) + 0.5) / points
    return ExactReturn(uniform if action == 0 else 0.25 + 0.5 * uniform, np.full(points, 1.0 / points))


def ring_values(mdp: TabularMDP) -> np.ndarray:
    """Mean returns (S,): Re e^(i w s) / (1 - gamma e^(i w)) with w = 2 pi / S, a geometric series."""
    turn = np.exp(2j * np.pi / mdp.num_states)
    return np.real(turn ** np.arange(mdp.num_states) / (1.0 - mdp.gamma * turn))


def path_return(env: RiskyPath, path: str, gamma: float = 1.0) -> ExactReturn:
    """The return of walking the short or the long way of a `RiskyPath` without a detour."""
    on_ice = env.width - 2 if path == "short" else 0
    dry = 1 if path == "short" else env.width - 1 + 2 * (env.height - 1)
    step = ExactReturn(np.full(1, env.step_reward), np.ones(1))
    slip = ExactReturn(env.step_reward + env.losses, env.loss_probs)
    goal = ExactReturn(np.full(1, env.step_reward + env.goal_reward), np.ones(1))
    return independent_sum([slip] * on_ice + [step] * (dry - 1) + [goal], gamma)


def transition(mdp: TabularMDP) -> np.ndarray:
    """Transition probabilities (S, A, S), without those of the episode's end."""
    table = np.zeros((mdp.num_states, mdp.num_actions, mdp.num_states))
    s, a, _ = np.indices(mdp.probs.shape)
    np.add.at(table, (s, a, mdp.next_state), np.where(mdp.terminal[mdp.next_state], 0.0, mdp.probs))
    return table


def mean_reward(mdp: TabularMDP) -> np.ndarray:
    """Mean rewards (S, A) of an MDP with one reward channel."""
    return (mdp.probs * mdp.reward).sum(-1)
