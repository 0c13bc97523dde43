"""Helpers of replay peers: sizes, data, timer, result line; numpy only."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable

import numpy as np

CAPACITY, OBS, ACTION, BLOCK, BATCH = 100_000, 17, 6, 16, 256
ALPHA, BETA, GAMMA = 0.6, 0.4, 0.99


def block(seed: int = 0) -> dict[str, np.ndarray]:
    """One step of BLOCK environments that go on; nothing ends, so that everybody does the same."""
    rng = np.random.default_rng(seed)
    return {
        "obs": rng.standard_normal((BLOCK, OBS)).astype(np.float32),
        "next_obs": rng.standard_normal((BLOCK, OBS)).astype(np.float32),
        "action": rng.standard_normal((BLOCK, ACTION)).astype(np.float32),
        "reward": rng.standard_normal(BLOCK).astype(np.float32),
        "terminated": np.zeros(BLOCK, bool),
        "truncated": np.zeros(BLOCK, bool),
    }


def seconds_each(call: Callable[[], object], repeats: int = 5, at_least: float = 0.2) -> float:
    """Seconds of one call: the best of `repeats` runs that take `at_least` seconds each."""
    count, best = 1, float("inf")
    while True:
        begin = time.perf_counter()
        for _ in range(count):
            call()
        if (spent := time.perf_counter() - begin) >= at_least:
            break
        count = max(count * 2, int(count * at_least / max(spent, 1e-9)))
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(count):
            call()
        best = min(best, (time.perf_counter() - begin) / count)
    return best


def priorities() -> np.ndarray:
    """New priorities of a batch."""
    return np.abs(np.random.default_rng(1).standard_normal(BATCH)) + 0.01


def print_result(peer: str, packages: tuple[str, ...], seconds: dict[str, float]) -> None:
    """Print the line that benchmarks/replay.py reads.

    Args:
        seconds: Per call: insert (BLOCK transitions), sample, prioritized_sample, prioritized_update (BATCH items);
            what a peer cannot do is missing.
    """
    versions = {name: importlib.metadata.version(name) for name in ("numpy", *packages)}
    result = {"peer": peer, "versions": {"python": platform.python_version(), **versions}, "seconds": seconds}
    print(json.dumps(result), file=sys.__stdout__, flush=True)
