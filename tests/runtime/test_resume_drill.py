"""The whole run is killed at random points, outside deterministic mode: what each resume keeps.

The staleness bound holds in every attempt, no update that survived has used a unit that another one used, the ledger
balances, and the curves are unbroken in the way in which TensorBoard reads them.
"""

from __future__ import annotations

import random
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.helpers import config, events, lines, summary_of, train_apart
from tests.runtime.off_policy_config import dqn_config
from tests.runtime.test_recovery import balanced

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STALENESS = 2
STEPS_OF_AN_UPDATE = 64
ASYNCHRONOUS: dict[str, Any] = {
    "backend": "ray",
    "deterministic": False,
    "env": {"id": "tests.runtime.user_code:DelayedEnv"},
    "samplers": {"count": 2},
    "store": {"max_staleness": STALENESS},
    "eval": {"every": 640, "episodes": 1},
    "logging": {"tensorboard": True, "every_seconds": 0.01},
    "callbacks": ["tests.runtime.user_code:WritesUnits"],
}
MAKE: dict[str, Any] = {
    "queue": lambda **changes: config("killed", **changes),
    "replay": lambda **changes: dqn_config("killed", algorithm={"prioritized": True}, **changes),
}


def kill_and_resume(run: dict[str, Any], runs_dir: Path, kills: int) -> None:
    """Kill everything a random while after a random update, `kills` times, and let the run end at last."""
    chance = random.Random(kills)
    reached = 0
    for number in range(kills):
        code, output = train_apart(
            run,
            runs_dir,
            resume=number > 0,
            KILL_AT_UPDATE=reached + chance.randint(1, 5),
            KILL_DELAY=chance.uniform(0.001, 0.2),
        )
        assert code == -signal.SIGKILL, output
        reached = lines(runs_dir / "killed" / "units.jsonl")[-1]["update"]
    code, output = train_apart({**run, "stop": {"updates": reached + 10}}, runs_dir, resume=True)
    assert code == 0, output


def check(folder: Path, kills: int) -> None:
    summary = summary_of(folder)
    ledger = summary["ledger"]
    assert balanced(ledger)
    assert ledger["lost"] == 0
    assert len(events(folder, "resume")) + len(events(folder, "start")) == kills + 1

    updates = lines(folder / "units.jsonl")
    assert max(update["staleness"] for update in updates) <= STALENESS
    assert summary["staleness_max"] <= STALENESS
    surviving = {update["update"]: update["units"] for update in updates}  # the newest attempt's, for each number
    assert sorted(surviving) == list(range(1, summary["updates"] + 1))
    units = [tuple(unit) for batch in surviving.values() for unit in batch]
    assert len(units) == len(set(units)) == ledger["consumed"] == 4 * summary["updates"]

    check_curves(folder, summary)


def check_curves(folder: Path, summary: dict[str, Any]) -> None:
    """One value for each tag and step, in order; an evaluation has the steps of its weights and may come later."""
    points = [point for point in lines(folder / "metrics.jsonl") if any(tag.startswith("loss/") for tag in point)]
    updates = [point["update"] for point in points]
    assert updates == sorted(set(updates))
    assert updates[-1] == summary["updates"]
    board = EventAccumulator(str(folder / "tb"), size_guidance={"scalars": 0}, purge_orphaned_data=True).Reload()
    tags = board.Tags()["scalars"]
    assert any(tag.startswith("loss/") for tag in tags)
    assert any(tag.startswith("eval/") for tag in tags)
    for tag in tags:
        steps = [point.step for point in board.Scalars(tag)]
        assert all(before < after for before, after in pairwise(steps)), (tag, steps)
    assert max(point.step for tag in tags for point in board.Scalars(tag)) == summary["env_steps"]


@pytest.mark.drill
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("kind", "kills"), [("queue", 20), ("replay", 8)])
def test_killed_at_random_points(local_ray: str, tmp_runs: Path, kind: str, kills: int) -> None:
    run = MAKE[kind](**{**ASYNCHRONOUS, "ray": {"address": local_ray}, "stop": {"updates": 10**6}})
    kill_and_resume(run, tmp_runs, kills)
    check(tmp_runs / "killed", kills)


def test_an_evaluation_under_way_when_the_run_was_killed_is_made_by_the_resumed_one(
    local_ray: str, tmp_runs: Path
) -> None:
    """The only one that falls due is ordered at update 4 of 6, and takes longer than what is left until the kill."""
    run = config(
        "killed",
        **{
            **ASYNCHRONOUS,
            "eval": {"every": 4 * STEPS_OF_AN_UPDATE, "episodes": 400},
            "checkpoint": {"every": 1},
            "ray": {"address": local_ray},
            "stop": {"updates": 6},
        },
    )
    code, output = train_apart(run, tmp_runs, KILL_AT_UPDATE=5)
    assert code == -signal.SIGKILL, output
    assert not any("eval/return_mean" in point for point in lines(tmp_runs / "killed" / "metrics.jsonl"))
    code, output = train_apart(run, tmp_runs, resume=True)
    assert code == 0, output
    evaluations = summary_of(tmp_runs / "killed")["evaluations"]
    assert len(evaluations) == 1
    assert evaluations[0][0] > 4 * STEPS_OF_AN_UPDATE
