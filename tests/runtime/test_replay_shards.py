"""Replay shards in processes of their own: resume, and a shard that dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from distrl.runtime.run.callbacks import Callback
from distrl.runtime.train import train
from tests.helpers import events, lines, parameter_hash
from tests.runtime.off_policy_config import dqn_config

SHARDED: dict[str, Any] = {"algorithm": {"prioritized": True, "replay_ratio": 1.0}, "store": {"shards": 2}}


class KillsAShard(Callback):
    """Kills the process of shard 1 after update 8."""

    def on_update(self, loop: Any, metrics: dict[str, float]) -> None:
        if loop.progress.version == 8:
            ray.kill(loop.backend.group.replay_shards[1])


def test_shards_resume(tmp_runs: Path) -> None:
    expected = parameter_hash(dqn_config("undisturbed", **SHARDED), tmp_runs)
    train(dqn_config("halves", **{**SHARDED, "stop": {"updates": 9}}), runs_dir=tmp_runs)
    summary = train(dqn_config("halves", **SHARDED), runs_dir=tmp_runs, resume=True)
    assert summary["parameter_hash"] == expected


@pytest.mark.ray
@pytest.mark.slow
def test_training_goes_on_without_a_shard_that_died(local_ray: str, tmp_runs: Path) -> None:
    run = dqn_config(
        "shard-lost",
        **SHARDED,
        backend="ray",
        samplers={"count": 2},
        learner={"recover_every": 0},
        callbacks=["tests.runtime.test_replay_shards:KillsAShard"],
        logging={"every_seconds": 0.01},
    )
    summary = train(run, runs_dir=tmp_runs)
    assert summary["updates"] == 20
    assert summary["ledger"]["consumed"] == 80
    assert "replay shard 1 died with" in (tmp_runs / "shard-lost" / "log.txt").read_text()
    points = lines(tmp_runs / "shard-lost" / "metrics.jsonl")
    assert max(point.get("replay/lost_with_shard", 0.0) for point in points) > 0
    run["stop"] = {"updates": 24}
    again = train(run, runs_dir=tmp_runs, resume=True)  # the dead shard begins empty
    assert again["updates"] == 24


@pytest.mark.ray
@pytest.mark.slow
def test_a_shard_that_dies_is_built_again_and_nothing_is_lost(local_ray: str, tmp_runs: Path) -> None:
    expected = parameter_hash(dqn_config("undisturbed", **SHARDED), tmp_runs)
    run = dqn_config("shard-back", **SHARDED, backend="ray", callbacks=["tests.runtime.test_replay_shards:KillsAShard"])
    summary = train(run, runs_dir=tmp_runs)
    assert summary["parameter_hash"] == expected
    [died] = events(tmp_runs / "shard-back", "died")
    assert (died["process"], died["reason"]) == ("replay", "replay shard 1 of 2 died")
    assert len(events(tmp_runs / "shard-back", "restarted")) == 1
    assert not events(tmp_runs / "shard-back", "lost")
