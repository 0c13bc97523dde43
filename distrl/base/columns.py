"""Named columns of arrays, and nested arrays (`Tree`) as Gymnasium's dict and tuple spaces give them."""

from __future__ import annotations

import sys
from collections.abc import Callable, ItemsView, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

#: An array (numpy or torch), or a dict or tuple of trees: a nested observation, action or mask. An alias of `Any`,
#: because functions on trees serve either library and reach the leaves through `tree_map`.
Tree: TypeAlias = Any


def tree_map(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply `fn` leaf by leaf; the other trees must have the shape of the first.

    >>> tree_map(lambda x, y: x + y, {"a": 1, "b": (2, 3)}, {"a": 10, "b": (20, 30)})
    {'a': 11, 'b': (22, 33)}
    """
    if isinstance(tree, Columns):
        return Columns(**{name: tree_map(fn, leaf, *(other[name] for other in others)) for name, leaf in tree.items()})
    if isinstance(tree, dict):
        return {name: tree_map(fn, leaf, *(other[name] for other in others)) for name, leaf in tree.items()}
    if isinstance(tree, tuple):
        return tuple(tree_map(fn, leaf, *(other[i] for other in others)) for i, leaf in enumerate(tree))
    return fn(tree, *others)


def tree_leaves(tree: Any) -> list[Any]:
    """Every leaf, in order.

    >>> tree_leaves({"a": 1, "b": (2, 3)})
    [1, 2, 3]
    """
    if isinstance(tree, Columns | dict):
        return [leaf for _, child in tree.items() for leaf in tree_leaves(child)]
    if isinstance(tree, tuple):
        return [leaf for child in tree for leaf in tree_leaves(child)]
    return [tree]


def tree_cat(trees: Sequence[Any], axis: int = 0) -> Any:
    """Join trees of one shape along an existing dimension (numpy or torch leaves)."""
    return trees[0] if len(trees) == 1 else tree_map(lambda *leaves: _join("concatenate", leaves, axis), *trees)


def tree_stack(trees: Sequence[Any], axis: int = 0) -> Any:
    """Join trees of one shape along a new dimension (numpy or torch leaves)."""
    return tree_map(lambda *leaves: _join("stack", leaves, axis), *trees)


def _join(how: str, leaves: Sequence[Any], axis: int) -> Any:
    torch = sys.modules.get("torch")  # not imported here: who holds a tensor has imported it
    if torch is not None and isinstance(leaves[0], torch.Tensor):
        return {"concatenate": torch.cat, "stack": torch.stack}[how](list(leaves), dim=axis)
    return {"concatenate": np.concatenate, "stack": np.stack}[how](leaves, axis=axis)  # type: ignore[operator]


class Columns:
    """Named arrays or trees of arrays.

    `columns.reward` reads, `columns.with_(reward=...)` gives a changed copy, `columns[rows]` indexes the leading
    dimension of every leaf, `columns["reward"]` reads by name. Copies share their arrays.

    >>> c = Columns(reward=np.array([1.0, 2.0]), obs={"x": np.zeros((2, 3))})
    >>> c[1].reward.item(), c.with_(done=c.reward > 1).done.tolist()
    (2.0, [False, True])
    """

    __slots__ = ("_data",)
    _data: dict[str, Any]

    def __init__(self, **arrays: Any):
        object.__setattr__(self, "_data", arrays)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._data[name]
        except KeyError:
            raise AttributeError(f"no column {name!r}; there are: {', '.join(self._data)}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("Columns do not change; use with_(name=...)")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self._data[index]
        return tree_map(lambda leaf: leaf[index], self)

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __repr__(self) -> str:
        shapes = (f"{k}={tree_map(lambda leaf: tuple(getattr(leaf, 'shape', ())), v)}" for k, v in self._data.items())
        return f"Columns({', '.join(shapes)})"

    def __reduce__(self) -> Any:
        return (_rebuild, (self._data,))

    def items(self) -> ItemsView[str, Any]:
        return self._data.items()

    def get(self, name: str, default: Any = None) -> Any:
        return self._data.get(name, default)

    def with_(self, **arrays: Any) -> Columns:
        """A copy with these columns added or replaced."""
        return Columns(**{**self._data, **arrays})

    def without(self, *names: str) -> Columns:
        """A copy that lacks these columns."""
        return Columns(**{name: leaf for name, leaf in self._data.items() if name not in names})

    def only(self, *names: str) -> Columns:
        """A copy with just these columns (those that are there)."""
        return Columns(**{name: self._data[name] for name in names if name in self._data})

    def map(self, fn: Callable[[Any], Any]) -> Columns:
        """Apply `fn` to every leaf."""
        return tree_map(fn, self)

    def to_dict(self) -> dict[str, Any]:
        """The columns as a plain dict (shallow)."""
        return dict(self._data)


def _rebuild(data: dict[str, Any]) -> Columns:
    return Columns(**data)
