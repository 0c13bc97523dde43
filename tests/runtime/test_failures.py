"""What goes wrong is named, what was learned is kept, and a mended run goes on."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from distrl.base import files
from distrl.base.errors import EnvError, NonFiniteError, ResourceError
from distrl.base.pack import load_state
from distrl.experience.weights import Weights
from distrl.runtime.run.checkpoint import list_checkpoints, newest_valid, read_checkpoint
from distrl.runtime.train import train
from tests.helpers import config, events, lines, parameter_hash, summary_of, train_apart

FAULTS = {
    "raise": "raised RuntimeError: the robot fell off the table",
    "nan": "not finite",
    "nan_reward": "the reward is nan",
    "shape": "shape",
}


def faulty(name: str, fault: str, marker: Path, *, once: bool = False, **changes: Any) -> dict[str, Any]:
    """A run whose environments fail in their 71st step, that is in the fifth fragment; no checkpoint before."""
    kwargs = {"fault": fault, "marker": str(marker), "once": once}
    env = {"id": "tests.runtime.user_code:FaultyEnv", "num_envs": 2, "streams": 2, "kwargs": kwargs}
    return config(name, env=env, **{"checkpoint": {"every": 0}, **changes})


def check_kept(folder: Path, update: int) -> None:
    """The last boundary's state was saved, and it is whole."""
    path, states, problems = newest_valid(folder / "checkpoints")
    assert path.name == f"update_{update:08d}"
    assert problems == []
    assert states["progress"]["counters"]["version"] == update


@pytest.mark.parametrize(("fault", "message"), FAULTS.items())
def test_a_broken_environment_is_named_and_mended(tmp_runs: Path, tmp_path: Path, fault: str, message: str) -> None:
    marker = tmp_path / "mended"
    run = faulty("broken", fault, marker)
    with pytest.raises(EnvError) as caught:
        train(run, runs_dir=tmp_runs)
    for word in (message, "FaultyEnv", "episode 2", "seed", "step 21"):
        assert word in str(caught.value), str(caught.value)
    check_kept(tmp_runs / "broken", update=4)
    marker.touch()
    summary = train(run, runs_dir=tmp_runs, resume=True)
    assert summary["parameter_hash"] == parameter_hash(faulty("sound", fault, marker), tmp_runs)
    assert summary["env_steps"] == 10 * 2 * 16


@pytest.mark.slow
def test_user_errors_have_no_traceback(tmp_runs: Path, tmp_path: Path) -> None:
    code, output = train_apart(faulty("broken", "raise", tmp_path / "never"), tmp_runs)
    assert code == EnvError.exit_code
    assert "Traceback" not in output
    assert "the robot fell off the table" in output
    check_kept(tmp_runs / "broken", update=4)


@pytest.mark.slow
def test_serial_watchdog_names_what_hangs_and_keeps_what_was_learned(tmp_runs: Path, tmp_path: Path) -> None:
    marker = tmp_path / "mended"
    run = faulty("hanging", "hang", marker, samplers={"timeout": 2.0})
    code, output = train_apart(run, tmp_runs)
    assert code == 3, output
    folder = tmp_runs / "hanging"
    assert "samplers.timeout 2" in output
    assert "update_00000004" in output
    assert "misbehave" in (folder / "stacks.txt").read_text()
    check_kept(folder, update=4)
    marker.touch()
    code, output = train_apart(run, tmp_runs, resume=True)
    assert code == 0, output
    assert summary_of(folder)["parameter_hash"] == parameter_hash(faulty("sound", "hang", marker), tmp_runs)


def test_an_environment_that_hangs_before_the_run_begins_is_named(tmp_runs: Path) -> None:
    env = {"id": "tests.support.toy_envs:HangingEnv", "kwargs": {"after": 3}}
    code, output = train_apart(config("hanging", env=env, samplers={"timeout": 1.0}), tmp_runs)
    assert code == 3, output
    assert "HangingEnv has not finished its first resets and steps within 1 s" in output
    assert "toy_envs.py" in output  # where it hangs
    assert not (tmp_runs / "hanging").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_ray_replaces_a_sampler_that_hangs(local_ray: str, tmp_runs: Path, tmp_path: Path) -> None:
    marker = tmp_path / "mended"
    run = faulty("hanging", "hang", marker, once=True, backend="ray", samplers={"count": 2, "timeout": 3.0})
    summary = train(run, runs_dir=tmp_runs)
    deaths = events(tmp_runs / "hanging", "died")
    assert len(deaths) in (1, 2)  # the other sampler may have come to the same step before the marker was there
    assert all("no answer to 'collect' within 3 s" in death["reason"] for death in deaths)
    assert summary["ledger"]["cut"] == sum(len(death["cut"]) for death in deaths) > 0
    assert summary["parameter_hash"] == parameter_hash(faulty("sound", "hang", marker), tmp_runs)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_a_dead_learner_ends_the_attempt_and_resume_makes_good(
    local_ray: str, tmp_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEARNER_KILLED", str(tmp_path / "killed"))
    run = config(
        "widowed", backend="ray", learner={"recover_every": 0}, callbacks=["tests.runtime.user_code:KillsTheLearner"]
    )
    with pytest.raises(ResourceError, match=r"the learner died.*--resume"):
        train(run, runs_dir=tmp_runs)
    check_kept(tmp_runs / "widowed", update=4)  # checkpoints are due every second update
    summary = train(run, runs_dir=tmp_runs, resume=True)
    assert summary["parameter_hash"] == parameter_hash(config("sound"), tmp_runs)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_names_a_broken_environment_and_goes_on_once_mended(local_ray: str, tmp_runs: Path, tmp_path: Path) -> None:
    marker = tmp_path / "mended"
    changes = {"backend": "ray", "samplers": {"count": 2}, "store": {"max_staleness": 1}}
    run = faulty("broken", "raise", marker, **changes)
    with pytest.raises(EnvError, match="the robot fell off the table"):
        train(run, runs_dir=tmp_runs)
    # Fragment 4 is made with version 3 while the learner works on batch 3: that update counts, and its state fits.
    path, states, _ = newest_valid(tmp_runs / "broken" / "checkpoints")
    version = states["progress"]["counters"]["version"]
    assert version in (3, 4)
    saved = {weights["version"]: weights for weights in states["streams"]["weights"]}
    learner = states["learner"]["algorithm"]["model"]
    published = Weights.from_state(saved[version]).arrays()
    assert all((learner[name] == published[name]).all() for name in learner)
    marker.touch()
    summary = train(run, runs_dir=tmp_runs, resume=True)
    sound = faulty("sound", "raise", marker, store={"max_staleness": 1})
    assert summary["parameter_hash"] == parameter_hash(sound, tmp_runs)
    assert path.exists()


def test_a_mistake_in_a_callback_loses_nothing(tmp_runs: Path) -> None:
    run = config("mistaken", checkpoint={"every": 0}, callbacks=["tests.runtime.user_code:Raises"])
    with pytest.raises(KeyError, match="no such thing"):
        train(run, runs_dir=tmp_runs)
    check_kept(tmp_runs / "mistaken", update=3)


@pytest.mark.parametrize("backend", ["serial", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])])
def test_a_diverged_update_keeps_the_weights_before_it(
    request: pytest.FixtureRequest, tmp_runs: Path, backend: str
) -> None:
    if backend == "ray":
        request.getfixturevalue("local_ray")
    diverging = {"learning_rate": {"from": 1e-3, "to": 1e38, "over": 64, "after": 192}}
    run = config("diverged", backend=backend, algorithm=diverging, stop={"updates": 100}, env={"normalize_obs": True})
    with pytest.raises(NonFiniteError, match=r"non-finite|not finite"):
        train(run, runs_dir=tmp_runs)
    path, states, _ = newest_valid(tmp_runs / "diverged" / "checkpoints")
    version = states["progress"]["counters"]["version"]
    assert version >= 3
    published = Weights.from_state(load_state(path / "policy.safetensors")["weights"])
    assert published.version == version
    arrays, learner = published.arrays(), states["learner"]["algorithm"]["model"]
    assert all((learner[name] == arrays[name]).all() for name in learner)
    assert states["learner"]["obs_moments"]["count"] == pytest.approx(64 * version, rel=1e-4)


def test_a_full_disk_ends_nothing(tmp_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = parameter_hash(config("whole"), tmp_runs)
    train(config("full", stop={"updates": 4}), runs_dir=tmp_runs)
    checkpoints = tmp_runs / "full" / "checkpoints"
    before = list_checkpoints(checkpoints)
    write = files.write_atomic_with

    def full(path: Any, writer: Any) -> None:
        def spill(file: Any) -> None:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")

        write(path, spill if ".tmp" in str(path) else writer)

    monkeypatch.setattr("distrl.base.pack.write_atomic_with", full)
    summary = train(config("full"), runs_dir=tmp_runs, resume=True)
    assert summary["parameter_hash"] == whole
    assert "disk full" in summary["checkpoint_problem"]
    assert summary["checkpoint"] == str(before[0])
    assert sorted(checkpoints.iterdir()) == sorted(before)
    assert read_checkpoint(before[0])["progress"]["counters"]["version"] == 4
    failures = events(tmp_runs / "full", "checkpoint_failed")
    assert len(failures) == 4  # at the boundaries where one was due, and at the end; not at every update
    assert all("MiB free" in failure["error"] for failure in failures)

    monkeypatch.undo()  # somebody made space
    again = train(config("full"), runs_dir=tmp_runs, resume=True)
    assert again["parameter_hash"] == whole
    assert again["checkpoint_problem"] is None
    updates = [line["update"] for line in lines(tmp_runs / "full" / "metrics.jsonl")]
    assert updates == sorted(set(updates))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_outside_deterministic_mode_does_not_stand_still(local_ray: str, tmp_runs: Path) -> None:
    """Synchronous: no fragment may begin while an update is under way, or it would be too old for its only batch."""
    run = config(
        "free", backend="ray", deterministic=False, samplers={"count": 2}, stop={"wall_seconds": 60, "updates": 10}
    )
    summary = train(run, runs_dir=tmp_runs)
    assert summary["updates"] == 10
    assert summary["staleness_max"] == 0
    assert summary["ledger"]["evicted"] == 0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("staleness", [pytest.param(1, marks=pytest.mark.drill), 3])
def test_random_delays_keep_the_contract(local_ray: str, tmp_runs: Path, staleness: int) -> None:
    run = config(
        "delayed",
        backend="ray",
        deterministic=False,
        env={"id": "tests.runtime.user_code:DelayedEnv"},
        samplers={"count": 2},
        store={"max_staleness": staleness},
        stop={"updates": 30},
    )
    summary = train(run, runs_dir=tmp_runs)
    ledger = summary["ledger"]
    assert summary["staleness_max"] <= staleness
    assert summary["env_steps"] == ledger["env_steps"] == 30 * 4 * 16
    assert ledger["consumed"] == 30 * 4
    assert ledger["started"] == ledger["finished"] + ledger["cut"]
    assert ledger["finished"] == sum(ledger[fate] for fate in ("consumed", "evicted", "lost", "rolled_back", "waiting"))
