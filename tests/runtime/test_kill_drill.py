"""Two minutes in which a random sampler is killed every 5 s, and the learner and a replay shard once each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distrl.runtime.train import train
from tests.helpers import events, parameter_hash
from tests.runtime.off_policy_config import dqn_config
from tests.runtime.test_recovery import balanced

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.drill, pytest.mark.timeout(900)]

STALENESS = 2
SHARDED: dict[str, Any] = {
    "algorithm": {"prioritized": True, "replay_ratio": 1.0, "rollout_steps": 8},
    "store": {"shards": 2, "max_staleness": STALENESS, "capacity": 2000},
    "checkpoint": {"every": 0, "every_seconds": 15},
    "stop": {"updates": 10**9},
}


def delayed(seconds: float) -> dict[str, Any]:
    """8 streams whose steps take a while, which does not change what they see."""
    return {
        "id": "tests.runtime.user_code:DelayedEnv",
        "num_envs": 8,
        "streams": 8,
        "kwargs": {"seconds": seconds, "length": 10},
    }


@pytest.mark.parametrize("deterministic", [False, True])
def test_samplers_a_shard_and_the_learner_are_killed(
    local_ray: str, tmp_runs: Path, monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    monkeypatch.setenv("KILL_EVERY", "5")
    monkeypatch.setenv("KILL_SECONDS", "120")
    run = dqn_config(
        "killed",
        **SHARDED,
        env=delayed(0.1),
        backend="ray",
        deterministic=deterministic,
        samplers={"count": 4},
        callbacks=["tests.runtime.user_code:KillsEvery"],
    )
    summary = train(run, runs_dir=tmp_runs)
    assert summary["stopped"] == "the drill is over"
    ledger, updates = summary["ledger"], summary["updates"]
    assert balanced(ledger)
    assert summary["staleness_max"] <= STALENESS
    assert summary["env_steps"] == updates * 8 * 8
    assert ledger["consumed"] == updates * 8
    assert ledger["lost"] == ledger["rolled_back"] == 0

    died = events(tmp_runs / "killed", "died")
    samplers = [death for death in died if "sampler" in death]
    assert len(samplers) >= 15  # of 24 kills; some hit one that has not come back yet
    assert sorted(death["process"] for death in died if "process" in death) == ["learner", "replay"]
    assert not events(tmp_runs / "killed", "lost")
    for death in samplers:  # at most the unfinished fragment of each stream that it hosted
        streams = [stream for _, stream in death["cut"]]
        assert len(streams) == len(set(streams))
    # What the run's own end cut comes on top: one for each stream at most.
    assert 0 <= ledger["cut"] - sum(len(death["cut"]) for death in samplers) <= 8
    if deterministic:
        undisturbed = {**SHARDED, "stop": {"updates": updates}}
        assert summary["parameter_hash"] == parameter_hash(
            dqn_config("undisturbed", **undisturbed, env=delayed(0.0)), tmp_runs
        )
