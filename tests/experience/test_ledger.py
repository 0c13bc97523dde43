"""The ledger: what it refuses, and what it keeps when a process dies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distrl.experience.fragment import Unit
from distrl.experience.ledger import Ledger

A, B = Unit(0, 0), Unit(0, 1)


def finished(*units: Unit) -> Ledger:
    ledger = Ledger()
    for unit in units:
        ledger.start(unit)
        ledger.finish(unit)
    return ledger


def test_every_fate_is_counted() -> None:
    units = [Unit(seq, 0) for seq in range(6)]
    ledger = finished(*units)
    ledger.consume(units[:2], env_steps=64, staleness=1)
    ledger.end(units[2], "evicted")
    ledger.end(units[3], "lost")
    ledger.end(units[4], "rolled_back")
    ledger.start(Unit(6, 0))
    ledger.cut(Unit(6, 0))
    ledger.start(Unit(6, 0))
    ledger.check()
    assert ledger.read() == {
        "started": 8, "finished": 6, "cut": 1, "consumed": 2, "evicted": 1, "lost": 1, "rolled_back": 1,
        "running": 1, "waiting": 1, "env_steps": 64, "staleness_max": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "again",
    [
        lambda ledger: ledger.start(A),
        lambda ledger: ledger.consume([A]),
        lambda ledger: ledger.end(A, "evicted"),
        lambda ledger: ledger.end(A, "rolled_back"),
    ],
)
def test_no_unit_is_used_twice(again: Callable[[Ledger], None]) -> None:
    ledger = finished(A, B)
    ledger.consume([A])
    with pytest.raises(ValueError, match="Unit"):
        again(ledger)
    reread = Ledger.from_state(json.loads(json.dumps(ledger.to_state())))
    with pytest.raises(ValueError, match="Unit"):
        again(reread)


def test_units_may_end_in_any_order() -> None:
    units = [Unit(seq, 0) for seq in range(50)]
    ledger = finished(*units)
    for unit in [*units[1::2], *units[::2]]:
        ledger.consume([unit])
    assert all(ledger.ended(unit) for unit in units)
    assert not ledger.ended(Unit(50, 0))
    assert ledger.to_state()["ended_above"] == []  # nothing grows with the run


def test_what_runs_is_cut_in_a_checkpoint() -> None:
    ledger = finished(A)
    ledger.start(B)
    reread = Ledger.from_state(ledger.to_state())
    reread.check()
    assert reread.counts["cut"] == 1
    assert not reread.running
    reread.start(B)


def test_an_imbalance_is_found() -> None:
    ledger = finished(A)
    ledger.counts["consumed"] += 1
    with pytest.raises(AssertionError, match="does not balance"):
        ledger.check()


def test_a_killed_attempt_is_accounted_for(tmp_path: Path) -> None:
    """Checkpoint after one unit; then two more finish, one is cut, one is running, and the process dies."""
    live = tmp_path / "ledger.live"
    ledger = Ledger()
    ledger.mirror(live)
    ledger.start(A)
    ledger.finish(A)
    checkpoint = ledger.to_state()
    for seq in (1, 2):
        ledger.start(Unit(seq, 0))
        ledger.finish(Unit(seq, 0))
    ledger.start(Unit(3, 0))
    ledger.cut(Unit(3, 0))
    ledger.start(Unit(3, 0))

    resumed = Ledger.from_state(checkpoint)
    resumed.take_over(live)
    resumed.check()
    counts = resumed.read()
    assert (counts["started"], counts["finished"], counts["rolled_back"], counts["cut"]) == (5, 3, 2, 2)
    assert counts["waiting"] == 1
    resumed.start(Unit(1, 0))  # what was taken back is made again


@pytest.mark.parametrize("content", [None, b"", b"short", b"\xff" * 16])
def test_an_unusable_mirror_changes_nothing(tmp_path: Path, content: bytes | None) -> None:
    live = tmp_path / "ledger.live"
    if content is not None:
        live.write_bytes(content)
    ledger = finished(A)
    before = ledger.read()
    ledger.take_over(live)
    ledger.check()
    assert ledger.read() == before
