"""Named seeds: every random number of a run comes from a generator identified by words.

`generator(run_seed, "noise", stream, fragment)` is the same in every process and on every machine, whatever was drawn
before, so no generator state is ever saved.
"""

from __future__ import annotations

import hashlib

import numpy as np


def seed_for(run_seed: int, *words: str | int) -> int:
    """Derive a seed in [0, 2**31) from the words.

    >>> seed_for(0, "episode", 1) != seed_for(0, "episode", 2)
    True
    """
    return int.from_bytes(_digest(run_seed, words)[:4], "little") & 0x7FFFFFFF


def generator(run_seed: int, *words: str | int) -> np.random.Generator:
    """Make a fresh generator from the words.

    >>> float(generator(3, "noise", 0).random()) == float(generator(3, "noise", 0).random())
    True
    """
    return np.random.Generator(np.random.PCG64(int.from_bytes(_digest(run_seed, words)[:16], "little")))


def _digest(run_seed: int, words: tuple[str | int, ...]) -> bytes:
    text = "\x1f".join([str(int(run_seed)), *(f"{type(word).__name__[0]}{word}" for word in words)])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
