"""Schema of token episodes: rows of prompt and answer tokens of different lengths.

A `Columns` in Arrow's list layout: concatenated values of all rows, and the offsets of the rows. Tokens are exactly the
engine's input and output and are never tokenized again.
The columns are listed in docs/internals.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distrl.base.columns import Columns

PROMPT, MODEL, ENVIRONMENT, FORCED = range(4)

TOKEN_COLUMNS = {"tokens": np.int32, "kind": np.uint8, "mask": np.bool_, "logp": np.float32, "version": np.int32}
ROW_COLUMNS = {
    "group": np.int64,
    "item": np.int64,
    "components": np.float64,
    "answer": np.int64,
    "correct": np.bool_,
    "verified": np.bool_,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "budget": np.int32,
    "parent": np.int64,
}
TEMPERATURE_SCALE = "temperature_scale"  # a column of rows that most episodes do not have
PADDING = {"tokens": 0, "kind": PROMPT, "mask": False, "logp": 0.0, "version": -1}


def check_episodes(episodes: Columns) -> Columns:
    """Check types and lengths of columns; return the episodes or raise a `ValueError`."""
    offsets = episodes.offsets
    rows, total = len(offsets) - 1, int(offsets[-1])
    if offsets[0] != 0 or (np.diff(offsets) < 1).any():
        raise ValueError("episodes: offsets must rise from 0, every row has a token")
    for names, length in ((TOKEN_COLUMNS, total), (ROW_COLUMNS, rows)):
        for name, dtype in names.items():
            column = episodes.get(name)
            if column is None or column.dtype != dtype or len(column) != length:
                found = "missing" if column is None else f"{column.dtype} {column.shape}"
                raise ValueError(f"episodes: {name} is {found}; expected {np.dtype(dtype)} of length {length}")
    if TEMPERATURE_SCALE in episodes:
        scale = episodes.temperature_scale
        if scale.dtype != np.float32 or len(scale) != rows:
            raise ValueError(f"episodes: temperature_scale is {scale.dtype} {scale.shape}; expected float32 ({rows},)")
    ends = episodes.get("support_offsets")
    if "support" in episodes and (len(ends) != total + 1 or ends[-1] != len(episodes.support)):
        raise ValueError("episodes: support_offsets does not fit tokens and support")
    if (episodes.mask & (episodes.kind != MODEL) & (episodes.kind != FORCED)).any():
        raise ValueError("episodes: a token that is no part of an answer is marked as learned from")
    return episodes


def cat_episodes(parts: Sequence[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    names = (*TOKEN_COLUMNS, *ROW_COLUMNS)
    joined: dict[str, np.ndarray] = {name: np.concatenate([part[name] for part in parts]) for name in names}
    first_rows = np.cumsum([0, *(len(part.group) for part in parts[:-1])])
    parents = [np.where(part.parent < 0, -1, part.parent + row) for part, row in zip(parts, first_rows, strict=True)]
    joined["parent"] = np.concatenate(parents)
    joined["offsets"] = _cat_offsets([part.offsets for part in parts])
    if any(TEMPERATURE_SCALE in part for part in parts):
        scales = [part.get(TEMPERATURE_SCALE, np.ones(len(part.group), np.float32)) for part in parts]
        joined[TEMPERATURE_SCALE] = np.concatenate(scales)
    if "support" in parts[0]:
        joined["support"] = np.concatenate([part.support for part in parts])
        joined["support_offsets"] = _cat_offsets([part.support_offsets for part in parts])
    return Columns(**joined)


def _cat_offsets(offsets: Sequence[np.ndarray]) -> np.ndarray:
    ends = np.cumsum([0, *(part[-1] for part in offsets)])
    return np.concatenate([[0], *(part[1:] + begin for part, begin in zip(offsets, ends[:-1], strict=True))])


def pad_episodes(episodes: Columns) -> Columns:
    """Pad token columns to (R, L) and support ids to (R, L, most) with -1; add `length` (R,)."""
    lengths = np.diff(episodes.offsets)
    rows, width = len(lengths), int(lengths.max())
    inside = np.arange(width) < lengths[:, None]
    padded: dict[str, np.ndarray] = {}
    for name, dtype in TOKEN_COLUMNS.items():
        padded[name] = np.full((rows, width), PADDING[name], dtype)
        padded[name][inside] = episodes[name]
    if "support" in episodes:
        counts = np.diff(episodes.support_offsets)
        flat = np.full((len(counts), max(int(counts.max()), 1)), -1, np.int32)
        flat[np.arange(flat.shape[1]) < counts[:, None]] = episodes.support
        padded["support"] = np.full((rows, width, flat.shape[1]), -1, np.int32)
        padded["support"][inside] = flat
    names = (*ROW_COLUMNS, TEMPERATURE_SCALE) if TEMPERATURE_SCALE in episodes else ROW_COLUMNS
    return Columns(**padded, **{name: episodes[name] for name in names}, length=lengths)


def to_arrow(episodes: Columns, component_names: Sequence[str] = ()) -> Any:
    """Convert to a pyarrow table for Parquet files, one row per episode; needs the extra `llm`."""
    import pyarrow as pa

    def lists(name: str) -> Any:
        return pa.ListArray.from_arrays(pa.array(episodes.offsets.astype(np.int32)), pa.array(episodes[name]))

    columns = {name: lists(name) for name in TOKEN_COLUMNS}
    if "support" in episodes:
        inner = pa.ListArray.from_arrays(
            pa.array(episodes.support_offsets.astype(np.int32)), pa.array(episodes.support)
        )
        columns["support"] = pa.ListArray.from_arrays(pa.array(episodes.offsets.astype(np.int32)), inner)
    columns |= {name: pa.array(episodes[name]) for name in ROW_COLUMNS if name != "components"}
    columns[TEMPERATURE_SCALE] = pa.array(episodes.get(TEMPERATURE_SCALE, np.ones(len(episodes.group), np.float32)))
    names = list(component_names) or [str(k) for k in range(episodes.components.shape[1])]
    columns |= {f"reward/{name}": pa.array(episodes.components[:, k]) for k, name in enumerate(names)}
    return pa.table(columns)
