"""Writers of single observations into one block (B, ...), with cheap checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict, Tuple

from distrl.base.columns import Tree, tree_leaves
from distrl.control.envs.spaces import leaf_dtype, leaf_shape


def batch_writer(space: Space, block: Tree) -> Callable[[list[Tree]], None]:
    """Make a function that writes a list of B observations into `block`.

    Its one concatenation per leaf checks every shape and dtype; after a ValueError, TypeError or LookupError,
    `mismatch` finds the environment.
    """
    if isinstance(space, Dict | Tuple):
        children = [(key, batch_writer(child, block[key])) for key, child in _children(space)]

        def write_children(observations: list[Tree]) -> None:
            for key, write in children:
                write([obs[key] for obs in observations])

        return write_children
    if block.ndim == 1:

        def write_scalars(observations: list[Tree]) -> None:
            values = np.array(observations)
            if values.shape != block.shape:
                raise ValueError("an observation is not a scalar")
            np.copyto(block, values, casting="same_kind")

        return write_scalars

    flat, concatenate = block.reshape(-1, *block.shape[2:]), np.concatenate

    def write(observations: list[Tree]) -> None:
        concatenate(observations, out=flat)

    return write


def row_writer(space: Space, block: Tree) -> Callable[[int, Tree], None]:
    """Make a function that writes one checked observation into row i of `block`."""
    if isinstance(space, Dict | Tuple):
        children = [(key, row_writer(child, block[key])) for key, child in _children(space)]

        def write_children(i: int, obs: Tree) -> None:
            for key, write in children:
                write(i, obs[key])

        return write_children
    return block.__setitem__  # type: ignore[no-any-return]


def _children(space: Dict | Tuple) -> Iterable[tuple[str | int, Space]]:
    return space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)


def finite_check(block: Tree) -> Callable[[], bool]:
    """Make a function that returns True if every float in `block` is finite.

    A dot product with zeros, NaN for non-finite values, is much faster than `isfinite`.
    """
    floats = [leaf.reshape(-1) for leaf in tree_leaves(block) if leaf.dtype.kind == "f"]
    pairs = [(leaf, np.zeros_like(leaf)) for leaf in floats]
    if len(pairs) == 1:
        values, nothing = pairs[0]
        return lambda: bool(values.dot(nothing) == 0.0)
    return lambda: all(values.dot(nothing) == 0.0 for values, nothing in pairs)


def mismatch(space: Space, obs: Tree, name: str = "observation") -> str | None:
    """Describe a wrong structure, shape, dtype or value of one observation; None if it is valid.

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


def castable(found: np.dtype, expected: np.dtype) -> bool:
    """Return True if the dtypes are of the same kind, so that casting keeps the meaning."""
    return np.can_cast(found, expected, "same_kind")


def _brief(value: object) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")
