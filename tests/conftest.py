"""Fixtures and settings of all tests: one torch thread, no deadline on property tests, folders of runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.drills import select_part

os.environ.setdefault("OMP_NUM_THREADS", "1")
#: Ray stops writing to a disk that is 95 % full; what tests write is little, whatever else the machine keeps there.
os.environ.setdefault("RAY_local_fs_capacity_threshold", "0.999")
#: The same examples every time, so that a change is judged by what it changed. HYPOTHESIS_PROFILE=explore draws others.
settings.register_profile("distrl", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("distrl"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "distrl"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select a part of the drills."""
    select_part(config, items)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests share cores with each other; results must not depend on how many there are."""
    from distrl.runtime.backends.threads import set_threads

    set_threads(1)


@pytest.fixture
def tmp_runs(tmp_path: Path) -> Path:
    """A folder for run folders."""
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def _ray_ends_with_the_session() -> Iterator[None]:
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture
def local_ray(_ray_ends_with_the_session: None) -> str:
    """One small Ray cluster for all tests; `train` joins it. Gives its address.

    A test that leaves a cluster of its own ends this process's connection, and with it this one: then it begins anew.
    """
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not ray.is_initialized():
        ray.init(
            address="local",
            num_cpus=16,  # actors of runs that join by address ask for one each
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=200 * 2**20,
        )
    return ray.get_runtime_context().gcs_address


@pytest.fixture
def model():
    """Makes a model config with small layers: `model(recurrent="gru")`."""

    def make(**changes: Any) -> SimpleNamespace:
        defaults: dict[str, Any] = {
            "torso": "auto",
            "hidden": [16, 16],
            "activation": "tanh",
            "recurrent": None,
            "recurrent_size": 8,
            "shared": False,
            "log_std_init": 0.0,
        }
        return SimpleNamespace(**{**defaults, **changes})

    return make
