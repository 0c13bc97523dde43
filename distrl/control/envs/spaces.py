"""Gymnasium spaces: arrays, one-line descriptions, support, equality, JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from distrl.base.columns import Tree, tree_leaves, tree_map
from distrl.base.errors import CheckpointError, EnvError

Json: TypeAlias = dict[str, Any]


def leaf_spaces(space: Space) -> Tree:
    """Return the tree of leaf spaces: Dict and Tuple become dicts and tuples."""
    if isinstance(space, Dict):
        return {name: leaf_spaces(child) for name, child in space.spaces.items()}
    return tuple(map(leaf_spaces, space.spaces)) if isinstance(space, Tuple) else space


def per_leaf(space: Space, make: Callable[[Space], Callable[[Tree], Tree]]) -> Callable[[Tree], Tree]:
    """Make a function of trees that applies `make(leaf space)` to each leaf."""
    functions = tree_map(make, leaf_spaces(space))
    if isinstance(space, Dict | Tuple):
        return lambda tree: tree_map(lambda function, leaf: function(leaf), functions, tree)
    return functions


def zeros(space: Space, *lead: int) -> Tree:
    """Make a tree of zeros (*lead, ...) for elements of a space, in its dtypes.

    >>> zeros(Dict(a=Discrete(3), b=Box(0, 255, (2, 2), np.uint8)), 5)["b"].shape
    (5, 2, 2)
    """
    return tree_map(lambda leaf: np.zeros((*lead, *leaf_shape(leaf)), leaf_dtype(leaf)), leaf_spaces(space))


def leaf_shape(space: Space) -> tuple[int, ...]:
    """Return the shape of one element of a leaf space; () for Discrete."""
    return () if isinstance(space, Discrete) else tuple(space.shape or ())


def leaf_dtype(space: Space) -> np.dtype:
    """Return the dtype in which elements of a leaf space are stored."""
    return np.dtype(np.int64) if isinstance(space, Discrete) else np.dtype(space.dtype)


def nbytes(space: Space) -> int:
    """Compute the stored bytes of one element.

    >>> nbytes(Box(0, 255, (84, 84, 4), np.uint8))
    28224
    """
    return sum(leaf.nbytes for leaf in tree_leaves(zeros(space)))


def describe(space: Space) -> str:
    """Describe a space in one line.

    >>> describe(Dict(arm=Box(-1, 1, (3,)), hand=Discrete(4, start=1)))
    'Dict(arm: Box(3,) float32 in [-1, 1], hand: Discrete 1..4)'
    """
    if isinstance(space, Dict):
        return f"Dict({', '.join(f'{name}: {describe(child)}' for name, child in space.spaces.items())})"
    if isinstance(space, Tuple):
        return f"Tuple({', '.join(describe(child) for child in space.spaces)})"
    if isinstance(space, Box):
        shape = "(" + ", ".join(map(str, space.shape)) + ("," if len(space.shape) == 1 else "") + ")"
        return f"Box{shape} {space.dtype} in [{_bound(space.low, min)}, {_bound(space.high, max)}]"
    if isinstance(space, Discrete):
        return f"Discrete {int(space.start)}..{int(space.start) + int(space.n) - 1}"
    if isinstance(space, MultiDiscrete):
        return f"MultiDiscrete {space.nvec.tolist()}"
    if isinstance(space, MultiBinary):
        return f"MultiBinary {space.n}"
    return type(space).__name__


def _bound(values: np.ndarray, pick: Callable[[float, float], float]) -> str:
    return f"{float(pick(values.min(), values.max())):g}" if values.size else "-"


def unsupported(space: object, role: str) -> str | None:
    """Return the reason why a space of a role ("observation", "action") is unsupported, or None."""
    if not isinstance(space, Space):
        return f"the {role} space is {space!r}, not a gymnasium.Space."
    if isinstance(space, Dict | Tuple):
        children = list(space.spaces.values()) if isinstance(space, Dict) else list(space.spaces)
        if not children:
            return f"the {role} space {describe(space)} is empty."
        return next((reason for child in children if (reason := unsupported(child, role))), None)
    if isinstance(space, MultiDiscrete) and space.nvec.ndim != 1:
        return f"the {role} space MultiDiscrete has a {space.nvec.ndim}-dimensional nvec; one dimension is supported."
    if isinstance(space, Box) and space.low.size == 0:
        return f"the {role} space {describe(space)} has no elements."
    if isinstance(space, Box) and space.dtype.kind not in "fiub":
        return f"the {role} space {describe(space)} has dtype {space.dtype}; numbers are supported."
    if isinstance(space, Box | Discrete | MultiDiscrete | MultiBinary):
        return None
    return (
        f"{role} space {type(space).__name__} is not supported; "
        "Box, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of them are."
    )


def require_supported(observation_space: object, action_space: object, name: str) -> None:
    """Raise EnvError for a space that is not supported."""
    for role, space in (("observation", observation_space), ("action", action_space)):
        if reason := unsupported(space, role):
            raise EnvError(f"{name}: {reason}", "Convert it in a wrapper (config key env.wrappers).")


def difference(ours: Space, theirs: Space) -> str | None:
    """Describe a difference of two spaces, bounds aside, or return None."""
    if isinstance(ours, Dict) and isinstance(theirs, Dict):
        if list(ours.spaces) != list(theirs.spaces):
            return f"keys {list(ours.spaces)} against {list(theirs.spaces)}"
        pairs = [(ours.spaces[name], theirs.spaces[name]) for name in ours.spaces]
    elif isinstance(ours, Tuple) and isinstance(theirs, Tuple):
        if len(ours.spaces) != len(theirs.spaces):
            return f"{len(ours.spaces)} parts against {len(theirs.spaces)}"
        pairs = list(zip(ours.spaces, theirs.spaces, strict=True))
    else:
        boxes = isinstance(ours, Box) and isinstance(theirs, Box)
        same = (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype) if boxes else ours == theirs
        return None if same else f"{describe(ours)} against {describe(theirs)}"
    return next((found for mine, other in pairs if (found := difference(mine, other))), None)


def require_same(saved: Space, current: Space, role: str) -> None:
    """Raise CheckpointError for a policy that was made for other spaces."""
    if found := difference(saved, current):
        raise CheckpointError(
            f"the checkpoint's {role} space does not fit the environment's: {found}.",
            "Use the environment, wrappers and frame_stack that the checkpoint was trained with.",
        )


def space_to_json(space: Space) -> Json:
    """Write a space as plain JSON values.

    >>> space_from_json(space_to_json(Box(-np.inf, 1, (2,)))) == Box(-np.inf, 1, (2,))
    True
    """
    if isinstance(space, Dict):
        return {"type": "Dict", "spaces": [[name, space_to_json(child)] for name, child in space.spaces.items()]}
    if isinstance(space, Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(child) for child in space.spaces]}
    if isinstance(space, Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else [int(n) for n in space.n]}
    if isinstance(space, MultiDiscrete):
        start = np.asarray(space.start).tolist()
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": start, "dtype": str(space.dtype)}
    if isinstance(space, Box):
        bounds = {"low": _numbers(space.low), "high": _numbers(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    raise EnvError(
        f"cannot write a {type(space).__name__} space.", "Convert it in a wrapper (config key env.wrappers)."
    )


def space_from_json(data: Json) -> Space:
    """Read a space written by `space_to_json`; raise CheckpointError for an unknown kind."""
    kind = data.get("type")
    if kind == "Dict":
        return Dict({name: space_from_json(child) for name, child in data["spaces"]})
    if kind == "Tuple":
        return Tuple([space_from_json(child) for child in data["spaces"]])
    if kind == "Discrete":
        return Discrete(data["n"], start=data["start"])
    if kind == "MultiBinary":
        return MultiBinary(data["n"])
    if kind == "MultiDiscrete":
        return MultiDiscrete(data["nvec"], dtype=np.dtype(data["dtype"]).type, start=data["start"])
    if kind == "Box":
        dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
        low, high = (np.broadcast_to(np.array(_floats(data[k])), shape).astype(dtype) for k in ("low", "high"))
        return Box(low, high, shape, dtype.type)
    raise CheckpointError(f"unknown space {kind!r} in a checkpoint.")


def _numbers(bounds: np.ndarray) -> Tree:
    """Write bounds as nested lists, or one number if all are equal; infinities are words."""
    if bounds.size and (bounds == bounds.flat[0]).all():
        bounds = bounds.flat[0]

    def plain(value: Tree) -> Tree:
        if isinstance(value, list):
            return [plain(child) for child in value]
        return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")

    return plain(bounds.tolist())


def _floats(value: Tree) -> Tree:
    if isinstance(value, list):
        return [_floats(child) for child in value]
    return float(value) if isinstance(value, str) else value
