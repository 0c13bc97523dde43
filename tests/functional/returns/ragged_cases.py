"""Cases of the property tests of return estimators."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from distrl.functional.returns.state_values import Steps, next_values
from tests.support.slow_returns import Ragged

CASES = settings(max_examples=1000, deadline=None)
SEED = st.integers(0, 2**32 - 1)


def columns(batch: Ragged) -> Steps:
    """Make the shared argument of all estimators."""
    value = torch.from_numpy(batch.value)
    next_value = next_values(
        value,
        torch.from_numpy(batch.last_value),
        torch.from_numpy(batch.final_value),
        torch.from_numpy(batch.final_index),
    )
    terminated, truncated = torch.from_numpy(batch.terminated), torch.from_numpy(batch.truncated)
    return Steps(torch.from_numpy(batch.reward), value, next_value, terminated, truncated)


def knobs(seed: int) -> tuple[float, float]:
    """gamma and lam, the bounds among them."""
    rng = np.random.default_rng([seed, 1])
    gamma = rng.choice([0.0, 1.0, rng.random()], p=[0.05, 0.15, 0.8])
    lam = rng.choice([0.0, 1.0, rng.random()], p=[0.1, 0.2, 0.7])
    return float(gamma), float(lam)


def agree(found: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9)
