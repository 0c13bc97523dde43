from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distrl.monitor.lines import read_lines
from distrl.monitor.monitor import ResumePoint


def board(run_dir: Path) -> EventAccumulator:
    return EventAccumulator(str(run_dir / "tb"), purge_orphaned_data=True).Reload()


def train(monitor, updates: range, value: float) -> None:
    for update in updates:
        monitor.update({"return/mean": value, "loss/value": value}, update * 100, update)
        monitor.flush()


def test_one_unbroken_curve_after_a_crash_beyond_the_checkpoint(make, run_dir: Path):
    first = make(1)
    train(first, range(1, 11), value=1.0)
    first.close()
    second = make(2, resume_at=ResumePoint(env_steps=600, update=6, wall_s=50.0))
    train(second, range(7, 13), value=2.0)
    second.close({"seed": 0})

    expected = [(update * 100, 1.0 if update <= 6 else 2.0) for update in range(1, 13)]
    for tag in ("return/mean", "loss/value"):
        assert [(point.step, point.value) for point in board(run_dir).Scalars(tag)] == expected
        lines = read_lines(run_dir / "metrics.jsonl")
        assert [(line["env_steps"], line[tag]) for line in lines] == expected
    assert all(line["wall_s"] >= 50.0 for line in lines if line["update"] > 6)


def test_tags_that_are_not_written_again_are_purged_too(make, run_dir: Path):
    first = make(1)
    first.update({"eval/return_mean": 3.0}, 500, 5)
    first.update({"eval/return_mean": 9.0}, 900, 9)
    first.close()
    make(2, resume_at=ResumePoint(500, 5)).close()
    assert [(point.step, point.value) for point in board(run_dir).Scalars("eval/return_mean")] == [(500, 3.0)]


def test_a_third_attempt_that_goes_further_back(make, run_dir: Path):
    for attempt, (resume, value) in enumerate([(None, 1.0), (ResumePoint(500, 5), 2.0), (ResumePoint(200, 2), 3.0)], 1):
        monitor = make(attempt, resume_at=resume)
        begin = resume.update if resume else 0
        train(monitor, range(begin + 1, begin + 7), value)
        monitor.close()
    points = board(run_dir).Scalars("return/mean")
    assert [point.step for point in points] == list(range(100, 900, 100))
    assert [point.value for point in points] == [1.0, 1.0] + [3.0] * 6
    assert all(a.step < b.step for a, b in pairwise(points))


def test_a_second_attempt_without_a_checkpoint_begins_anew(make, run_dir: Path):
    first = make(1)
    train(first, range(1, 4), value=1.0)
    first.close()
    second = make(2)
    train(second, range(1, 3), value=2.0)
    second.close()
    assert [line["return/mean"] for line in read_lines(run_dir / "metrics.jsonl")] == [2.0, 2.0]
    assert [point.value for point in board(run_dir).Scalars("return/mean")] == [2.0, 2.0]


def test_torn_ends_of_every_file_are_survived(make, run_dir: Path):
    first = make(1)
    train(first, range(1, 6), value=1.0)
    first.event("checkpoint", update=5)
    first.close()
    (event_file,) = (run_dir / "tb").iterdir()
    event_file.write_bytes(event_file.read_bytes()[:-7])
    for name in ("metrics.jsonl", "events.jsonl", "log.txt"):
        with (run_dir / name).open("ab") as file:
            file.write(b'{"env_steps": 60')
    second = make(2, resume_at=ResumePoint(400, 4))
    train(second, range(5, 8), value=2.0)
    second.event("stop", reason="max_steps")
    second.close()
    assert [line["update"] for line in read_lines(run_dir / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["kind"] for line in read_lines(run_dir / "events.jsonl")] == ["checkpoint", "stop"]
    assert [point.step for point in board(run_dir).Scalars("return/mean")] == [100, 200, 300, 400, 500, 600, 700]


def test_event_files_are_read_in_order_even_when_the_clock_went_back(make, run_dir: Path, monkeypatch):
    train(make(1), range(1, 6), value=1.0)
    monkeypatch.setattr("distrl.monitor.tensorboard.time.time", lambda: 1_000_000_000.0)
    train(make(2, resume_at=ResumePoint(200, 2)), range(3, 5), value=2.0)
    assert [point.value for point in board(run_dir).Scalars("return/mean")] == [1.0, 1.0, 2.0, 2.0]


def test_speed_does_not_count_the_steps_of_earlier_attempts(make):
    monitor = make(2, resume_at=ResumePoint(1_000_000, 1000, wall_s=100.0))
    view = monitor.view()
    assert view.steps_per_s == 0.0
    assert view.wall_s == pytest.approx(100.0, abs=5.0)
    assert not math.isnan(view.updates_per_s)
