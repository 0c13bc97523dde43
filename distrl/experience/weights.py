"""Published weights: one byte buffer with a table of named arrays.

Every array starts at a multiple of 64 bytes, tied arrays are stored once, and a checksum covers table and bytes.
Samplers copy out of the buffer and drop the reference, so unused versions are freed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distrl.base.errors import CheckpointError
from distrl.base.pack import State

ALIGNMENT = 64  # bytes: one cache line


def aligned(size: int) -> int:
    """Round up to the next multiple of the alignment.

    >>> aligned(1), aligned(64), aligned(65)
    (64, 64, 128)
    """
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Entry:
    """Position of one named array in the buffer; tied names share an offset."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Weights:
    """One published version."""

    version: int  # number of updates before it
    table: tuple[Entry, ...]
    buffer: np.ndarray  # uint8 (size,)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], version: int) -> Weights:
        """Pack named arrays; arrays that share memory are stored once.

        >>> w = np.arange(3.0)
        >>> weights = Weights.of({"a": w, "tied": w, "b": np.ones(2, np.float32)}, version=5)
        >>> weights.arrays()["tied"].tolist(), weights.buffer.size
        ([0.0, 1.0, 2.0], 128)
        """
        entries: list[Entry] = []
        sources: list[tuple[int, np.ndarray]] = []
        placed: dict[tuple[int, tuple[int, ...], str], int] = {}
        end = 0
        for name, array in arrays.items():
            array = np.ascontiguousarray(array).reshape(array.shape)
            key = (array.__array_interface__["data"][0], array.shape, array.dtype.str)
            offset = placed.get(key)
            if offset is None:
                offset = placed[key] = end
                sources.append((offset, array))
                end += aligned(array.nbytes)
            entries.append(Entry(name, array.dtype.str, tuple(array.shape), offset))
        buffer = np.zeros(end, np.uint8)
        for offset, array in sources:
            buffer[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)
        return cls(version, tuple(entries), buffer)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the named arrays as views into the buffer."""
        return {
            entry.name: self.buffer[entry.offset : entry.offset + entry.size].view(entry.dtype).reshape(entry.shape)
            for entry in self.table
        }

    def checksum(self) -> str:
        """Hash names, shapes and bytes, without the version."""
        return hashlib.sha256(_table_json(self.table).encode() + self.buffer.tobytes()).hexdigest()

    def to_state(self) -> State:
        """Return a plain state for `base.pack`, with the checksum."""
        table = _table_json(self.table)
        return {"version": self.version, "table": table, "buffer": self.buffer, "checksum": self.checksum()}

    @classmethod
    def from_state(cls, state: State) -> Weights:
        """Restore weights from `to_state`; raise if the bytes do not match their checksum."""
        rows = json.loads(state["table"])
        table = [Entry(name, dtype, tuple(shape), offset) for name, dtype, shape, offset in rows]
        weights = cls(int(state["version"]), tuple(table), np.asarray(state["buffer"], np.uint8))
        if weights.checksum() != state["checksum"]:
            raise CheckpointError(f"weights of version {weights.version} do not match their checksum.")
        return weights


def _table_json(table: tuple[Entry, ...]) -> str:
    return json.dumps([[entry.name, entry.dtype, list(entry.shape), entry.offset] for entry in table])
