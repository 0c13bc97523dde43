"""Restamping: only records that were current and whose numbers are the same get new hashes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # scripts, not a package

import restamp
from cells import Cell
from records import Places

from distrl.base.files import read_json, to_json, write_atomic

CELL = Cell("tiny", "CartPole-v1", "PPO", "cartpole_ppo", 475, 100_000)
HASH, OTHER = "abc1", "abc2"


@pytest.fixture
def run(tmp_path: Path) -> restamp.Run:
    """A run whose record has hashes of an older version."""
    places = Places(tmp_path / "learning", tmp_path / "runs", tmp_path / "learning.md")
    write_record(places, {"cell": "tiny", "code": "old", "config": "old", "score": 1.0})
    return restamp.Run("learning", places, CELL, 0)


def write_record(places: Places, record: dict[str, Any]) -> None:
    write_atomic(places.records / "tiny-seed0.json", to_json(record))


@pytest.mark.parametrize(
    ("state", "before", "after", "result"),
    [
        ("current", HASH, HASH, restamp.STAMPED),
        ("stale", HASH, HASH, "stale in the older version"),
        ("current", HASH, OTHER, "other numbers"),
        ("current", "error: x", "error: x", "other numbers"),
        ("current", HASH, None, "no fingerprint"),
    ],
)
def test_equal_numbers_of_current_records(
    run: restamp.Run, state: str, before: str, after: str | None, result: str
) -> None:
    states, setting = {"learning/tiny-seed0.json": state}, "cell/learning/tiny"
    known = {setting: after} if after else {}
    arguments = ([run], states, {setting: before}, known, {})
    assert restamp.restamp(*arguments, dry_run=True) == {"learning/tiny-seed0.json": result}
    assert read_json(run.places.record(CELL, 0))["code"] == "old"
    restamp.restamp(*arguments)
    record = read_json(run.places.record(CELL, 0))
    stamped = result == restamp.STAMPED
    assert ({key: record[key] for key in ("code", "config")} == CELL.hashes(0)) is stamped
    again = restamp.CURRENT if stamped else result
    assert restamp.restamp(*arguments) == {"learning/tiny-seed0.json": again}


def test_a_renamed_cell_takes_its_record_along(run: restamp.Run) -> None:
    renamed = replace(run, cell=replace(CELL, name="small"))
    states, before, after = {"learning/tiny-seed0.json": "current"}, "cell/learning/tiny", "cell/learning/small"
    found = restamp.restamp([renamed], states, {before: HASH}, {after: HASH}, {"small": "tiny"})
    assert found == {"learning/small-seed0.json": restamp.STAMPED}
    assert read_json(run.places.record(renamed.cell, 0))["cell"] == "small"
    assert not run.places.record(CELL, 0).exists()


def test_a_record_that_is_missing_is_named(run: restamp.Run) -> None:
    assert restamp.restamp([replace(run, seed=1)], {}, {}, {}, {}) == {"learning/tiny-seed1.json": "no record"}
