"""Machines that go and come: half of the samplers' node, another one later, and the whole cluster with its head."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distrl.runtime.commands.files import Command, FolderRun
from tests.helpers import Training, config, events, lines, merged, parameter_hash, summary_of, train_apart
from tests.ray_nodes import Nodes
from tests.runtime.test_recovery import balanced

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

#: A learner that takes longer than its samplers, so that fragments of all of them wait; each lies on its own node.
BUSY: dict[str, Any] = {
    "env": {"id": "tests.runtime.user_code:WideEnv", "num_envs": 8, "streams": 8},
    "algorithm": {"epochs": 20},
    "store": {"max_staleness": 2},
    "checkpoint": {"every": 0},
    "samplers": {"count": 2},
}


#: Ray turns tokens on in a process that starts a cluster of its own, and that goes into the environment of later ones.
NO_TOKENS = {"RAY_AUTH_MODE": "disabled"}


class Watched(Training):
    """A run in a process of its own that is looked at through its status."""

    def status(self) -> dict[str, Any] | None:
        return FolderRun(self.folder).status()

    def until(self, holds: Callable[[dict[str, Any]], Any], seconds: float = 120.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        status = None
        while time.monotonic() < deadline:
            status = self.status()
            if status and holds(status):
                return status
            if self.process.poll() is not None:
                raise AssertionError(f"it ended: {self.wait()[1]}")
            time.sleep(0.1)
        self.kill()
        raise AssertionError(f"never so: {status}\n{self.wait()[1]}")

    def scale(self, samplers: int) -> None:
        FolderRun(self.folder).send(Command("scale", samplers))


def hosting(status: dict[str, Any], node: str | None = None) -> list[int]:
    """Samplers at work, on one node or anywhere."""
    there = [sampler for sampler in status["samplers"] if sampler["state"] == "hosting"]
    return [sampler["sampler"] for sampler in there if node in (None, sampler["node"])]


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """A process does nothing meanwhile."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def on_cluster(name: str, nodes: Nodes, **changes: Any) -> dict[str, Any]:
    run = merged(config(name, **merged({**BUSY, "backend": "ray"}, changes)), {"ray": {"address": nodes.address}})
    return run


@pytest.mark.drill
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_node_that_is_lost_and_another_that_comes(tmp_runs: Path, deterministic: bool) -> None:
    tmp_runs.mkdir()
    with Nodes(cpus=3) as nodes:  # for the learner and two samplers
        run = on_cluster("moving", nodes, deterministic=deterministic, stop={"updates": 10**9})
        training = Watched(run, tmp_runs, **NO_TOKENS)
        training.until(lambda status: len(hosting(status)) == 2)
        first = nodes.add(2)
        training.scale(4)
        training.until(lambda status: len(hosting(status, first)) == 2 and status["waiting"] >= 8)
        with stopped(nodes.learner()):  # so that fragments of that node wait until its loss is noticed
            nodes.remove(first)
            lost_at = training.until(lambda status: not hosting(status, first))["version"]
            training.until(lambda status: events(training.folder, "node_lost"))
        # Nobody waits for the two that are away: their streams live with the others meanwhile.
        training.until(lambda status: len(hosting(status)) == 2 and status["version"] >= lost_at + 20)
        second = nodes.add(2)
        came_at = training.until(lambda status: len(hosting(status, second)) == 2)["version"]
        training.until(lambda status: status["version"] >= came_at + 5)
        FolderRun(training.folder).send(Command("stop"))
        code, output = training.wait()
        assert code == 0, output
    folder = tmp_runs / "moving"
    summary = summary_of(folder)
    assert balanced(summary["ledger"])
    assert summary["staleness_max"] <= 2
    updates = summary["updates"]
    assert summary["env_steps"] == updates * 8 * 16
    assert summary["ledger"]["consumed"] == updates * 8
    lost = [unit for event in events(folder, "lost") for unit in event["units"]]
    assert len(lost) == summary["ledger"]["lost"] > 0
    [gone] = events(folder, "node_lost")
    assert gone["node"] == first
    assert len(gone["samplers"]) == 2
    assert second in [event["node"] for event in events(folder, "node_joined")]
    assert not events(folder, "failed")
    if deterministic:
        undisturbed = config("undisturbed", **merged(BUSY, {"stop": {"updates": updates}}))
        assert summary["parameter_hash"] == parameter_hash(undisturbed, tmp_runs)


@pytest.mark.drill
def test_a_head_that_is_lost_ends_the_attempt_and_resume_goes_on(tmp_runs: Path) -> None:
    tmp_runs.mkdir()
    changes: dict[str, Any] = {"stop": {"updates": 40}, "checkpoint": {"every": 2 * 8 * 16}}
    with Nodes(cpus=2) as nodes:
        nodes.add(2)
        training = Watched(on_cluster("headless", nodes, **changes), tmp_runs, **NO_TOKENS)
        training.until(lambda status: status["version"] >= 6)
    began = time.time()
    code, output = training.wait(120)
    assert code not in (0, -signal.SIGKILL), output
    told = [line for line in lines(training.folder / "events.jsonl") if line["facts"].get("of") == "head"]
    assert [line["kind"] for line in told] == ["problem"]
    assert told[0]["time"] - began < 30
    assert "the cluster's head does not answer" in (training.folder / "log.txt").read_text()
    status = training.status()
    assert status is not None
    assert status["state"] == "dead"
    with Nodes(cpus=4) as nodes:
        code, output = train_apart(on_cluster("headless", nodes, **changes), tmp_runs, resume=True, **NO_TOKENS)
        assert code == 0, output
    summary = summary_of(tmp_runs / "headless")
    assert balanced(summary["ledger"])
    assert summary["staleness_max"] <= 2
    assert summary["parameter_hash"] == parameter_hash(config("undisturbed", **merged(BUSY, changes)), tmp_runs)
