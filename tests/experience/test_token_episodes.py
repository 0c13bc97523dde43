"""Ragged rows of tokens: joining and padding against loops over rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.columns import Columns
from distrl.experience import token_episodes as e


def rows_of(lengths: list[tuple[int, int]], seed: int, support: bool) -> Columns:
    """Rows with these numbers of prompt and answer tokens."""
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0, *(prompt + answer for prompt, answer in lengths)]).astype(np.int64)
    total, count = int(offsets[-1]), len(lengths)
    answered = np.concatenate([[False] * prompt + [True] * answer for prompt, answer in lengths]).astype(bool)
    columns = {
        "offsets": offsets,
        "tokens": rng.integers(0, 50, total).astype(np.int32),
        "kind": np.where(answered, e.MODEL, e.PROMPT).astype(np.uint8),
        "mask": answered,
        "logp": np.where(answered, rng.normal(size=total), 0).astype(np.float32),
        "version": np.where(answered, 3, -1).astype(np.int32),
        "group": rng.integers(0, 3, count),
        "item": rng.integers(0, 9, count),
        "components": rng.random((count, 2)),
        "answer": rng.integers(-1, 5, count),
        "correct": rng.random(count) < 0.5,
        "verified": rng.random(count) < 0.9,
        "terminated": np.ones(count, bool),
        "truncated": np.zeros(count, bool),
        "budget": np.full(count, 9, np.int32),
        "parent": np.array([-1, *range(count - 1)]),
    }
    if support:
        sizes = np.where(answered, rng.integers(1, 4, total), 0)
        columns["support_offsets"] = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        columns["support"] = rng.integers(0, 50, sizes.sum()).astype(np.int32)
    return e.check_episodes(Columns(**columns))


LENGTHS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=4)


@given(st.lists(LENGTHS, min_size=1, max_size=4), st.booleans(), st.integers(0, 99))
def test_joined_rows_are_the_rows(parts: list[list[tuple[int, int]]], support: bool, seed: int) -> None:
    single = [rows_of(lengths, seed + number, support) for number, lengths in enumerate(parts)]
    joined = e.check_episodes(e.cat_episodes(single))
    row = 0
    for part in single:
        first = row
        for mine in range(len(part.group)):
            span, whole = slice(*part.offsets[mine : mine + 2]), slice(*joined.offsets[row : row + 2])
            for name in e.TOKEN_COLUMNS:
                assert part[name][span].tolist() == joined[name][whole].tolist()
            for name in e.ROW_COLUMNS:
                if name != "parent":
                    assert np.array_equal(part[name][mine], joined[name][row])
            assert joined.parent[row] == (-1 if mine == 0 else first + mine - 1)
            row += 1
    assert row == len(joined.group)


@given(LENGTHS, st.booleans(), st.integers(0, 99))
def test_padding_adds_nothing_that_counts(lengths: list[tuple[int, int]], support: bool, seed: int) -> None:
    rows = rows_of(lengths, seed, support)
    padded = e.pad_episodes(rows)
    for row, (prompt, answer) in enumerate(lengths):
        end, span = prompt + answer, slice(*rows.offsets[row : row + 2])
        for name in e.TOKEN_COLUMNS:
            assert padded[name][row, :end].tolist() == rows[name][span].tolist()
            assert (padded[name][row, end:] == e.PADDING[name]).all()
        if support:
            for place in range(end):
                token = rows.offsets[row] + place
                wanted = rows.support[rows.support_offsets[token] : rows.support_offsets[token + 1]].tolist()
                found = padded.support[row, place]
                assert found[found >= 0].tolist() == wanted
            assert (padded.support[row, end:] == -1).all()
    assert padded.length.tolist() == [prompt + answer for prompt, answer in lengths]


def test_wrong_rows_are_named() -> None:
    rows = rows_of([(2, 3), (1, 1)], 0, support=False)
    for change, message in (
        ({"logp": rows.logp.astype(np.float64)}, "logp is float64"),
        ({"mask": np.ones_like(rows.mask)}, "no part of an answer"),
        ({"item": rows.item[:1]}, "expected int64 of length 2"),
        ({"offsets": np.array([0, 5, 5])}, "every row has a token"),
    ):
        with pytest.raises(ValueError, match=message):
            e.check_episodes(rows.with_(**change))
    with pytest.raises(ValueError, match="version is missing"):
        e.check_episodes(rows.without("version"))


def test_an_arrow_table_holds_every_row() -> None:
    pytest.importorskip("pyarrow")  # extra llm
    rows = rows_of([(2, 3), (1, 1)], 0, support=False)
    table = e.to_arrow(rows, ["success", "form"])
    assert table.num_rows == 2
    assert table["tokens"].to_pylist() == [rows.tokens[:5].tolist(), rows.tokens[5:].tolist()]
    assert table["reward/form"].to_pylist() == rows.components[:, 1].tolist()
