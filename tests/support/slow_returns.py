"""Every estimator by its definition: one episode at a time, explicit sums, plain floats. Slow on purpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Episode:
    """A run of steps of one environment without an end in between.

    Attributes:
        rows: Time steps t of the batch.
        env: Its environment b.
        reward, value: One per step.
        next_value: Value of what each step bootstraps from; the last one is 0 where the episode terminated.
        log_ratio: One per step.
    """

    rows: list[int]
    env: int
    reward: list[float]
    value: list[float]
    next_value: list[float]
    log_ratio: list[float]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass
class Ragged:
    """A random batch (T, B) with episodes that end anywhere."""

    reward: np.ndarray
    value: np.ndarray
    last_value: np.ndarray
    final_value: np.ndarray
    final_index: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    log_ratio: np.ndarray

    @classmethod
    def draw(cls, seed: int) -> Ragged:
        """A batch that depends on the seed alone; sizes and rates of endings are drawn too."""
        rng = np.random.default_rng(seed)
        shape = (int(rng.integers(1, 10)), int(rng.integers(1, 4)))
        terminated = rng.random(shape) < rng.choice([0.0, 0.15, 0.6])
        truncated = rng.random(shape) < rng.choice([0.0, 0.15, 0.6])
        if rng.random() < 0.3:
            (terminated if rng.random() < 0.5 else truncated)[-1] = True  # the fragment ends with an episode
        final_index = np.argwhere(truncated & ~terminated)
        return cls(
            reward=rng.normal(size=shape),
            value=rng.normal(size=shape),
            last_value=rng.normal(size=shape[1]),
            final_value=rng.normal(size=len(final_index)),
            final_index=final_index,
            terminated=terminated,
            truncated=truncated,
            log_ratio=rng.normal(size=shape),
        )

    def episodes(self) -> list[Episode]:
        """The batch cut at every end. The last episode of an environment may be unfinished."""
        final = {(int(t), int(b)): float(v) for (t, b), v in zip(self.final_index, self.final_value, strict=True)}
        steps, envs = self.reward.shape
        found = []
        for b in range(envs):
            rows: list[int] = []
            for t in range(steps):
                rows.append(t)
                if self.terminated[t, b] or self.truncated[t, b] or t == steps - 1:
                    if self.terminated[t, b]:
                        beyond = 0.0
                    elif self.truncated[t, b]:
                        beyond = final[t, b]
                    else:
                        beyond = float(self.last_value[b])
                    value = [float(self.value[k, b]) for k in rows]
                    found.append(
                        Episode(
                            rows=rows,
                            env=b,
                            reward=[float(self.reward[k, b]) for k in rows],
                            value=value,
                            next_value=[*value[1:], beyond],
                            log_ratio=[float(self.log_ratio[k, b]) for k in rows],
                        )
                    )
                    rows = []
        return found

    def by_episode(self, estimate) -> np.ndarray:
        """(T, B) of `estimate(episode, i)` at each step i of each episode."""
        result = np.full(self.reward.shape, np.nan)
        for episode in self.episodes():
            for i, t in enumerate(episode.rows):
                result[t, episode.env] = estimate(episode, i)
        return result


def n_step(e: Episode, i: int, gamma: float, n: int) -> float:
    """n rewards, or fewer at the end, and a bootstrap after the last of them."""
    m = min(n, len(e) - i)
    return sum(gamma**k * e.reward[i + k] for k in range(m)) + gamma**m * e.next_value[i + m - 1]


def discounted(e: Episode, i: int, gamma: float) -> float:
    """All rewards that are left, and a bootstrap after the last."""
    left = len(e) - i
    return sum(gamma**k * e.reward[i + k] for k in range(left)) + gamma**left * e.next_value[-1]


def lambda_mixture(e: Episode, i: int, gamma: float, lam: float) -> float:
    """(1 - lam) sum_n lam^(n-1) G^(n), the rest of the weight on the longest return."""
    left = len(e) - i
    short = sum((1 - lam) * lam ** (n - 1) * n_step(e, i, gamma, n) for n in range(1, left))
    return short + lam ** (left - 1) * n_step(e, i, gamma, left)


def gae(e: Episode, i: int, gamma: float, lam: float) -> float:
    """Discounted sum of the one-step errors that are left."""
    return sum(
        (gamma * lam) ** (k - i) * (e.reward[k] + gamma * e.next_value[k] - e.value[k]) for k in range(i, len(e))
    )


def vtrace_target(e: Episode, i: int, gamma: float, lam: float, rho_bar: float, c_bar: float) -> float:
    """V + sum_k gamma^(k-i) (c_i ... c_{k-1}) rho_k delta_k: eq. 1 of the paper."""
    total = e.value[i]
    for k in range(i, len(e)):
        trace = np.prod([lam * min(c_bar, np.exp(e.log_ratio[j])) for j in range(i, k)])
        rho = min(rho_bar, np.exp(e.log_ratio[k]))
        total += gamma ** (k - i) * trace * rho * (e.reward[k] + gamma * e.next_value[k] - e.value[k])
    return total


def vtrace_advantage(
    e: Episode, i: int, gamma: float, lam: float, rho_bar: float, c_bar: float, pg_rho_bar: float
) -> float:
    """The clipped weight times (r + gamma vs of the next state - V); past the end, its value stands for vs."""
    last = i == len(e) - 1
    next_vs = e.next_value[i] if last else vtrace_target(e, i + 1, gamma, lam, rho_bar, c_bar)
    return min(pg_rho_bar, np.exp(e.log_ratio[i])) * (e.reward[i] + gamma * next_vs - e.value[i])
