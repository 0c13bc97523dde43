from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console as RichConsole

from distrl.monitor.console import Console, LiveConsole, PlainConsole, make_console
from distrl.monitor.view import Goal, Speed, View

VIEW = View(
    env_steps=42_000,
    update=328,
    wall_s=12.0,
    steps_per_s=5_800.0,
    updates_per_s=45.0,
    latest={"return/mean": 99.0, "return/mean_last_20": 213.4, "eval/return_mean": 250.0},
    facts={"samplers": 2, "waiting": 3, "staleness": 1.25, "phases": {"wait": 0.2, "learn": 0.75}, "limit": "sampling"},
    last_event="12:00:01 checkpoint update=300",
    goal=Goal(env_steps=100_000),
)


def test_one_line_says_steps_share_return_evaluation_speed_and_time_to_go():
    line = VIEW.one_line()
    assert line == "42,000/100,000 steps 42% | return 213.4 | eval 250.0 | 5,800 steps/s | ETA 0:10"


@pytest.mark.parametrize(
    ("goal", "fraction"),
    [
        (Goal(env_steps=84_000), 0.5),
        (Goal(updates=656), 0.5),
        (Goal(target_return=426.8), 0.5),
        (Goal(env_steps=10), 1.0),
    ],
)
def test_progress_follows_the_first_goal_given(goal: Goal, fraction: float):
    progress = View(42_000, 328, 12.0, 1.0, 1.0, latest=VIEW.latest, goal=goal).progress()
    assert progress is not None
    assert progress[0] == pytest.approx(fraction)


def test_an_open_goal_has_no_bar_and_no_time_to_go():
    view = View(42_000, 328, 12.0, 10.0, 1.0)
    assert view.progress() is None
    assert view.eta() is None
    assert view.one_line() == "42,000 steps | 10 steps/s"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_live_display_fits_the_terminal(width: int):
    out = io.StringIO()
    console = LiveConsole(lambda: VIEW, RichConsole(file=out, width=width, force_terminal=True, color_system=None))
    console.line("sampler_lost sampler=1")
    console.close()
    text = out.getvalue()
    assert "sampler_lost sampler=1" in text
    last = text.rpartition("sampler_lost")[2]
    if width >= 80:
        for word in (
            "42%",
            "return 213.4",
            "eval 250.0",
            "5,800 steps/s",
            "waiting 3",
            "learn 75%",
            "checkpoint",
            "0:10",
        ):
            assert word in last
        assert "limit sampling" in last
    plain = RichConsole(file=io.StringIO(), width=width, record=True)
    plain.print(console._live.renderable)
    rows = plain.export_text().splitlines()
    assert len(rows) == 5
    assert max(map(len, rows)) <= width


def test_auto_is_plain_where_nobody_watches(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_console("auto", lambda: VIEW), PlainConsole)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    live = make_console("auto", lambda: VIEW)
    live.close()
    assert isinstance(live, LiveConsole)
    assert type(make_console("quiet", lambda: VIEW)) is Console


def test_quiet_prints_nothing(make, capsys):
    monitor = make(console="quiet")
    monitor.warn("nobody hears this")
    monitor.close({"seed": 0})
    assert capsys.readouterr().out == ""


def test_speed_is_that_of_the_last_seconds():
    speed = Speed(0.0, 0, 0)
    for second in range(1, 101):
        steps = 10 * second if second <= 50 else 500 + 1000 * (second - 50)
        speed.mark(float(second), steps, second)
    steps_per_s, updates_per_s = speed.read(100.0)
    assert steps_per_s == pytest.approx(1000.0)
    assert updates_per_s == pytest.approx(1.0)
    assert speed.read(120.0)[0] < 600.0  # it stood still since 100
