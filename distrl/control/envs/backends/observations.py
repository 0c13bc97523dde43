"""From each environment's observation to one block (B, ...), with the checks that cost next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict, Tuple

from distrl.base.columns import tree_leaves
from distrl.control.envs.spaces import leaf_dtype, leaf_shape


def batch_writer(space: Space[Any], block: Any) -> Callable[[list[Any]], None]:
    """A function that writes a list of B observations into `block`.

    One concatenation per leaf: it neither broadcasts nor casts floats to integers, so it doubles as the check of every
    shape and dtype. It raises ValueError or TypeError (or a lookup error for a wrong structure) and does not say which
    environment is to blame: see `mismatch`.
    """
    if isinstance(space, Dict):
        children = [(name, batch_writer(child, block[name])) for name, child in space.spaces.items()]

        def write_dict(observations: list[Any]) -> None:
            for name, write in children:
                write([obs[name] for obs in observations])

        return write_dict
    if isinstance(space, Tuple):
        parts = [(i, batch_writer(child, block[i])) for i, child in enumerate(space.spaces)]

        def write_tuple(observations: list[Any]) -> None:
            for i, write in parts:
                write([obs[i] for obs in observations])

        return write_tuple
    if block.ndim == 1:

        def write_scalars(observations: list[Any]) -> None:
            values = np.array(observations)
            if values.shape != block.shape:
                raise ValueError("an observation is not a scalar")
            np.copyto(block, values, casting="same_kind")

        return write_scalars

    flat, concatenate = block.reshape(-1, *block.shape[2:]), np.concatenate

    def write(observations: list[Any]) -> None:
        concatenate(observations, out=flat)

    return write


def row_writer(space: Space[Any], block: Any) -> Callable[[int, Any], None]:
    """A function that writes one checked observation into row i of `block`."""
    if isinstance(space, Dict):
        children = [(name, row_writer(child, block[name])) for name, child in space.spaces.items()]

        def write_dict(i: int, obs: Any) -> None:
            for name, write in children:
                write(i, obs[name])

        return write_dict
    if isinstance(space, Tuple):
        parts = [row_writer(child, block[k]) for k, child in enumerate(space.spaces)]

        def write_tuple(i: int, obs: Any) -> None:
            for k, write in enumerate(parts):
                write(i, obs[k])

        return write_tuple
    return block.__setitem__  # type: ignore[no-any-return]


def finite_check(block: Any) -> Callable[[], bool]:
    """A function that says whether every float in `block` is finite.

    A dot product with zeros is 0 when all is finite and NaN when anything is not, for a fraction of `isfinite`'s cost.
    """
    floats = [leaf.reshape(-1) for leaf in tree_leaves(block) if leaf.dtype.kind == "f"]
    pairs = [(leaf, np.zeros_like(leaf)) for leaf in floats]
    if len(pairs) == 1:
        values, nothing = pairs[0]
        return lambda: bool(values.dot(nothing) == 0.0)
    return lambda: all(values.dot(nothing) == 0.0 for values, nothing in pairs)


def mismatch(space: Space[Any], obs: Any, name: str = "observation") -> str | None:
    """What is wrong with one observation: structure, shape, dtype, or a value that is not finite; or None.

    >>> mismatch(Dict(a=Tuple([])), {"b": 0})
    "observation lacks key 'a'; it has ['b']"
    """
    if isinstance(space, Dict):
        if not isinstance(obs, dict):
            return f"{name} is a {type(obs).__name__}, expected a dict with keys {list(space.spaces)}"
        for key, child in space.spaces.items():
            if key not in obs:
                return f"{name} lacks key {key!r}; it has {list(obs)}"
            if found := mismatch(child, obs[key], f"{name}[{key!r}]"):
                return found
        return None
    if isinstance(space, Tuple):
        if not isinstance(obs, tuple | list) or len(obs) != len(space.spaces):
            return f"{name} is {_brief(obs)}, expected a tuple of {len(space.spaces)}"
        pairs = enumerate(zip(space.spaces, obs, strict=True))
        return next((found for i, (child, part) in pairs if (found := mismatch(child, part, f"{name}[{i}]"))), None)
    return _leaf_mismatch(space, obs, name)


def _leaf_mismatch(space: Space[Any], obs: Any, name: str) -> str | None:
    try:
        value = np.asarray(obs)
    except ValueError:
        return f"{name} is a ragged {type(obs).__name__}"
    shape, dtype = leaf_shape(space), leaf_dtype(space)
    if value.shape != shape:
        return f"{name} has shape {value.shape}, expected {shape}"
    if not castable(value.dtype, dtype):
        return f"{name} has dtype {value.dtype}, expected {dtype}"
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        bad = np.argwhere(~np.isfinite(value))
        where = tuple(bad[0].tolist())
        at = f" at index {where if len(where) != 1 else where[0]}" if where else ""
        return f"{name} is {value[where]}{at} ({len(bad)} of {value.size} values are not finite)"
    return None


def castable(found: np.dtype[Any], expected: np.dtype[Any]) -> bool:
    """Whether storing one dtype as another keeps what it means: other widths may, floats as integers may not."""
    return np.can_cast(found, expected, "same_kind")


def _brief(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
