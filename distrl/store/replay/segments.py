"""Storage of a replay: a ring of append-only segments, in memory or memory-mapped files.

Row i is in segment i // segment_rows, at slot i % rows of the ring. A segment is written once, so a checkpoint may
hard-link its file; when the ring wraps, its slots get a new file. Files are safetensors files with page-aligned
headers, mapped into one range of addresses.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from distrl.base.errors import CheckpointError, ConfigError
from distrl.base.files import raise_if_full, sha256, write_atomic_with
from distrl.store.replay.layout import Leaf

PAGE = mmap.ALLOCATIONGRANULARITY
MAP_FIXED = 0x10
TYPES = {"f": "F", "i": "I", "u": "U"}


class SegmentRing:
    """Ring of segments with the newest `capacity` rows, and `extra_rows` behind it.

    `segment_rows` is for files a multiple of `PAGE`. Existing files in `folder` are removed; None stores segments in
    memory.
    """

    def __init__(
        self, leaves: Sequence[Leaf], capacity: int, segment_rows: int, extra_rows: int, folder: Path | None = None
    ):
        self.leaves = list(leaves)
        self.segment_rows = segment_rows
        self.segments = -(-capacity // segment_rows) + 1
        self.rows = self.segments * segment_rows  # one segment more than the capacity needs
        self.extra_rows = extra_rows
        self.folder = folder
        self.ready = 0  # rows below it lie in segments that were begun
        self.files: dict[int, tuple[Path, str]] = {}  # path and checksum of segments that are complete on disk
        self._reserved: list[mmap.mmap] = []
        if folder is None:
            self.arrays = {leaf.name: np.zeros((self.rows + extra_rows, *leaf.shape), leaf.dtype) for leaf in leaves}
            return
        if sys.platform not in ("linux", "darwin"):
            raise ConfigError(f"replay: files cannot be mapped on {sys.platform}.", "Set the replay's memory_map off.")
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("segment-*.safetensors"):
            stale.unlink()
        self.arrays = {leaf.name: self._reserve(leaf) for leaf in leaves}

    def _reserve(self, leaf: Leaf) -> np.ndarray:
        """Reserve the addresses of a column, onto which files are mapped later."""
        count = self.rows + self.extra_rows
        memory = mmap.mmap(-1, max(1, count * leaf.nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._reserved.append(memory)
        elements = np.frombuffer(memory, leaf.dtype, count * (leaf.nbytes // leaf.dtype.itemsize))
        return elements.reshape(count, *leaf.shape)

    def begin(self, end: int) -> None:
        """Begin the segments of rows below `end`; raise ResourceError if the disk is full."""
        while self.ready < end:
            segment = self.ready // self.segment_rows
            self.files.pop(segment - self.segments, None)
            if self.folder is None:
                start = self.start(segment)
                self.arrays["flags"][start : start + self.segment_rows] = 0
            else:
                self._path(segment - self.segments).unlink(missing_ok=True)  # a checkpoint's link keeps its content
                self._create(self._path(segment))
                self._map(segment)
            self.ready += self.segment_rows

    def start(self, segment: int) -> int:
        """Return the first slot of a segment."""
        return segment * self.segment_rows % self.rows

    def _path(self, segment: int) -> Path:
        return Path(self.folder or "") / segment_name(segment)

    def _create(self, path: Path) -> None:
        header = self._header(self.segment_rows)
        try:
            with open(path, "xb") as file:
                file.write(header)
                size = len(header) + self.segment_rows * sum(leaf.nbytes for leaf in self.leaves)
                if hasattr(os, "posix_fallocate"):  # a mapped write to a hole of a full disk would kill the process
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise_if_full(error, path)
            raise

    def _map(self, segment: int) -> None:
        """Map a segment's file onto its slots."""
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        offset = len(self._header(self.segment_rows))
        with open(self._path(segment), "r+b") as file:
            for leaf in self.leaves:
                length = self.segment_rows * leaf.nbytes
                address = self.arrays[leaf.name].ctypes.data + self.start(segment) * leaf.nbytes
                rights = mmap.PROT_READ | mmap.PROT_WRITE
                found = libc.mmap(address, length, rights, mmap.MAP_SHARED | MAP_FIXED, file.fileno(), offset)
                if found != address:
                    code = ctypes.get_errno()
                    raise OSError(code, f"cannot map {self._path(segment)}: {os.strerror(code)}")
                offset += length

    def _header(self, rows: int) -> bytes:
        """Make the safetensors header for `rows` rows, padded to whole pages."""
        table: dict[str, dict[str, object]] = {}
        offset = 0
        for leaf in self.leaves:
            end = offset + rows * leaf.nbytes
            kind = leaf.dtype.kind
            name = "BOOL" if kind == "b" else f"{TYPES[kind]}{8 * leaf.dtype.itemsize}"
            table[leaf.name] = {"dtype": name, "shape": [rows, *leaf.shape], "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(table).encode()
        size = -(-(len(text) + 8) // PAGE) * PAGE - 8
        return size.to_bytes(8, "little") + text.ljust(size)

    def save(self, segment: int, rows: int, folder: Path) -> tuple[str, str]:
        """Save the first rows of a segment, linked if complete; returns file name and checksum."""
        target = folder / segment_name(segment)
        if rows == self.segment_rows and self.folder is not None and segment not in self.files:
            path = self._path(segment)
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            self.files[segment] = path, sha256(path)
        if segment in self.files:
            path, checksum = self.files[segment]
            if _link(path, target):
                return target.name, checksum
        writer = _Writer(self, segment, rows)
        write_atomic_with(target, writer)
        checksum = writer.digest.hexdigest()
        if rows == self.segment_rows:
            self.files[segment] = target, checksum
        return target.name, checksum

    def load(self, segment: int, rows: int, path: Path, checksum: str) -> None:
        """Load a file of `save` as the next segment; CheckpointError if missing or changed."""
        if not path.is_file() or sha256(path) != checksum:
            raise CheckpointError(f"{path} is missing or damaged.", "Resume from an older checkpoint.")
        header = self._header(rows)
        with open(path, "rb") as file:
            if file.read(len(header)) != header:
                raise CheckpointError(f"{path} holds other columns than this replay.", "Resume with its own config.")
            self.ready = segment * self.segment_rows
            whole = rows == self.segment_rows
            if whole and self.folder is not None and _link(path, self._path(segment)):
                self._map(segment)
                self.ready += self.segment_rows
            else:
                self.begin(self.ready + 1)
                self._read(segment, rows, file)
        if whole:
            self.files[segment] = path if self.folder is None else self._path(segment), checksum

    def _read(self, segment: int, rows: int, file: IO[bytes]) -> None:
        start = self.start(segment)
        for leaf in self.leaves:
            block = self.arrays[leaf.name][start : start + rows]
            block[...] = np.frombuffer(file.read(block.nbytes), leaf.dtype).reshape(block.shape)


class _Writer:
    """Writer of one segment, which computes its checksum."""

    def __init__(self, ring: SegmentRing, segment: int, rows: int):
        self.ring, self.segment, self.rows = ring, segment, rows
        self.digest = hashlib.sha256()

    def __call__(self, file: IO[bytes]) -> None:
        self.digest = hashlib.sha256()
        start = self.ring.start(self.segment)
        blocks = (self.ring.arrays[leaf.name][start : start + self.rows] for leaf in self.ring.leaves)
        parts: list[bytes | memoryview] = [
            self.ring._header(self.rows),
            *(block.reshape(-1).view(np.uint8).data for block in blocks),
        ]
        for part in parts:
            self.digest.update(part)
            file.write(part)


def segment_name(segment: int) -> str:
    """Return the file name of a segment."""
    return f"segment-{segment:010d}.safetensors"


def mapped_rows(segment_rows: int) -> int:
    """Round the rows of a segment up so that every column fills whole pages."""
    return -(-segment_rows // PAGE) * PAGE


def _link(path: Path, target: Path) -> bool:
    """Hard-link a file; False where it is missing or the file system has no hard links."""
    try:
        target.unlink(missing_ok=True)
        os.link(path, target)
    except OSError:
        return False
    return True
