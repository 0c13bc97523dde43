"""Checkpoints of a replay; a loaded replay continues bit for bit.

segment-NNNNNNNNNN.safetensors   rows; complete segments are hard links
index.safetensors                successors, masses, newest observations, states of streams
manifest.json                    files with checksums; written last
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from distrl.base.errors import CheckpointError
from distrl.base.files import fsync_dir, sha256, to_json, write_atomic
from distrl.base.pack import load_state, save_state
from distrl.store.replay.rows import ReplayRows

FORMAT = 2


def save_replay(replay: ReplayRows, folder: str | Path) -> None:
    """Write a replay into a folder; raise ResourceError if the disk is full."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    ring = replay.ring
    segments = []
    if replay.head > replay.tail:
        for segment in range(replay.tail // ring.segment_rows, (replay.head - 1) // ring.segment_rows + 1):
            rows = min(ring.segment_rows, replay.head - segment * ring.segment_rows)
            name, checksum = ring.save(segment, rows, folder)
            segments.append({"segment": segment, "rows": rows, "file": name, "sha256": checksum})
    save_state(folder / "index.safetensors", _index_state(replay))
    checksum = sha256(folder / "index.safetensors")
    manifest = {"format": FORMAT, "shape": _shape(replay), "segments": segments, "index": checksum}
    write_atomic(folder / "manifest.json", to_json(manifest, indent=1))
    fsync_dir(folder)


def load_replay(replay: ReplayRows, folder: str | Path) -> None:
    """Load the files of `save_replay` into an empty replay.

    Raises CheckpointError for a missing or damaged file, or the files of another replay.
    """
    if replay.head:
        raise ValueError("only an empty replay can be loaded")
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        known = manifest["format"], manifest["shape"], manifest["segments"], manifest["index"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} holds no replay: {error}.", "Resume from an older checkpoint.") from error
    version, shape, segments, index = known
    if version != FORMAT:
        raise CheckpointError(f"{folder} has replay format {version}, expected {FORMAT}.", "Use that version.")
    for name, value in _shape(replay).items():
        if shape.get(name) != value:
            raise CheckpointError(
                f"the replay in {folder} has {name} {shape.get(name)}, this run's has {value}.",
                "Resume with the config that the checkpoint was made with.",
            )
    path = folder / "index.safetensors"
    if not path.is_file() or sha256(path) != index:
        raise CheckpointError(f"{path} is missing or damaged.", "Resume from an older checkpoint.")
    for entry in segments:
        replay.ring.load(entry["segment"], entry["rows"], folder / entry["file"], entry["sha256"])
    _load_index(replay, load_state(path))


def _shape(replay: ReplayRows) -> dict[str, Any]:
    """Collect the settings that a checkpoint must agree with."""
    columns = {leaf.name: [list(leaf.shape), str(leaf.dtype)] for leaf in replay.ring.leaves}
    return {
        "capacity": replay.capacity,
        "segment_rows": replay.ring.segment_rows,
        "num_envs": replay.num_envs,
        "frame_stack": replay.frame_stack,
        "prioritized": replay.tree is not None,
        "columns": columns,
    }


def _index_state(replay: ReplayRows) -> dict[str, Any]:
    """Collect the state outside the segments."""
    resident = replay.slots(replay.tail, replay.head - replay.tail)
    behind = slice(replay.ring.rows, None)
    stacked = replay.frame_stack > 1
    return {
        "counters": {name: getattr(replay, name) for name in ("tail", "head", "unsampled", "inserted", "evicted")},
        "max_priority": replay.max_priority,
        "next": replay.next_slot[resident],
        "prev": replay.prev_slot[resident] if stacked else None,
        "broken": replay.broken[resident] if stacked else None,
        "last_obs_prev": replay.prev_slot[behind] if stacked else None,
        "mass": None if replay.tree is None else replay.tree.mass[resident],
        "last_obs": {name: array[behind] for name, array in replay.ring.arrays.items()},
        "envs_used": replay.envs_used,
        "stacks_checked": replay.stacks_checked,
        "streams": [
            {
                "stream": stream,
                "width": state.width,
                "last_obs_row": int(state.last_obs_rows[0]),
                "last": state.last,
                "ended": list(state.ended),
                "sequence": state.sequence,
                "history": state.history,
            }
            for stream, state in replay.streams.items()
        ],
    }


def _load_index(replay: ReplayRows, state: dict[str, Any]) -> None:
    for name, value in state["counters"].items():
        setattr(replay, name, value)
    resident = replay.slots(replay.tail, replay.head - replay.tail)
    behind = slice(replay.ring.rows, None)
    replay.next_slot[resident] = state["next"]
    if replay.frame_stack > 1:
        replay.prev_slot[resident], replay.broken[resident] = state["prev"], state["broken"]
        replay.prev_slot[behind] = state["last_obs_prev"]
    if replay.tree is not None:
        mass = np.zeros(replay.tree.size)
        mass[resident] = state["mass"]
        replay.tree.set_range(0, replay.tree.size, mass)
    replay.raise_max_priority(state["max_priority"])
    for name, array in state["last_obs"].items():
        replay.ring.arrays[name][behind] = array
    replay.envs_used, replay.stacks_checked = state["envs_used"], state["stacks_checked"]
    for entry in state["streams"]:
        stream = replay.stream_state(entry["width"], entry["last_obs_row"])
        stream.last, stream.sequence, stream.history = entry["last"], entry["sequence"], entry["history"]
        stream.ended = bytes(entry["ended"])
        replay.streams[entry["stream"]] = stream
