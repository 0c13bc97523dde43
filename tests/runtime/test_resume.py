"""Resume: what may change, what is loaded, what is left alone; warm starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrl.base.errors import CheckpointError, ConfigError, UserError
from distrl.base.pack import load_state, save_state
from distrl.experience.weights import Weights
from distrl.runtime.run.checkpoint import list_checkpoints, newest_valid, read_checkpoint, write_checkpoint
from distrl.runtime.train import train
from tests.helpers import config, events, lines, parameter_hash, summary_of

STATES: dict[str, Any] = {"learner": {"x": np.arange(3)}, "streams": {}, "progress": {"counters": 1}}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Three checkpoints of nothing in particular."""
    for update in (1, 2, 3):
        write_checkpoint(tmp_path / "c", update, STATES, {}, {}, keep=5)
    return tmp_path / "c"


def damage(path: Path, how: str) -> None:
    """Spoil one checkpoint."""
    learner = path / "learner.safetensors"
    match how:
        case "truncated":
            learner.write_bytes(learner.read_bytes()[:-5])
        case "flipped":
            data = bytearray(learner.read_bytes())
            data[-1] ^= 1
            learner.write_bytes(data)
        case "missing":
            learner.unlink()
        case "foreign":
            (path / "manifest.json").write_text(json.dumps({"format": "somebody-else-7", "files": {}}))
        case "not json":
            (path / "manifest.json").write_text('{"format": "distrl-che')
        case "no manifest":
            (path / "manifest.json").unlink()


DAMAGE = {
    "truncated": "does not match its checksum",
    "flipped": "does not match its checksum",
    "missing": "lacks learner.safetensors",
    "foreign": "has format 'somebody-else-7'",
    "not json": "is not JSON",
    "no manifest": "has no manifest.json",
}


# ---- checkpoint folders ----------------------------------------------------------------------------------------------


def test_states_come_back(checkpoints: Path) -> None:
    path, states, problems = newest_valid(checkpoints)
    assert path.name == "update_00000003"
    assert problems == []
    np.testing.assert_array_equal(states["learner"]["x"], np.arange(3))
    assert states["progress"] == {"counters": 1}


@pytest.mark.parametrize(("how", "reason"), DAMAGE.items())
def test_damage_is_named_and_the_one_before_is_used(checkpoints: Path, how: str, reason: str) -> None:
    damage(checkpoints / "update_00000003", how)
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(checkpoints / "update_00000003")
    path, _, problems = newest_valid(checkpoints)
    assert path.name == "update_00000002"
    assert len(problems) == 1
    assert reason in problems[0]


def test_all_damaged_gives_every_reason(checkpoints: Path) -> None:
    for update, how in enumerate(["missing", "foreign", "truncated"], start=1):
        damage(checkpoints / f"update_0000000{update}", how)
    with pytest.raises(CheckpointError) as caught:
        newest_valid(checkpoints)
    for how in ("missing", "foreign", "truncated"):
        assert DAMAGE[how] in str(caught.value)


def test_half_written_folders_are_never_loaded_and_never_in_the_way(checkpoints: Path) -> None:
    half = checkpoints / ".update_00000004.tmp"
    shutil.copytree(checkpoints / "update_00000003", half)
    assert newest_valid(checkpoints)[0].name == "update_00000003"
    (half / "rubbish").touch()
    path = write_checkpoint(checkpoints, 4, STATES, {}, {}, keep=5)
    assert not half.exists()
    assert not (path / "rubbish").exists()


def test_a_crash_while_writing_leaves_nothing(checkpoints: Path) -> None:
    def crash(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(checkpoints, 4, STATES, {"policy.safetensors": crash}, {}, keep=1)
    assert sorted(path.name for path in checkpoints.iterdir()) == [f"update_0000000{n}" for n in (1, 2, 3)]


def test_the_newest_stay(checkpoints: Path) -> None:
    write_checkpoint(checkpoints, 4, STATES, {}, {}, keep=2)
    assert [path.name for path in list_checkpoints(checkpoints)] == ["update_00000004", "update_00000003"]


def test_a_damaged_newer_one_does_not_push_out_the_one_just_written(checkpoints: Path) -> None:
    damage(checkpoints / "update_00000003", "flipped")
    written = write_checkpoint(checkpoints, 2, STATES, {}, {"again": True}, keep=1)
    assert list_checkpoints(checkpoints) == [written]
    assert read_checkpoint(written)["manifest"]["again"]


def test_a_state_of_nothing_known_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "x.safetensors", {"a": 1})
    (tmp_path / "y.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:20])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(tmp_path / "y.safetensors")


# ---- whole runs ------------------------------------------------------------------------------------------------------


def test_a_longer_stop_continues_the_same_run(tmp_runs: Path) -> None:
    changes: dict[str, Any] = {"store": {"max_staleness": 2}, "logging": {"every_seconds": 0.001}}
    whole = parameter_hash(config("whole", **changes), tmp_runs)
    train(config("parts", **changes, stop={"updates": 4}), runs_dir=tmp_runs)
    resumed = config("parts", **changes, samplers={"count": 2, "timeout": 60}, checkpoint={"keep": 1})
    summary = train(resumed, runs_dir=tmp_runs, resume=True)
    assert summary["parameter_hash"] == whole
    assert summary["env_steps"] == 640
    assert summary["ledger"]["consumed"] == 40
    assert len(list_checkpoints(tmp_runs / "parts" / "checkpoints")) == 1
    points = [(line["update"], line["env_steps"]) for line in lines(tmp_runs / "parts" / "metrics.jsonl")]
    assert points == sorted(set(points))
    assert points[-1] == (10, 640)
    assert [attempt["attempt"] for attempt in json.loads((tmp_runs / "parts" / "attempts.json").read_text())] == [1, 2]


def test_a_finished_run_resumed_changes_nothing(tmp_runs: Path) -> None:
    first = train(config(), runs_dir=tmp_runs)
    again = train(config(), runs_dir=tmp_runs, resume=True)
    for key in ("parameter_hash", "env_steps", "updates", "episodes", "return_mean_last_20", "ledger"):
        assert first[key] == again[key], key


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 2}, "seed (1 -> 2)"),
        ({"env": {"num_envs": 8}}, "env.num_envs (4 -> 8)"),
        ({"algorithm": {"epochs": 3}}, "algorithm.epochs (2 -> 3)"),
        ({"model": {"hidden": [32]}}, "model.hidden ([16] -> [32])"),
        ({"store": {"max_staleness": 1}}, "store.max_staleness (0 -> 1)"),
        ({"learner": {"shards": 2}}, "learner.shards (1 -> 2)"),
        ({"deterministic": False}, "deterministic (True -> False)"),
    ],
)
def test_other_changes_are_refused_and_named(tmp_runs: Path, changes: dict[str, Any], named: str) -> None:
    train(config(stop={"updates": 2}), runs_dir=tmp_runs)
    before = sorted(path.name for path in (tmp_runs / "run").rglob("*"))
    with pytest.raises(ConfigError) as caught:
        train(config(**changes), runs_dir=tmp_runs, resume=True)
    assert named in str(caught.value)
    assert sorted(path.name for path in (tmp_runs / "run").rglob("*")) == before


def test_a_damaged_checkpoint_is_skipped_and_the_run_still_ends_the_same(tmp_runs: Path) -> None:
    whole = parameter_hash(config("whole"), tmp_runs)
    train(config(stop={"updates": 6}), runs_dir=tmp_runs)
    newest = list_checkpoints(tmp_runs / "run" / "checkpoints")[0]
    damage(newest, "truncated")
    summary = train(config(), runs_dir=tmp_runs, resume=True)
    assert summary["parameter_hash"] == whole
    warnings = [warning["text"] for warning in events(tmp_runs / "run", "warning")]
    assert any("skipped a checkpoint" in text and newest.name in text for text in warnings)
    assert all(read_checkpoint(path) for path in list_checkpoints(tmp_runs / "run" / "checkpoints"))


def test_a_run_folder_is_never_overwritten(tmp_runs: Path) -> None:
    first = train(config(stop={"updates": 1}), runs_dir=tmp_runs)
    with pytest.raises(UserError, match=r"never overwritten.*--resume.*run-2"):
        train(config(), runs_dir=tmp_runs)
    assert summary_of(tmp_runs / "run")["parameter_hash"] == first["parameter_hash"]


def test_resuming_what_never_was(tmp_runs: Path) -> None:
    train(config("other", stop={"updates": 1}), runs_dir=tmp_runs)
    with pytest.raises(UserError, match=r"no run 'run'.*other"):
        train(config(), runs_dir=tmp_runs, resume=True)


def test_best_is_kept_apart(tmp_runs: Path) -> None:
    run = config(eval={"every": 64, "episodes": 3}, checkpoint={"every": 64, "keep": 1})
    summary = train(run, runs_dir=tmp_runs)
    best = load_state(tmp_runs / "run" / "best" / "policy.safetensors")
    facts = json.loads(best["facts"])
    assert facts["eval_return_mean"] == summary["best_eval_return_mean"]
    assert len(list_checkpoints(tmp_runs / "run" / "checkpoints")) == 1
    found = [event["eval_return_mean"] for event in events(tmp_runs / "run", "best")]
    assert found == sorted(set(found))
    assert found[-1] == summary["best_eval_return_mean"]


@pytest.mark.parametrize("normalize", [False, True])
def test_warm_start_takes_weights_and_nothing_else(tmp_runs: Path, normalize: bool) -> None:
    env = {"normalize_obs": normalize}
    first = train(config("first", env=env, stop={"updates": 3}), runs_dir=tmp_runs)
    warm = config(
        "warm", env=env, init_from=str(tmp_runs / "first"), algorithm={"learning_rate": 0.0}, stop={"updates": 1}
    )
    second = train(warm, runs_dir=tmp_runs)
    assert second["updates"] == 1
    assert second["env_steps"] == 64
    assert second["ledger"]["consumed"] == 4
    one, other = (
        Weights.from_state(load_state(Path(summary["checkpoint"]) / "policy.safetensors")["weights"]).arrays()
        for summary in (first, second)
    )
    same = {name: np.array_equal(one[name], other[name]) for name in one}
    statistics = {name for name in one if "normalizer" in name}
    assert all(same[name] for name in one if name not in statistics)
    assert bool(statistics) == normalize
    if normalize:  # they go on from where the first run had come to
        count = next(name for name in statistics if name.endswith("count"))
        assert other[count] == pytest.approx(one[count] + 64, rel=1e-12)
