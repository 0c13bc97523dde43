"""Deterministic mode: one hash, whatever the back end, the number of samplers, processes and attempts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from distrl.runtime.train import train
from tests.helpers import config, events, merged, parameter_hash

TINY: dict[str, Any] = {"num_envs": 4, "streams": 4}
#: what the normal suite compares: every way that state travels between processes
CASES: dict[str, dict[str, Any]] = {
    "recurrent": {"model": {"recurrent": "gru", "recurrent_size": 8}, "store": {"max_staleness": 1}},
    "normalized": {
        "env": {"id": "Pendulum-v1", **TINY, "normalize_obs": True, "normalize_reward": True, "max_episode_steps": 20},
        "store": {"max_staleness": 1},
    },
    "lunar_lander": {"env": {"id": "LunarLander-v3", **TINY, "max_episode_steps": 50}},
    "masked_dict": {"env": {"id": "tests.runtime.user_code:MaskedDictEnv", **TINY, "normalize_obs": True}},
}
#: The case of the drills alone.
LONG = pytest.param("lunar_lander", marks=pytest.mark.drill)


@cache
def serial_hash(runs: Path, case: str, staleness: int | None = None) -> str:
    """The reference: everything in one process."""
    changes = {"store": {"max_staleness": staleness}} if case == "cartpole" else CASES[case]
    return parameter_hash(config(f"{case}-{staleness}-reference", **changes), runs)


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_serial_repeats(tmp_runs: Path) -> None:
    first = train(config("one"), runs_dir=tmp_runs)
    assert first["parameter_hash"] == parameter_hash(config("two"), tmp_runs)
    assert first["parameter_hash"] != parameter_hash(config("other", seed=2), tmp_runs)
    assert first["env_steps"] == 10 * 4 * 16
    assert first["ledger"]["consumed"] == 40


def test_staleness_and_streams_change_the_result(tmp_runs: Path) -> None:
    """They are part of the experiment, and a hash that nothing changes would prove nothing."""
    hashes = {
        parameter_hash(config("k0"), tmp_runs),
        parameter_hash(config("k2", store={"max_staleness": 2}), tmp_runs),
        parameter_hash(config("streams", env={"streams": 2}), tmp_runs),
        parameter_hash(config("shards", learner={"shards": 2}), tmp_runs),
    }
    assert len(hashes) == 4


def test_evaluation_checkpoints_and_display_change_nothing(tmp_runs: Path) -> None:
    plain = parameter_hash(config("plain", checkpoint={"every": 0}), tmp_runs)
    busy = config("busy", eval={"every": 64, "episodes": 2}, checkpoint={"every": 64}, logging={"every_seconds": 0.01})
    assert plain == parameter_hash(busy, tmp_runs)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("samplers", "staleness"),
    [(2, 0), (4, 2), *(pytest.param(*values, marks=pytest.mark.drill) for values in ((1, 0), (1, 2), (2, 2), (4, 0)))],
)
def test_ray_equals_serial(local_ray: str, shared_runs: Path, samplers: int, staleness: int) -> None:
    run = config(
        f"ray-{samplers}-{staleness}", backend="ray", samplers={"count": samplers}, store={"max_staleness": staleness}
    )
    summary = train(run, runs_dir=shared_runs)
    assert summary["parameter_hash"] == serial_hash(shared_runs, "cartpole", staleness)
    assert summary["staleness_max"] == min(staleness, 2)
    assert summary["env_steps"] == 10 * 4 * 16


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("case", ["recurrent", "normalized", "masked_dict", LONG])
def test_ray_equals_serial_for(local_ray: str, shared_runs: Path, case: str) -> None:
    run = merged(config(f"ray-{case}", **CASES[case]), {"backend": "ray", "samplers": {"count": 2}})
    assert parameter_hash(run, shared_runs) == serial_hash(shared_runs, case)


@pytest.mark.ray
@pytest.mark.slow
def test_two_learner_processes_equal_two_shards(local_ray: str, tmp_runs: Path) -> None:
    one = parameter_hash(config("one-process", learner={"shards": 2}), tmp_runs)
    group = config("two-processes", backend="ray", learner={"shards": 2, "processes": 2})
    assert parameter_hash(group, tmp_runs) == one


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_sampler_changes_nothing(local_ray: str, shared_runs: Path) -> None:
    run = config(
        "killed-sampler",
        backend="ray",
        samplers={"count": 2},
        store={"max_staleness": 2},
        callbacks=["tests.runtime.user_code:KillsASampler"],
    )
    summary = train(run, runs_dir=shared_runs)
    assert summary["parameter_hash"] == serial_hash(shared_runs, "cartpole", 2)
    folder = shared_runs / "killed-sampler"
    assert [death["sampler"] for death in events(folder, "died")] == [0]
    assert [joined["sampler"] for joined in events(folder, "joined")].count(0) == 2
    assert summary["ledger"]["cut"] >= len(events(folder, "died")[0]["cut"])
