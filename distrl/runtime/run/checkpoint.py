"""Checkpoints: folders with a manifest, written atomically and verified before use.

    checkpoints/update_00000120/
        learner.safetensors, streams.safetensors, progress.safetensors  states
        policy.safetensors, replay/                                     see deploy.policy_file; off-policy only
        manifest.json                                                   checksums; written last

Full segments of a replay never change: checkpoints share them by hard links, and each is hashed once.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

from distrl.base.errors import CheckpointError
from distrl.base.files import fsync_dir, raise_if_full, read_json, sha256, to_json, write_atomic
from distrl.base.pack import State, load_state, save_state

FORMAT = "distrl-checkpoint-1"
STATES = ("learner", "streams", "progress")
REPLAY_FOLDER = "replay"
LEARNER_FILE = "learner.safetensors"
#: Fix for a learner on a machine with other disks.
SHARED = "Put --runs-dir on a file system that every machine of the cluster sees."


class CheckpointStates(TypedDict):
    """A checkpoint that was read: its states, and the folder with its other files."""

    learner: State
    streams: State
    progress: State
    manifest: dict[str, object]
    folder: Path


def write_checkpoint(
    folder: Path,
    update: int,
    states: Mapping[str, object],
    extra_files: Mapping[str, Callable[[Path], None]],
    facts: Mapping[str, object],
    keep: int,
) -> Path:
    """Write `folder/update_NNN`, and keep the newest `keep` checkpoints.

    `extra_files` are functions that write a file or a folder, `facts` further entries of the manifest. A full disk
    raises a `ResourceError` and leaves older checkpoints untouched.
    """
    final = folder / f"update_{update:08d}"
    temporary = folder / f".update_{update:08d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, state in states.items():
            save_state(temporary / f"{name}.safetensors", state)
        for name, write in extra_files.items():
            write(temporary / name)
        found = sorted(path for path in temporary.rglob("*") if path.is_file())
        files = {path.relative_to(temporary).as_posix(): _checksum(path) for path in found}
        manifest = {"format": FORMAT, "update": update, "written": time.time(), "files": files, **facts}
        write_atomic(temporary / "manifest.json", to_json(manifest, indent=1))
        if final.exists():  # a resumed run repeats an update
            shutil.rmtree(final)
        temporary.rename(final)
        fsync_dir(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise_if_full(error, final)
        raise
    there = list_checkpoints(folder)
    damaged = [path for path in there if path.name > final.name]  # the run was resumed from an older one
    for old in [*damaged, *there[len(damaged) + keep :]]:
        shutil.rmtree(old, ignore_errors=True)
    return final


#: Files with several hard links: (device, inode, size, modification time) -> checksum.
_known_checksums: dict[tuple[int, int, int, int], str] = {}


def _checksum(path: Path) -> str:
    """Hash a file of a new checkpoint; files shared with earlier checkpoints are not read again."""
    facts = path.stat()
    if facts.st_nlink == 1:
        return sha256(path)
    key = facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
    if key not in _known_checksums:
        if len(_known_checksums) > 100_000:
            _known_checksums.clear()
        _known_checksums[key] = sha256(path)
    return _known_checksums[key]


def list_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoint folders, newest first."""
    return sorted((path for path in folder.glob("update_*") if path.is_dir()), reverse=True)


def read_checkpoint(path: Path) -> CheckpointStates:
    """Verify and read a checkpoint; raise if it is damaged or of another format."""
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise CheckpointError(f"{path} has no manifest.json: not a checkpoint, or not finished.")
    try:
        facts = read_json(manifest)
    except ValueError as error:
        raise CheckpointError(f"{manifest} is not JSON: {error}.") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
        raise CheckpointError(f"{path} has format {found!r}; this version reads {FORMAT!r}.")
    for name, checksum in facts["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path} lacks {name}.")
        if sha256(file) != checksum:
            raise CheckpointError(f"{file} does not match its checksum: truncated or changed.")
    learner, streams, progress = (load_state(path / f"{name}.safetensors") for name in STATES)
    return {"learner": learner, "streams": streams, "progress": progress, "manifest": facts, "folder": path}


def newest_valid(folder: Path) -> tuple[Path, CheckpointStates, list[str]]:
    """Read the newest valid checkpoint; return its path, states, and the problems of newer ones."""
    problems: list[str] = []
    for path in list_checkpoints(folder):
        try:
            return path, read_checkpoint(path), problems
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError(f"no usable checkpoint in {folder}: " + " ".join(problems), "Start a new run.")
    raise CheckpointError(f"no checkpoint in {folder}.", "Nothing can be resumed; start without --resume.")
