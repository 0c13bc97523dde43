"""A language model spread over two processes (gloo) learns what a whole one learns in one process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.experience.weights import Weights
from distrl.learning.learner_base import Progress
from distrl.learning.process_group import GroupShards, free_address, join_group, leave_group
from tests.helpers import REPOSITORY
from tests.learning.sharded_cases import CASES, KL, UPDATES, continued, plan_of, single, tied_folder

NAMES = [*CASES, "tied"]
#: Largest difference of a weight after three updates; found were 1.2e-7 where weights had moved by 2.5e-3 and more.
ROUND_OFF = 1e-6


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """By case: what one process has, and what the two of a group have."""
    folder = tmp_path_factory.mktemp("sharded")
    given = {}
    for name in NAMES:
        changes = {"language": {"source": tied_folder(folder / "model")}} if name == "tied" else {}
        given[name] = {**single(name, **changes), "changes": changes}
        (folder / f"{name}.given").write_bytes(pickle.dumps(given[name]))
    rendezvous = free_address()
    command = [sys.executable, "-m", "tests.learning.sharded_cases", str(folder)]
    group = [subprocess.Popen([*command, str(rank), rendezvous], cwd=REPOSITORY) for rank in range(2)]
    try:
        assert [process.wait(timeout=500) for process in group] == [0, 0]
    finally:
        for process in group:
            process.kill()
    found = {name: [pickle.loads((folder / f"{name}.{rank}").read_bytes()) for rank in range(2)] for name in NAMES}
    return {name: (given[name], found[name]) for name in NAMES}


def difference(one: Weights, two: Weights) -> float:
    a, b = one.arrays(), two.arrays()
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name].astype(np.float64) - b[name].astype(np.float64)).max()) for name in a)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_agree_with_one(both: Any, name: str) -> None:
    one, (first, second) = both[name]
    away = [difference(a, b) for a, b in zip(one["versions"], first["versions"], strict=True)]
    assert away[0] == 0.0, "the first weights are the same"
    assert max(away) < ROUND_OFF
    assert difference(one["versions"][0], one["versions"][-1]) > 1000 * ROUND_OFF, "something was learned"
    for key, value in one["metrics"].items():
        if key.startswith(("loss/", "policy/")):
            assert first["metrics"][key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
    assert all(not version.table for version in second["versions"]), "only process 0 publishes"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_states_go_on_with_another_number_of_processes(both: Any, name: str) -> None:
    one, (first, _) = both[name]
    assert difference(one["versions"][-1], first["resumed"]) < ROUND_OFF
    last = one["fragments"][-1]
    assert difference(one["versions"][-1], continued(name, first["states"][UPDATES - 2], last, **one["changes"])) < (
        ROUND_OFF
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_process_holds_half(both: Any) -> None:
    _, parts = both["plain"]
    whole = plan_of("plain", False).build_learner().algorithm.flat.data.numel()
    for held in (part["held"] for part in parts):
        # uneven rows are filled up, and each parameter begins at a multiple of 16 numbers
        assert whole / 2 <= held["parameters"] == held["gradients"] < 1.02 * whole / 2
        assert held["optimizer"] == 2 * held["parameters"] + 1, "two moments, and the number of steps"


def test_algorithms_that_see_whole_gradients_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sharding is fsdp, but DynamicRewardWeighting sees whole"):
        plan_of("plain", True, algorithm={"name": "dynamic_reward_weighting"})


def test_a_process_that_nobody_asks_for_the_first_weights_begins_all_the_same() -> None:
    """In a group the loop asks process 0 alone; all need the supervised start and the reference model."""
    changes = {"algorithm": KL, "language": {"warm_start": {"steps": 2, "batch_size": 4, "learning_rate": 1e-3}}}
    given = single("plain", **changes)
    learner = plan_of("plain", False, **changes).build_learner()
    _, weights = learner.update(given["fragments"][0], Progress(0, 0))
    assert weights.table == given["versions"][1].table
    assert np.array_equal(weights.buffer, given["versions"][1].buffer)


def test_a_group_of_one_process_reports_the_same_curves() -> None:
    """Without an entropy bonus no entropy is computed, and none is reported."""
    given = single("plain")
    join_group(free_address(), 0, 1, torch.device("cpu"))
    try:
        learner = plan_of("plain", True).build_learner(GroupShards(2, 0, 1))
        report, _ = learner.update(given["fragments"][0], Progress(0, 0))
    finally:
        leave_group()
    whole = plan_of("plain", False).build_learner()
    expected, _ = whole.update(given["fragments"][0], Progress(0, 0))
    assert report.metrics.keys() == expected.metrics.keys()
    assert "policy/entropy" not in report.metrics
