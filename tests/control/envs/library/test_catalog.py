"""Our ids: found without an import by the user, exactly restorable, and free of findings by the checker."""

from __future__ import annotations

import subprocess
import sys

import pytest

from distrl.base.errors import ConfigError
from distrl.control.envs.backends.interface import VectorEnv
from distrl.control.envs.checker.check import check_env, probe_snapshot
from distrl.control.envs.make import make_env
from distrl.control.envs.make_vector import make_vector
from tests.control.envs.backends.test_backends_snapshots import play
from tests.support.envs import env_config as Config

STOCK = [{"stock": {"gamma": 0.9, "start": [-3.0, 3.0], "scale": 10.0, "limit": 10.0}}]
CONFIGS = {
    "risky path": Config(id="distrl/RiskyPath-v0"),
    "chain": Config(id="distrl/Chain3-v0"),
    "gaussian": Config(id="distrl/GaussianChain-v0"),
    "channels": Config(id="distrl/TwoChannels-v0"),
    "halving": Config(id="distrl/Halving-v0", kwargs={"observation": "index"}),
    "ring": Config(id="distrl/Ring-v0"),
    "stock": Config(id="distrl/RiskyChoice-v0", wrappers=STOCK),
    "target": Config(id="distrl/Chain3-v0", wrappers=[{"target_return": {"gamma": 0.9, "start": 2.0}}]),
    "point": Config(id="distrl/PointGoal-v0", kwargs={"wall": True}),
    "bits": Config(id="distrl/BitFlip-v0"),
    "bits with stock": Config(id="distrl/BitFlip-v0", wrappers=STOCK),
}


def make(config: Config) -> VectorEnv:
    return make_vector(config, 2, lambda i, n: 1000 * i + n)


@pytest.mark.parametrize("name", CONFIGS)
def test_snapshots_round_trip(name: str) -> None:
    original, copy = make(CONFIGS[name]), make(CONFIGS[name])
    original.reset()
    play(original, 37, seed=0)
    copy.restore(original.snapshot())
    assert play(copy, 60, seed=1) == play(original, 60, seed=1)
    assert probe_snapshot(CONFIGS[name]) is None


@pytest.mark.parametrize("name", CONFIGS)
def test_the_checker_is_content(name: str) -> None:
    found = [finding for finding in check_env(CONFIGS[name], steps=150) if finding.level != "ok"]
    assert not found


def test_unknown_ids_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'distrl/RiskyPath-v0'\?"):
        make_env(Config(id="distrl/RiskPath-v0"))


def test_import_registers_nothing() -> None:
    """`import distrl` stays cheap: gymnasium is not even imported."""
    catalog = "distrl.control.envs.library.catalog"
    code = f"import sys, distrl; sys.exit('gymnasium' in sys.modules or {catalog!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
