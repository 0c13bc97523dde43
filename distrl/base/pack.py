"""States of checkpoints as JSON and safetensors, without pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from distrl.base.columns import Columns
from distrl.base.errors import CheckpointError
from distrl.base.files import to_json, write_atomic_with

#: A nest of dicts, lists, tuples, `Columns`, arrays (numpy or torch) and plain values.
State: TypeAlias = Any


def pack(state: State) -> tuple[State, dict[str, np.ndarray]]:
    """Split a state into a JSON skeleton and named arrays.

    >>> skeleton, arrays = pack({"step": 3, "weights": (np.ones(2),)})
    >>> unpack(skeleton, arrays)["weights"][0].tolist()
    [1.0, 1.0]
    """
    arrays: dict[str, np.ndarray] = {}

    def split(value: State) -> State:
        if isinstance(value, Columns):
            return {"$columns": {name: split(child) for name, child in value.items()}}
        if isinstance(value, dict):
            if all(isinstance(key, str) for key in value):
                return {"$dict": {key: split(child) for key, child in value.items()}}
            return {"$pairs": [[split(key), split(child)] for key, child in value.items()]}
        if isinstance(value, tuple):
            return {"$tuple": [split(child) for child in value]}
        if isinstance(value, list):
            return [split(child) for child in value]
        if isinstance(value, np.generic):
            return value.item()
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        if isinstance(value, np.ndarray):
            name = str(len(arrays))
            arrays[name] = np.array(value, order="C")  # a copy that keeps the shape ()
            return {"$array": name}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"a state cannot hold {type(value).__name__}: {value!r}")

    return split(state), arrays


def unpack(skeleton: State, arrays: dict[str, np.ndarray]) -> State:
    """Invert `pack`."""

    def join(value: State) -> State:
        if isinstance(value, list):
            return [join(child) for child in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "$array":
            return arrays[content]
        if kind == "$tuple":
            return tuple(join(child) for child in content)
        if kind == "$pairs":
            return {join(key): join(child) for key, child in content}
        children = {key: join(child) for key, child in content.items()}
        return Columns(**children) if kind == "$columns" else children

    return join(skeleton)


def save_state(path: str | Path, state: State) -> None:
    """Write a state atomically as one safetensors file; ResourceError on a full disk."""
    from safetensors.numpy import save

    skeleton, arrays = pack(state)
    write_atomic_with(path, lambda file: file.write(save(arrays, metadata={"skeleton": to_json(skeleton)})))


def load_state(path: str | Path) -> State:
    """Read a state written by `save_state`.

    Raises:
        CheckpointError: The file is truncated, corrupted, or not written by `save_state`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            if "skeleton" not in metadata:
                raise CheckpointError(f"{path} is a safetensors file, but not a state written by distrl.")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return unpack(json.loads(metadata["skeleton"]), arrays)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
