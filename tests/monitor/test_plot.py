from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distrl.base.errors import UserError
from distrl.monitor.plot import band, learning_curve, read_curve


def write_run(folder: Path, values: list[float | None]) -> Path:
    folder.mkdir()
    lines = [{"env_steps": 100 * i, "update": i, "return/mean": value} for i, value in enumerate(values)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"env_st')
    return folder


def test_read_curve_leaves_out_null_and_a_torn_line(tmp_path: Path):
    run = write_run(tmp_path / "a", [1.0, None, 3.0])
    for source in (run, run / "metrics.jsonl"):
        steps, values = read_curve(source, "return/mean")
        assert steps.tolist() == [0, 200]
        assert values.tolist() == [1.0, 3.0]


def test_a_wrong_tag_names_the_ones_there_are(tmp_path: Path):
    with pytest.raises(UserError, match="return/mean"):
        read_curve(write_run(tmp_path / "a", [1.0]), "eval/return_mean")


def test_band_holds_mean_lowest_and_highest_seed_on_the_common_part():
    short = (np.array([0.0, 100.0]), np.array([0.0, 10.0]))
    long = (np.array([0.0, 200.0]), np.array([20.0, 20.0]))
    grid, mean, low, high = band([short, long], window=0.0)
    assert (grid[0], grid[-1]) == (0.0, 100.0)
    assert (low[-1], mean[-1], high[-1]) == (10.0, 15.0, 20.0)


def test_smoothing_does_not_look_ahead():
    steps = np.arange(100.0)
    values = np.where(steps < 50, 0.0, 1.0)
    grid, mean, _, _ = band([(steps, values)], window=0.1)
    assert np.all(mean[grid <= 49] == 0.0)
    assert np.all(mean[grid >= 65] == 1.0)


@pytest.mark.parametrize(("ending", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_plot_is_drawn(tmp_path: Path, ending: str, magic: bytes):
    seeds = [write_run(tmp_path / name, [1.0 * shift, 5.0, 9.0]) for shift, name in enumerate("abc")]
    out = learning_curve({"PPO": seeds}, tmp_path / "new" / f"curve.{ending}", title="CartPole-v1", threshold=8.0)
    assert out.read_bytes().startswith(magic)
    again = learning_curve({"PPO": seeds}, tmp_path / f"again.{ending}", title="CartPole-v1", threshold=8.0)
    assert again.read_bytes() == out.read_bytes()


def test_no_runs_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="no runs"):
        learning_curve([], tmp_path / "curve.svg")
