"""The running discounted return against its definition, written out step by step."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distrl.control.samplers.running_return import running_returns


def slow(rewards: np.ndarray, done: np.ndarray, gamma: float) -> np.ndarray:
    """One environment: the discounted sum of this episode's rewards so far."""
    out, episode = [], []
    for reward, end in zip(rewards, done, strict=True):
        episode.append(reward)
        out.append(sum(gamma ** (len(episode) - 1 - i) * r for i, r in enumerate(episode)))
        if end:
            episode = []
    return np.array(out)


@given(st.integers(1, 4), st.lists(st.integers(1, 7), min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 10**6))
def test_fragments_continue_each_other(envs: int, lengths: list[int], gamma: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reward, done = rng.normal(size=(sum(lengths), envs)), rng.random((sum(lengths), envs)) < 0.3
    before, ended, parts, start = np.zeros(envs), np.zeros(envs, bool), [], 0
    for length in lengths:
        span = slice(start, start + length)
        part, before = running_returns(reward[span], done[span], before, ended, gamma)
        ended, start = done[span][-1], start + length
        parts.append(part)
    found = np.concatenate(parts)
    expected = np.stack([slow(reward[:, b], done[:, b], gamma) for b in range(envs)], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-9)
