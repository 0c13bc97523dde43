"""What benchmarks of training runs share: which runs are made, in which order, and how a command ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # scripts, not a package

import methods  # noqa: E402
import pretrained  # noqa: E402
import records  # noqa: E402
import risk_results  # noqa: E402
import runner  # noqa: E402
import staleness  # noqa: E402
from cells import Cell  # noqa: E402
from jobs import Job  # noqa: E402

SHORT = Cell("short", "CartPole-v1", "PPO", "cartpole_ppo", None, 100_000)
LONG = replace(SHORT, name="long", minutes=9.0)


class PretendedJob(Job):
    """Ends at its second look without a process, as its cell's name says."""

    events: list[str] = []
    looks = 0

    def start(self) -> None:
        self.again = False
        self.events.append(f"start {self.name}")

    def ended(self) -> bool:
        self.looks += 1
        if self.cell.name == "stopped":
            raise KeyboardInterrupt
        self.again = self.cell.name == "twice" and self.looks == 2
        self.problem = "exited with 1" if self.cell.name == "broken" else ""
        if self.looks >= 2:
            self.events.append(f"end {self.name}")
        return self.looks >= 2

    def interrupt(self) -> None:
        self.events.append(f"interrupt {self.name}")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> records.Places:
    monkeypatch.setattr(PretendedJob, "events", [])
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.0)
    return records.Places(tmp_path / "records", tmp_path / "runs", tmp_path / "page.md")


def put_record(places: records.Places, cell: Cell, seed: int) -> None:
    records.write_record(places, cell, seed, cell.hashes(seed))


def test_current_runs_are_left_out_and_the_order_is_kept(
    places: records.Places, capsys: pytest.CaptureFixture[str]
) -> None:
    put_record(places, SHORT, 1)
    pairs = [(SHORT, 0), (SHORT, 1), (LONG, 0)]
    assert runner.run_missing(places, pairs, PretendedJob) == []
    assert PretendedJob.events == ["start short-seed0", "end short-seed0", "start long-seed0", "end long-seed0"]
    assert capsys.readouterr().out.startswith("1 of 3 runs are current, 2 to do.\n")
    PretendedJob.events.clear()
    runner.run_missing(places, runner.longest_first(pairs), PretendedJob, force=True)
    assert PretendedJob.events[::2] == ["start long-seed0", "start short-seed0", "start short-seed1"]


def test_several_at_a_time_and_those_that_failed(places: records.Places) -> None:
    broken, twice = replace(SHORT, name="broken"), replace(SHORT, name="twice")
    failed = runner.run_missing(places, [(broken, 0), (twice, 0), (SHORT, 0)], PretendedJob, width=2)
    assert [job.name for job in failed] == ["broken-seed0"]
    assert PretendedJob.events == [
        *("start broken-seed0", "start twice-seed0", "end broken-seed0", "end twice-seed0"),
        *("start twice-seed0", "start short-seed0", "end twice-seed0", "end short-seed0"),
    ]


def test_a_job_has_the_time_of_its_cell_or_what_was_asked(places: records.Places) -> None:
    seen: list[tuple[float, bool]] = []

    class Seen(PretendedJob):
        def start(self) -> None:
            seen.append((self.timeout, self.fresh))

    runner.run_missing(places, [(replace(LONG, minutes=30.0), 0)], Seen)
    runner.run_missing(places, [(LONG, 0)], Seen)
    runner.run_missing(places, [(LONG, 0)], Seen, timeout=7.0, force=True)
    assert seen == [(9_000.0, False), (runner.LEAST_TIMEOUT, False), (7.0, True)]


def test_an_interrupted_command_lets_its_runs_save_and_says_how_to_go_on(
    places: records.Places, capsys: pytest.CaptureFixture[str]
) -> None:
    @runner.resumable
    def command(words: Sequence[str] | None = None) -> int:
        stopped = replace(SHORT, name="stopped")
        return len(runner.run_missing(places, [(SHORT, 0), (stopped, 0), (LONG, 0)], PretendedJob, width=2))

    assert command() == 130
    assert PretendedJob.events == [
        *("start short-seed0", "start stopped-seed0", "interrupt short-seed0", "interrupt stopped-seed0")
    ]
    assert capsys.readouterr().err == "interrupted; the same command goes on from the last checkpoints.\n"


@pytest.mark.parametrize("script", [methods, pretrained, risk_results, staleness])
def test_a_name_that_does_not_exist_ends_a_command_with_a_line(
    script: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--only", "nothing-like-it"]) == 2  # type: ignore[attr-defined]
    written = capsys.readouterr()
    assert written.err.startswith("error: ")
    assert "nothing-like-it" in written.err
    assert written.out == ""


def test_trials_are_short_and_leave_no_result() -> None:
    assert runner.shortened(SHORT, 5_000).budget == 5_000
    assert runner.shortened(SHORT, 500_000) == SHORT
    trial = runner.trial_places("learning", 5_000)
    assert records.RESULTS not in (*trial.records.parents, *trial.table.parents)
    assert trial.table.name == "learning.md"


def test_options_are_those_that_were_asked_for() -> None:
    args = runner.command_line("What it does.", "names", "seeds", "jobs", trial="STEPS").parse_args(
        ["--seeds", "0,2", "--jobs", "2", "--trial", "400"]
    )
    assert vars(args) == {"only": None, "seeds": [0, 2], "jobs": 2, "trial": 400}
    with pytest.raises(SystemExit):
        runner.command_line("What it does.", "names").parse_args(["--seeds", "0"])
