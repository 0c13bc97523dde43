"""Off-policy runs, end to end: one hash for every back end, kill and resume with the replay, damaged checkpoints."""

from __future__ import annotations

import signal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrl import load
from distrl.base.errors import CheckpointError, ConfigError, ResourceError
from distrl.runtime.run.checkpoint import list_checkpoints
from distrl.runtime.train import train
from tests.helpers import merged, parameter_hash, summary_of, train_apart
from tests.runtime.off_policy_config import dqn_config

SELF_KILL = ["tests.runtime.user_code:EndsItself"]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "rainbow": {
        "algorithm": {"name": "rainbow", "learning_starts": 32, "prioritized": True, "head": {"size": 11}},
        "store": {"max_staleness": 1},
    },
    "normalized": {
        "env": {"id": "LunarLander-v3", "max_episode_steps": 30, "normalize_obs": True, "normalize_reward": True},
        "algorithm": {"head": "iqn", "n_step": 3},
        "store": {"max_staleness": 2},
    },
    "sharded": {"algorithm": {"prioritized": True, "replay_ratio": 1.0}, "store": {"shards": 2}},
    "sharded_uniform": {"algorithm": {"replay_ratio": 1.0, "n_step": 2}, "store": {"shards": 3, "max_staleness": 1}},
    "masked_dict": {"env": {"id": "tests.runtime.user_code:MaskedDictEnv"}, "algorithm": {"next_action": "double"}},
}


def case_config(name: str, case: str) -> dict[str, Any]:
    """The run of a case; `rainbow` keeps only the keys that all of its kind have."""
    run = dqn_config(name, **CASES[case])
    if run["algorithm"]["name"] == "rainbow":
        del run["algorithm"]["epsilon"]
    return run


@cache
def serial_hash(runs: Path, case: str) -> str:
    return parameter_hash(case_config(f"{case}-reference", case), runs)


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_a_run_counts_learns_and_acts(tmp_runs: Path) -> None:
    summary = train(dqn_config(eval={"every": 160, "episodes": 2}), runs_dir=tmp_runs)
    assert summary["env_steps"] == 20 * 16
    assert summary["ledger"]["consumed"] == 80
    assert summary["eval_return_mean"] is not None
    agent = load(tmp_runs / "run")
    assert agent.act(np.zeros(4, np.float32)) in (0, 1)
    first = {"init_from": str(tmp_runs / "run"), "stop": {"updates": 1}}
    train(dqn_config("warm", **first), runs_dir=tmp_runs)


@pytest.mark.parametrize("case", CASES)
def test_serial_repeats(case: str, shared_runs: Path) -> None:
    assert parameter_hash(case_config(f"{case}-again", case), shared_runs) == serial_hash(shared_runs, case)


NAMES = ("c51", "qr_dqn", "iqn", "fqf", "rainbow", "md3qn", "iterated_q", "orchestrated_mapping")


@pytest.mark.parametrize("name", NAMES)
def test_every_value_based_learner_runs_and_resumes(name: str, tmp_runs: Path) -> None:
    env = "distrl/TwoChannels-v0" if name == "md3qn" else "CartPole-v1"
    run = dqn_config(algorithm={"name": name}, env={"id": env}, stop={"updates": 8}, checkpoint={"every": 0})
    undisturbed = parameter_hash({**run, "name": "undisturbed"}, tmp_runs)
    train({**run, "stop": {"updates": 5}}, runs_dir=tmp_runs)
    assert train(run, runs_dir=tmp_runs, resume=True)["parameter_hash"] == undisturbed


#: Cases on a cluster; the drills have the others too, and one sampler.
SHORT = [(case, 2) for case in ("rainbow", "normalized", "sharded", "masked_dict")]
LONG = [(case, samplers) for case in CASES for samplers in (1, 2) if (case, samplers) not in SHORT]
ON_RAY = [*SHORT, *(pytest.param(*values, marks=pytest.mark.drill) for values in LONG)]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("case", "samplers"), ON_RAY)
def test_ray_equals_serial(local_ray: str, shared_runs: Path, case: str, samplers: int) -> None:
    changes = {"backend": "ray", "samplers": {"count": samplers}}
    run = merged(case_config(f"{case}-ray-{samplers}", case), changes)
    assert parameter_hash(run, shared_runs) == serial_hash(shared_runs, case)


@pytest.mark.slow
def test_kill_and_resume(shared_runs: Path) -> None:
    """SIGKILL at three updates, before and after the ring is full (200 rows: update 13)."""
    changes = {"checkpoint": {"every": 32}, "callbacks": SELF_KILL}
    run = merged(case_config("killed", "rainbow"), changes)
    for number, point in enumerate((5, 12, 17)):
        code, output = train_apart(run, shared_runs, resume=number > 0, KILL_AT_UPDATE=point)
        assert code == -signal.SIGKILL, output
    code, output = train_apart(run, shared_runs, resume=True)
    assert code == 0, output
    assert summary_of(shared_runs / "killed")["parameter_hash"] == serial_hash(shared_runs, "rainbow")
    assert summary_of(shared_runs / "killed")["ledger"]["consumed"] == 80


@pytest.mark.ray
@pytest.mark.slow
def test_kill_and_resume_on_ray(local_ray: str, shared_runs: Path) -> None:
    on_cluster = {"backend": "ray", "samplers": {"count": 2}, "ray": {"address": local_ray}}
    changes = {"checkpoint": {"every": 32}, "callbacks": SELF_KILL, **on_cluster}
    run = merged(case_config("killed-ray", "normalized"), changes)
    code, output = train_apart(run, shared_runs, KILL_AT_UPDATE=12)
    assert code == -signal.SIGKILL, output
    code, output = train_apart(run, shared_runs, resume=True)
    assert code == 0, output
    assert summary_of(shared_runs / "killed-ray")["parameter_hash"] == serial_hash(shared_runs, "normalized")


def test_a_mapped_replay_changes_nothing(tmp_runs: Path, shared_runs: Path) -> None:
    """In files, resumed in the middle; checkpoints share whole segments by hard links."""
    every = {"store": {"memory_map": True}, "checkpoint": {"every": 64, "keep": 2}}
    train(dqn_config(**every, stop={"updates": 15}), runs_dir=tmp_runs)
    summary = train(dqn_config(**every), runs_dir=tmp_runs, resume=True)
    assert summary["parameter_hash"] == serial_hash(shared_runs, "plain")


def test_checkpoints_share_whole_segments(tmp_runs: Path) -> None:
    train(dqn_config(checkpoint={"every": 64, "keep": 2}, stop={"updates": 30}), runs_dir=tmp_runs)
    newest, before = list_checkpoints(tmp_runs / "run" / "checkpoints")
    shared = {path.name for path in (newest / "replay").iterdir() if path.stat().st_nlink == 2}
    assert shared
    assert all((before / "replay" / name).samefile(newest / "replay" / name) for name in shared)


def test_a_damaged_replay_falls_back_to_the_checkpoint_before(tmp_runs: Path) -> None:
    run = dqn_config(checkpoint={"every": 32, "keep": 3})
    expected = train(run, runs_dir=tmp_runs)["parameter_hash"]
    newest, before = list_checkpoints(tmp_runs / "run" / "checkpoints")[:2]
    largest = max((newest / "replay").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 255
    largest.unlink()  # a new file: the old one's content may be shared with other checkpoints
    largest.write_bytes(bytes(content))
    summary = train(run, runs_dir=tmp_runs, resume=True)
    assert summary["parameter_hash"] == expected
    log = (tmp_runs / "run" / "log.txt").read_text()
    assert "does not match its checksum" in log
    assert before.name in log


def test_a_checkpoint_of_another_replay_is_refused(tmp_runs: Path) -> None:
    train(dqn_config(), runs_dir=tmp_runs)
    with pytest.raises((ConfigError, CheckpointError), match="capacity"):
        train(dqn_config(store={"capacity": 300}), runs_dir=tmp_runs, resume=True)


def test_what_cannot_run_is_refused_before_the_start(tmp_runs: Path) -> None:
    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (ResourceError, "need", {"store": {"capacity": 10**12}}),
        (ConfigError, "Discrete", {"env": {"id": "Pendulum-v1"}}),
        (ConfigError, "less than one batch", {"store": {"capacity": 8}}),
        (ConfigError, "learning_starts", {"algorithm": {"learning_starts": 1000}}),
        (ConfigError, "do not split", {"learner": {"shards": 2}}),
        (ConfigError, "without memory", {"model": {"recurrent": "gru"}}),
        (ConfigError, "gives its mean only", {"algorithm": {"risk": {"name": "cvar", "level": 0.1}}}),
        (ConfigError, "level", {"algorithm": {"head": "quantile", "risk": {"name": "cvar", "level": 1.5}}}),
        (ConfigError, "reward channels", {"algorithm": {"name": "md3qn"}}),
        (ConfigError, "without observation, achieved_goal, desired_goal", {"algorithm": {"hindsight": {}}}),
        (ConfigError, "store.shards 8 is more than env.streams 4", {"store": {"shards": 8}}),
    ]
    for kind, words, changes in wrong:
        with pytest.raises(kind, match=words):
            train(dqn_config(**changes), runs_dir=tmp_runs)
        assert not (tmp_runs / "run").exists()
