"""The long forms: twenty kills of everything in each of five environments, samplers killed again and again, Ctrl-C.

`make drills` runs them; the short forms are in test_exactness, test_kill_and_resume and test_failures.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from distrl.runtime.train import train
from tests.helpers import Training, check_curve, config, events, merged, parameter_hash, summary_of, train_apart
from tests.runtime.off_policy_config import dqn_config

pytestmark = [pytest.mark.drill, pytest.mark.slow, pytest.mark.timeout(1800)]

NORMALIZED = {"normalize_obs": True, "normalize_reward": True}
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "cartpole": {"env": {"id": "CartPole-v1"}},
    "pendulum": {"env": {"id": "Pendulum-v1", **NORMALIZED}},
    "lunar_lander": {"env": {"id": "LunarLander-v3"}, "model": {"recurrent": "gru", "recurrent_size": 8}},
    "hopper": {"env": {"id": "Hopper-v5", **NORMALIZED}},
    "masked_dict": {"env": {"id": "tests.runtime.user_code:MaskedDictEnv"}},
}
SELF_KILL = ["tests.runtime.user_code:EndsItself"]


def drill(name: str, environment: str, updates: int, **changes: Any) -> dict[str, Any]:
    """A run that evaluates, and saves at every second update."""
    run = config(name, store={"max_staleness": 1}, eval={"every": 640, "episodes": 2}, stop={"updates": updates})
    return merged(merged(run, ENVIRONMENTS[environment]), changes)


def kill_again_and_again(run: dict[str, Any], runs_dir: Path, kills: int, apart: int) -> None:
    """Kill everything a random while after every `apart`th update, resume each time, and at last let it end."""
    chance = random.Random(run["name"])
    for number in range(kills):
        code, output = train_apart(
            run, runs_dir, resume=number > 0, KILL_AT_UPDATE=apart * number + 1, KILL_DELAY=chance.uniform(0.0001, 0.02)
        )
        assert code == -signal.SIGKILL, output
    code, output = train_apart(run, runs_dir, resume=True)
    assert code == 0, output


def check(folder: Path, expected: dict[str, Any]) -> None:
    """The same as the undisturbed run, in one unbroken curve."""
    summary = summary_of(folder)
    for key in ("parameter_hash", "env_steps", "updates", "episodes", "return_mean_last_20", "best_eval_return_mean"):
        assert summary[key] == expected[key], key
    for fate in ("consumed", "evicted", "lost"):
        assert summary["ledger"][fate] == expected["ledger"][fate]
    check_curve(folder)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_serial_twenty_kills(tmp_runs: Path, environment: str) -> None:
    undisturbed = train(drill("undisturbed", environment, 66), runs_dir=tmp_runs)
    kill_again_and_again(drill("killed", environment, 66, callbacks=SELF_KILL), tmp_runs, kills=20, apart=3)
    check(tmp_runs / "killed", undisturbed)


@pytest.mark.ray
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_ray_four_kills_of_everything(tmp_runs: Path, environment: str) -> None:
    """Twenty in all: each attempt starts a cluster of its own, which dies with it."""
    undisturbed = train(drill("undisturbed", environment, 20), runs_dir=tmp_runs)
    run = drill("killed", environment, 20, callbacks=SELF_KILL, backend="ray", samplers={"count": 2})
    kill_again_and_again(run, tmp_runs, kills=4, apart=4)
    check(tmp_runs / "killed", undisturbed)


@pytest.mark.ray
def test_samplers_killed_again_and_again(local_ray: str, tmp_runs: Path) -> None:
    run = drill("killed", "hopper", 60, callbacks=["tests.runtime.user_code:KillsManySamplers"])
    summary = train(merged(run, {"backend": "ray", "samplers": {"count": 4}}), runs_dir=tmp_runs)
    deaths = events(tmp_runs / "killed", "died")
    assert len(deaths) >= 8
    assert summary["ledger"]["cut"] >= sum(len(death["cut"]) for death in deaths)
    assert summary["parameter_hash"] == parameter_hash(drill("undisturbed", "hopper", 60), tmp_runs)


@pytest.mark.ray
def test_interrupt_of_a_whole_cluster(tmp_runs: Path) -> None:
    """Ctrl-C reaches every process of the terminal's group; nothing is left behind, and the run goes on."""
    undisturbed = train(drill("undisturbed", "cartpole", 60), runs_dir=tmp_runs)
    run = drill("interrupted", "cartpole", 60, callbacks=SELF_KILL, backend="ray", samplers={"count": 2})
    training = Training(run, tmp_runs, INTERRUPT_AT_UPDATE=5)
    started: list[psutil.Process] = []
    while training.process.poll() is None and not (training.folder / "checkpoints" / "update_00000004").exists():
        started = psutil.Process(training.process.pid).children(recursive=True) or started
        time.sleep(0.2)
    code, output = training.wait()
    assert code == 130, output
    assert "Traceback" not in output
    assert started
    _, alive = psutil.wait_procs(started, timeout=15)
    assert not [process.name() for process in alive]
    code, output = train_apart(run, tmp_runs, resume=True)
    assert code == 0, output
    check(tmp_runs / "interrupted", undisturbed)


@pytest.mark.ray
def test_three_hundred_updates_with_delays(local_ray: str, tmp_runs: Path) -> None:
    run = config(
        "delayed",
        backend="ray",
        deterministic=False,
        env={"id": "tests.runtime.user_code:DelayedEnv", "num_envs": 8, "streams": 8},
        samplers={"count": 4},
        store={"max_staleness": 2},
        callbacks=["tests.runtime.user_code:KillsManySamplers"],
        stop={"updates": 300},
    )
    summary = train(run, runs_dir=tmp_runs)
    ledger = summary["ledger"]
    assert summary["staleness_max"] <= 2
    assert summary["env_steps"] == 300 * 8 * 16
    assert ledger["started"] == ledger["finished"] + ledger["cut"]
    assert ledger["finished"] == sum(ledger[fate] for fate in ("consumed", "evicted", "lost", "rolled_back", "waiting"))


@pytest.mark.ray
@pytest.mark.parametrize("learner", ["ppo", "dqn"])
def test_learner_and_samplers_killed_again_and_again(local_ray: str, tmp_runs: Path, learner: str) -> None:
    """Four deaths of the learner and eight or more of samplers in one attempt change no bit."""
    changes: dict[str, Any] = {"store": {"max_staleness": 1}, "stop": {"updates": 50}, "samplers": {"count": 2}}
    make = dqn_config if learner == "dqn" else config
    undisturbed = train(make("undisturbed", **changes), runs_dir=tmp_runs)
    run = make("killed", backend="ray", callbacks=["tests.runtime.user_code:KillsParts"], **changes)
    summary = train(run, runs_dir=tmp_runs)
    check(tmp_runs / "killed", undisturbed)
    died = events(tmp_runs / "killed", "died")
    assert sum(death.get("process") == "learner" for death in died) == 4
    assert sum("sampler" in death for death in died) >= 8
    assert summary["ledger"]["cut"] >= sum(len(death.get("cut", ())) for death in died)
