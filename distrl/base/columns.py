"""Named columns of arrays, and nested arrays (`Tree`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, ItemsView, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

#: An array (numpy or torch), or a dict or tuple of trees: a nested observation, action or mask. An alias of `Any`,
#: because functions on trees serve either library and reach the leaves through `tree_map`.
Tree: TypeAlias = Any


def tree_map(fn: Callable[..., Tree], tree: Tree, *others: Tree) -> Tree:
    """Apply `fn` leaf by leaf to trees of one structure.

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


def tree_leaves(tree: Tree) -> list[Tree]:
    """List the leaves in order.

    >>> tree_leaves({"a": 1, "b": (2, 3)})
    [1, 2, 3]
    """
    if isinstance(tree, Columns | dict):
        return [leaf for _, child in tree.items() for leaf in tree_leaves(child)]
    if isinstance(tree, tuple):
        return [leaf for child in tree for leaf in tree_leaves(child)]
    return [tree]


def tree_cat(trees: Sequence[Tree], axis: int = 0) -> Tree:
    """Concatenate trees along an existing dimension."""
    return trees[0] if len(trees) == 1 else tree_map(lambda *leaves: _join("concatenate", leaves, axis), *trees)


def tree_stack(trees: Sequence[Tree], axis: int = 0) -> Tree:
    """Stack trees along a new dimension."""
    return tree_map(lambda *leaves: _join("stack", leaves, axis), *trees)


def _join(function: str, leaves: Sequence[Tree], axis: int) -> Tree:
    torch = sys.modules.get("torch")  # not imported here: a caller with tensors has imported it
    if torch is not None and isinstance(leaves[0], torch.Tensor):
        return {"concatenate": torch.cat, "stack": torch.stack}[function](list(leaves), dim=axis)
    return {"concatenate": np.concatenate, "stack": np.stack}[function](leaves, axis=axis)  # type: ignore[operator]


class Columns:
    """Immutable named arrays or trees of arrays that share leading dimensions.

    `columns.reward` or `columns["reward"]` reads a column, `columns[rows]` indexes the leading dimension of every leaf,
    `columns.with_(reward=...)` makes a changed copy. Copies share their arrays.

    >>> c = Columns(reward=np.array([1.0, 2.0]), obs={"x": np.zeros((2, 3))})
    >>> c[1].reward.item(), c.with_(done=c.reward > 1).done.tolist()
    (2.0, [False, True])
    """

    __slots__ = ("_data",)
    _data: dict[str, Tree]

    def __init__(self, **arrays: Tree):
        object.__setattr__(self, "_data", arrays)

    def __getattr__(self, name: str) -> Tree:
        try:
            return self._data[name]
        except KeyError:
            raise AttributeError(f"no column {name!r}; there are: {', '.join(self._data)}") from None

    def __setattr__(self, name: str, value: Tree) -> None:
        raise AttributeError("Columns do not change; use with_(name=...)")

    def __getitem__(self, index: Tree) -> Tree:
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

    def __reduce__(self) -> tuple[Callable[[dict[str, Tree]], Columns], tuple[dict[str, Tree]]]:
        return (_rebuild, (self._data,))

    def items(self) -> ItemsView[str, Tree]:
        return self._data.items()

    def get(self, name: str, default: Tree = None) -> Tree:
        return self._data.get(name, default)

    def with_(self, **arrays: Tree) -> Columns:
        """Copy with these columns added or replaced."""
        return Columns(**{**self._data, **arrays})

    def without(self, *names: str) -> Columns:
        """Copy without these columns."""
        return Columns(**{name: leaf for name, leaf in self._data.items() if name not in names})

    def only(self, *names: str) -> Columns:
        """Copy with only these columns, if present."""
        return Columns(**{name: self._data[name] for name in names if name in self._data})

    def map(self, fn: Callable[[Tree], Tree]) -> Columns:
        """Apply `fn` to every leaf."""
        return tree_map(fn, self)

    def to_dict(self) -> dict[str, Tree]:
        """Return a shallow dict of the columns."""
        return dict(self._data)


def _rebuild(data: dict[str, Tree]) -> Columns:
    return Columns(**data)
