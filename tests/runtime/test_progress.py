"""The stop rule: what ends a run, and what does not yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from distrl.config.sections.run import StopConfig
from distrl.runtime.run.progress import RunProgress
from distrl.runtime.train import train
from tests.helpers import config


def after(*means: float) -> RunProgress:
    return RunProgress(20, evals=[(100 * number, mean) for number, mean in enumerate(means, 1)])


@pytest.mark.parametrize(
    ("means", "in_a_row", "ends"),
    [
        ([], 1, False),
        ([474.9], 1, False),
        ([475.0], 1, True),
        ([480.0], 2, False),
        ([480.0, 470.0, 480.0], 2, False),
        ([100.0, 480.0, 475.0], 2, True),
        ([480.0, 480.0, 100.0], 2, False),
    ],
)
def test_evaluations_in_a_row_end_a_run(means: list[float], in_a_row: int, ends: bool) -> None:
    stop = StopConfig(eval_mean=475, eval_in_a_row=in_a_row)
    assert (after(*means).stop_reason(stop) is not None) == ends


def test_the_reason_names_goal_and_row() -> None:
    progress = after(476.0, 481.25)
    assert progress.stop_reason(StopConfig(eval_mean=475, eval_in_a_row=2)) == (
        "eval_mean 481.2 reached 475, 2 in a row"
    )
    assert progress.stop_reason(StopConfig(eval_mean=475)) == "eval_mean 481.2 reached 475"
    assert progress.stop_reason(StopConfig(env_steps=1)) is None


def test_evaluations_outlive_a_resume_and_count_against_the_present_goal() -> None:
    progress = RunProgress.from_state(20, after(480.0, 480.0).to_state())
    assert progress.evals == [(100, 480.0), (200, 480.0)]
    assert progress.stop_reason(StopConfig(eval_mean=475, eval_in_a_row=2)) is not None
    assert progress.stop_reason(StopConfig(eval_mean=490, eval_in_a_row=2)) is None


def test_runs_of_different_seeds_may_meet_the_same_starts(tmp_path: Path) -> None:
    """With a learning rate of 0 and the same first weights nothing but the starts can differ."""
    still = {"learning_rate": 0.0}
    first = train(config("first", stop={"updates": 1}, algorithm=still), runs_dir=tmp_path)
    found = {}
    for seed in (1, 2):
        for starts in (None, 7):
            name = f"run-{seed}-{starts}"
            evaluated = {"every": 64, "episodes": 5, "seed": starts}
            again = config(name, seed=seed, algorithm=still, eval=evaluated, stop={"updates": 1})
            summary = train(again | {"init_from": str(tmp_path / "first")}, runs_dir=tmp_path)
            found[seed, starts] = summary["evaluations"]
    assert first["updates"] == 1
    assert found[1, 7] == found[2, 7]
    assert found[1, None] != found[2, None]


def test_a_run_ends_where_its_evaluations_reach_the_goal(tmp_path: Path) -> None:
    run = config(eval={"every": 64, "episodes": 2}, stop={"eval_mean": 0.0, "eval_in_a_row": 2})
    summary = train(run, runs_dir=tmp_path)
    assert [steps for steps, _ in summary["evaluations"]] == [64, 128]
    assert summary["env_steps"] == 128
    assert summary["stopped"].startswith("eval_mean")
    assert summary["stopped"].endswith("reached 0, 2 in a row")
