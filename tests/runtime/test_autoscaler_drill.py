"""A run with `samplers.min` and `max` on a cluster with Ray's autoscaler: from no worker node to three, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distrl.runtime.commands.files import Command, FolderRun
from tests.cluster_head import Head
from tests.helpers import config, events, summary_of
from tests.runtime.test_nodes import Watched, hosting
from tests.runtime.test_recovery import balanced

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.drill, pytest.mark.timeout(900)]

HEAD_TYPE = "ray.head.default"  # the name that the provider of fake nodes gives its head
AUTOSCALING: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": 3,
    "idle_timeout_minutes": 0.1,
    "provider": {"type": "fake_multinode", "use_node_id_as_ip": True},  # they share one address
    "available_node_types": {
        HEAD_TYPE: {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "sampler": {
            "resources": {"CPU": 1, "object_store_memory": 100 * 2**20},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 3,
        },
    },
    "head_node_type": HEAD_TYPE,
    "upscaling_speed": 1.0,
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}


@pytest.fixture
def head() -> Iterator[Head]:
    """For the learner and one sampler; every further sampler needs a node."""
    started = Head(cpus=2, autoscaling=AUTOSCALING)
    yield started
    started.close()


def test_from_no_worker_node_to_three_and_back(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in head.env().items():
        if name.startswith("RAY_"):
            monkeypatch.setenv(name, value)
    marker, runs = tmp_path / "quick", tmp_path / "runs"
    runs.mkdir()
    run = config(
        "growing",
        backend="ray",
        deterministic=False,
        ray={"address": head.gcs},
        env={"id": "tests.runtime.user_code:SlowUntil", "kwargs": {"marker": str(marker)}, "num_envs": 8, "streams": 8},
        model={"hidden": [256, 256]},
        algorithm={"epochs": 40},
        samplers={"count": 1, "min": 1, "max": 4},
        store={"max_staleness": 2},
        checkpoint={"every": 0},
        stop={"updates": 10**9},
    )
    training = Watched(run, runs)

    def nodes(status: dict[str, Any]) -> set[str]:
        return {sampler["node"] for sampler in status["samplers"] if sampler["state"] == "hosting"}

    before = nodes(training.until(lambda status: len(hosting(status)) == 1))
    # The learner waits: more samplers, for which there is no room, so nodes are started.
    grown = training.until(lambda status: len(hosting(status)) == 4, 240)
    assert len(nodes(grown)) == 4
    marker.touch()  # from now on the samplers wait
    training.until(lambda status: len(hosting(status)) == 1, 180)
    training.until(lambda status: len(events(training.folder, "node_lost")) == 3, 120)
    after = training.until(lambda status: True)
    assert nodes(after) == before
    version = after["version"]
    training.until(lambda status: status["version"] > version + 3)
    FolderRun(training.folder).send(Command("stop"))
    code, output = training.wait()
    assert code == 0, output
    folder = training.folder
    assert len(events(folder, "node_joined")) == 3
    assert all(not event["samplers"] for event in events(folder, "node_lost"))  # they had left before
    assert not events(folder, "died")
    summary = summary_of(folder)
    assert balanced(summary["ledger"])
    assert summary["staleness_max"] <= 2
    assert summary["env_steps"] == summary["updates"] * 8 * 16
    assert summary["ledger"]["lost"] == 0
