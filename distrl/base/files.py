"""Atomic file writes (temporary file, fsync, rename), checksums and JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from distrl.base.errors import ResourceError


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file atomically: readers and crashes see the old content or the new.

    Raises:
        ResourceError: The disk is full; the old content is untouched.
    """
    payload = data.encode() if isinstance(data, str) else data
    write_atomic_with(path, lambda file: file.write(payload))


def write_atomic_with(path: str | os.PathLike[str], write: Callable[[IO[bytes]], object]) -> None:
    """Write a file atomically through a function of the file object."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # mkstemp makes files that only their owner can read
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise_if_full(error, path)
        raise
    fsync_dir(path.parent)


def raise_if_full(error: OSError, path: str | os.PathLike[str]) -> None:
    """Raise ResourceError with the free space if `error` is "no space left"."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return
    folder = Path(path).parent
    free = shutil.disk_usage(folder if folder.exists() else Path.cwd()).free
    raise ResourceError(
        f"disk full while writing {path}: {free / 2**20:.1f} MiB free.",
        "Free some space, or start with --runs-dir on another disk; earlier saves are untouched.",
    ) from error


def fsync_dir(folder: str | os.PathLike[str]) -> None:
    """Flush renames inside `folder` to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | os.PathLike[str]) -> str:
    """Compute the SHA-256 checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: str | os.PathLike[str]) -> Any:
    """Parse a JSON file."""
    return json.loads(Path(path).read_text())


def to_json(value: object, **options: Any) -> str:
    """Serialize to JSON; numpy scalars become numbers, paths become strings."""
    return json.dumps(value, default=_plain, **options)


def _plain(value: Any) -> object:
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
