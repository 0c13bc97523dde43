from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distrl.monitor.lines import read_lines
from distrl.monitor.monitor import ResumePoint


@pytest.fixture
def full_disk(monkeypatch):
    """After `full_disk()`, every write to a line file takes four bytes and then finds no space."""
    real, calls = os.write, []

    def fill() -> None:
        def write(handle: int, data: bytes) -> int:
            calls.append(handle)
            if len(calls) % 2:
                return real(handle, data[:4])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("distrl.monitor.lines.os.write", write)

    return fill


def test_a_full_disk_silences_the_files_and_not_the_training(make, run_dir: Path, capsys, full_disk):
    monitor = make(console="plain")
    monitor.update({"loss/value": 1.0}, 10, 1)
    monitor.flush()
    full_disk()
    for update in range(2, 6):
        monitor.update({"loss/value": 1.0}, update * 10, update)
        monitor.event("checkpoint", update=update)
        monitor.flush()
    shown = capsys.readouterr().out
    for name in ("metrics.jsonl", "events.jsonl", "log.txt"):
        assert shown.count(f"{name} is no longer written: the disk is full") == 1
    assert [line["update"] for line in read_lines(run_dir / "metrics.jsonl")] == [1]


def test_tensorboard_goes_silent_too(make, run_dir: Path, capsys, full_disk):
    monitor = make(console="plain")
    monitor.update({"loss/value": 1.0}, 10, 1)
    monitor.flush()
    full_disk()
    for update in range(2, 5):
        monitor.update({"loss/value": 1.0}, update * 10, update)
        monitor.flush()
    monitor.close({"seed": 0})
    assert capsys.readouterr().out.count("TensorBoard is no longer written: the disk is full") == 1
    assert [point.step for point in EventAccumulator(str(run_dir / "tb")).Reload().Scalars("loss/value")] == [10]


def test_a_disk_that_has_room_again_is_written_again(make, run_dir: Path, capsys, full_disk, monkeypatch):
    monitor = make(console="plain")
    with monkeypatch.context() as patch:
        patch.setattr("distrl.monitor.lines.RETRY_SECONDS", 0.0)
        for update in range(1, 7):
            if update == 3:
                full_disk()
            if update == 5:
                monkeypatch.undo()
            monitor.update({"loss/value": 1.0}, update * 10, update)
            monitor.event("checkpoint", update=update)
            monitor.flush()
    monitor.close({"seed": 0})
    shown = capsys.readouterr().out
    for name in ("metrics.jsonl", "events.jsonl", "TensorBoard"):
        assert shown.count(f"{name} is no longer written: the disk is full") == 1
        assert shown.count(f"{name} is written again") == 1
    kept = [1, 2, 5, 6]
    assert [line["update"] for line in read_lines(run_dir / "metrics.jsonl")] == kept
    assert [line["facts"]["update"] for line in read_lines(run_dir / "events.jsonl")] == kept
    board = EventAccumulator(str(run_dir / "tb")).Reload()
    assert [point.step for point in board.Scalars("loss/value")] == [10 * update for update in kept]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_truly_full_device(make, run_dir: Path, capsys):
    (run_dir / "events.jsonl").symlink_to("/dev/full")
    monitor = make(console="plain")
    monitor.event("checkpoint")
    monitor.event("checkpoint")
    assert capsys.readouterr().out.count("events.jsonl is no longer written: the disk is full") == 1


def test_a_resume_on_a_full_disk_keeps_the_old_lines(make, run_dir: Path, capsys, monkeypatch):
    first = make(1)
    first.update({"loss/value": 1.0}, 10, 1)
    first.close()
    before = (run_dir / "metrics.jsonl").read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("distrl.base.files.os.fsync", refuse)
    second = make(2, console="plain", resume_at=ResumePoint(0, 0))
    second.update({"loss/value": 2.0}, 10, 1)
    second.close()
    assert "metrics.jsonl is no longer written: disk full" in capsys.readouterr().out
    assert (run_dir / "metrics.jsonl").read_bytes() == before
