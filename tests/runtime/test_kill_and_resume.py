"""SIGKILL of everything, `--resume`, and the same hash as if nothing had happened."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import check_curve, config, lines, parameter_hash, summary_of, train_apart

POINTS = (3, 5, 8)
SELF_KILL = ["tests.runtime.user_code:EndsItself"]
#: Box2D and MuJoCo: a pickle of either is silently a fresh environment
LANDER = {"id": "LunarLander-v3", "num_envs": 4, "streams": 4, "max_episode_steps": 40}
HOPPER = {"id": "Hopper-v5", "num_envs": 4, "streams": 4, "normalize_obs": True, "normalize_reward": True}


def kill_at(run: dict[str, Any], runs_dir: Path, points: tuple[int, ...]) -> None:
    """Start, kill at each point and resume, then resume to the end."""
    for number, point in enumerate(points):
        code, output = train_apart(run, runs_dir, resume=number > 0, KILL_AT_UPDATE=point)
        assert code == -signal.SIGKILL, output
    code, output = train_apart(run, runs_dir, resume=True)
    assert code == 0, output


@pytest.mark.slow
def test_serial_kill_and_resume(tmp_runs: Path) -> None:
    changes = {"env": LANDER, "store": {"max_staleness": 1}, "logging": {"every_seconds": 0.01}}
    undisturbed = parameter_hash(config("undisturbed", **changes), tmp_runs)
    run = config("killed", **changes, callbacks=SELF_KILL)
    kill_at(run, tmp_runs, POINTS)
    summary = summary_of(tmp_runs / "killed")
    assert summary["parameter_hash"] == undisturbed
    assert summary["env_steps"] == summary["ledger"]["env_steps"] == 640
    assert summary["ledger"]["consumed"] == 40
    check_curve(tmp_runs / "killed")
    points = lines(tmp_runs / "killed" / "metrics.jsonl")
    assert all(point["env_steps"] == 64 * point["update"] for point in points)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_kill_and_resume(local_ray: str, tmp_runs: Path) -> None:
    changes = {"env": HOPPER, "store": {"max_staleness": 1}, "logging": {"every_seconds": 0.01}}
    undisturbed = parameter_hash(config("undisturbed", **changes), tmp_runs)
    on_cluster = {"backend": "ray", "samplers": {"count": 2}, "ray": {"address": local_ray}}
    run = config("killed", **changes, **on_cluster, callbacks=SELF_KILL)
    kill_at(run, tmp_runs, POINTS[:2])
    assert summary_of(tmp_runs / "killed")["parameter_hash"] == undisturbed
    check_curve(tmp_runs / "killed")


@pytest.mark.slow
def test_killed_before_the_first_checkpoint_begins_anew(tmp_runs: Path) -> None:
    run = config("early", checkpoint={"every": 6400}, callbacks=SELF_KILL)
    code, output = train_apart(run, tmp_runs, KILL_AT_UPDATE=2)
    assert code == -signal.SIGKILL, output
    assert not list((tmp_runs / "early" / "checkpoints").iterdir())
    code, output = train_apart(run, tmp_runs, resume=True)
    assert code == 0, output
    assert "starts from the beginning" in (tmp_runs / "early" / "log.txt").read_text()
    undisturbed = parameter_hash(config("undisturbed", checkpoint={"every": 6400}), tmp_runs)
    assert summary_of(tmp_runs / "early")["parameter_hash"] == undisturbed


@pytest.mark.slow
def test_interrupt_saves_and_resume_goes_on(tmp_runs: Path) -> None:
    run = config("interrupted", checkpoint={"every": 0}, callbacks=SELF_KILL)
    code, output = train_apart(run, tmp_runs, INTERRUPT_AT_UPDATE=4)
    assert code == 130, output
    assert "Traceback" not in output
    assert "--resume" in output
    saved = list((tmp_runs / "interrupted" / "checkpoints").iterdir())
    assert len(saved) == 1
    code, output = train_apart(run, tmp_runs, resume=True)
    assert code == 0, output
    undisturbed = parameter_hash(config("undisturbed", checkpoint={"every": 0}), tmp_runs)
    assert summary_of(tmp_runs / "interrupted")["parameter_hash"] == undisturbed
