"""Parts of a language-model run that die or hang: the same hash as if nothing had happened."""

from __future__ import annotations

import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from distrl.base.errors import ResourceError
from distrl.runtime.train import train
from tests.helpers import check_curve, events, merged, parameter_hash, summary_of, train_apart
from tests.runtime.test_recovery import balanced
from tests.runtime.test_text_curricula import curriculum_run
from tests.runtime.test_text_runs import text_config
from tests.runtime.text_tasks import FailsOnce

ON_RAY: dict[str, Any] = {"backend": "ray", "samplers": {"count": 2}}
STALE = {"store": {"max_staleness": 2}, "stop": {"updates": 8}}


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@cache
def undisturbed(runs: Path) -> str:
    """Serial, with a curriculum, stale weights and eight updates."""
    return parameter_hash(curriculum_run("undisturbed", **STALE), runs)


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_sampler_changes_nothing(local_ray: str, shared_runs: Path) -> None:
    run = curriculum_run("sampler", **STALE, **ON_RAY, callbacks=["tests.runtime.user_code:KillsASampler"])
    summary = train(run, runs_dir=shared_runs)
    assert [death["sampler"] for death in events(shared_runs / "sampler", "died")] == [0]
    assert summary["parameter_hash"] == undisturbed(shared_runs)
    assert balanced(summary["ledger"])


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_learner_changes_nothing(local_ray: str, shared_runs: Path) -> None:
    """The curriculum and the kept answers go on with it."""
    run = curriculum_run("learner", **STALE, **ON_RAY, callbacks=["tests.runtime.user_code:KillsLearners"])
    run["language"] = {**run["language"], "texts": {"rollouts": True}}
    summary = train(run, runs_dir=shared_runs)
    assert [death["process"] for death in events(shared_runs / "learner", "died")] == ["learner", "learner"]
    assert summary["parameter_hash"] == undisturbed(shared_runs)
    kept = sorted(path.name for path in (shared_runs / "learner" / "rollouts").iterdir())
    assert kept == [f"update-{update:07d}.parquet" for update in range(1, 9)]


@pytest.mark.ray
@pytest.mark.drill
@pytest.mark.slow
def test_a_sampler_that_hangs_is_replaced(local_ray: str, tmp_runs: Path, tmp_path: Path) -> None:
    marker = tmp_path / "mended"
    env = {"name": "tests.runtime.text_tasks:HangsOnce", "kwargs": {"marker": str(marker)}}
    base = text_config("hanging")
    run = {**base, "task": {**base["task"], **env}}
    summary = train(merged(run, {**ON_RAY, "samplers": {"count": 2, "timeout": 15.0}}), runs_dir=tmp_runs)
    deaths = events(tmp_runs / "hanging", "died")
    assert "no answer to 'collect' within 15 s" in deaths[0]["reason"]
    assert "item" in "".join(path.read_text() for path in (tmp_runs / "hanging" / "stacks").iterdir())
    assert summary["parameter_hash"] == parameter_hash({**run, "name": "sound"}, tmp_runs)


@pytest.mark.ray
@pytest.mark.drill
@pytest.mark.slow
def test_everything_is_killed_and_resumed(local_ray: str, shared_runs: Path) -> None:
    on_cluster = {**ON_RAY, "ray": {"address": local_ray}, "callbacks": ["tests.runtime.user_code:EndsItself"]}
    run = curriculum_run("killed", **STALE, **on_cluster)
    code, output = train_apart(run, shared_runs, KILL_AT_UPDATE=5)
    assert code == -signal.SIGKILL, output
    code, output = train_apart(run, shared_runs, resume=True)
    assert code == 0, output
    assert summary_of(shared_runs / "killed")["parameter_hash"] == undisturbed(shared_runs)
    check_curve(shared_runs / "killed")


@pytest.mark.ray
@pytest.mark.slow
def test_staleness_zero_is_synchronous_bit_for_bit(local_ray: str, tmp_runs: Path) -> None:
    """Also outside deterministic mode, where one sampler answers all streams as one batch."""
    serial = train(text_config("serial", deterministic=False), runs_dir=tmp_runs)
    ray = train(text_config("ray", deterministic=False, backend="ray", samplers={"count": 1}), runs_dir=tmp_runs)
    assert ray["parameter_hash"] == serial["parameter_hash"]
    assert ray["staleness_max"] == serial["staleness_max"] == 0


@pytest.mark.ray
@pytest.mark.drill
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_learner_and_samplers_killed_again_and_again(local_ray: str, tmp_runs: Path) -> None:
    changes: dict[str, Any] = {"store": {"max_staleness": 1}, "stop": {"updates": 26}}
    expected = parameter_hash(curriculum_run("undisturbed", **changes), tmp_runs)
    run = curriculum_run("killed", **changes, **ON_RAY, callbacks=["tests.runtime.user_code:KillsParts"])
    summary = train(run, runs_dir=tmp_runs)
    assert summary["parameter_hash"] == expected
    died = events(tmp_runs / "killed", "died")
    assert sum(death.get("process") == "learner" for death in died) == 2
    assert sum("sampler" in death for death in died) >= 2
    assert balanced(summary["ledger"])


def engine_run(name: str, engine: str) -> dict[str, Any]:
    return text_config(name, language={"engine": f"tests.runtime.text_tasks:{engine}"})


def test_an_engine_that_dies_is_built_again_and_changes_nothing(
    tmp_runs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FailsOnce, "left", 1)
    summary = train(engine_run("failing", "FailsOnce"), runs_dir=tmp_runs)
    assert FailsOnce.left == 0
    assert "engine FailsOnce failed while it generated 8 answers: MemoryError: no room for 64 rows (" in caplog.text
    assert summary["parameter_hash"] == parameter_hash(text_config("sound"), tmp_runs)


def test_an_engine_that_keeps_dying_ends_the_run_and_is_named(tmp_runs: Path) -> None:
    with pytest.raises(ResourceError, match=r"AlwaysFails failed .* so did its predecessor.*language\.max_rows"):
        train(engine_run("dead", "AlwaysFails"), runs_dir=tmp_runs)
    [failed] = events(tmp_runs / "dead", "failed")
    assert "text_tasks.py, line" in failed["error"]
