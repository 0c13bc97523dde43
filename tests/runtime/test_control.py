"""Commands reach a running loop; samplers come and go and change nothing but speed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrl.base.errors import ConfigError, ResourceError
from distrl.experience.ledger import Ledger
from distrl.runtime.commands.control import FolderMailbox
from distrl.runtime.commands.files import CONTROL_FOLDER, Command, FolderRun
from distrl.runtime.loop.autoscale import Autoscaler
from distrl.runtime.loop.pool import MAX_LOSSES, Pool
from distrl.runtime.train import train
from distrl.store.queue import Queue
from tests.helpers import config, events, parameter_hash

EIGHT = {"num_envs": 8, "streams": 8}


def make_pool(streams: int, samplers: int) -> Pool:
    return Pool(streams, samplers, Queue(streams, 1, False, Ledger()), 1, False)


def homes(pool: Pool) -> list[int]:
    """The sampler of each stream; every stream must have exactly one."""
    streams = sorted(stream for slot in pool.slots for stream in slot.streams)
    assert streams == list(range(len(pool.snapshots)))
    return [pool.sampler_of(stream) for stream in streams]


# ---- the pool ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=8))
def test_streams_are_spread_evenly_and_few_move(streams: int, steps: list[tuple[int, bool]]) -> None:
    pool = make_pool(streams, 1)
    pool.joined(pool.slots[0], 1, "")
    for wanted, ready in steps:
        before = homes(pool)
        if wanted > streams:
            with pytest.raises(ConfigError, match=f"run of {streams} streams"):
                pool.resize(wanted)
            assert homes(pool) == before
            continue
        change = pool.resize(wanted)
        assert pool.size == wanted
        for slot in [slot for slot in pool.slots if slot.state == "joining"] if ready else []:
            before = homes(pool)
            moved = pool.joined(slot, 1, "")
            # A newcomer takes its share and nothing else moves.
            assert set(moved) == set(slot.streams)
            assert [home for stream, home in enumerate(homes(pool)) if stream not in moved] == [
                home for stream, home in enumerate(before) if stream not in moved
            ]
        sizes = [len(slot.streams) for slot in pool.slots if slot.state == "hosting"]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == streams
        assert all(pool.slots[index].state == "gone" for index in change.end)


def test_a_stream_moves_after_its_running_fragment() -> None:
    pool = make_pool(4, 1)
    old = pool.slots[0]
    pool.joined(old, 1, "")
    requests = pool.orders(old, 0)
    pool.started(old, requests)
    assert [tuple(request.unit) for request in requests] == [(0, stream) for stream in range(4)]
    assert pool.resize(2).start == (1,)
    newcomer = pool.slots[1]
    assert pool.orders(newcomer, 0) == []  # not ready yet, and so without streams
    moved = pool.joined(newcomer, 2, "")
    assert moved == {2: (0, 1), 3: (0, 1)}
    assert pool.orders(newcomer, 0) == []  # the old sampler still makes fragment 0 of both
    pool.stopped(old, requests[2:])
    assert [(request.unit.stream, request.assign) for request in pool.orders(newcomer, 0)] == [(2, True), (3, True)]


def test_a_leaving_sampler_goes_when_its_fragments_are_done() -> None:
    pool = make_pool(4, 2)
    for slot in pool.slots:
        pool.joined(slot, 1, "")
    leaving = pool.slots[1]
    requests = pool.orders(leaving, 0)
    pool.started(leaving, requests)
    change = pool.resize(1)
    assert (change.end, leaving.state, leaving.streams) == ((), "draining", [])
    assert {request.unit.stream for request in pool.orders(pool.slots[0], 0)} == {0, 1}
    pool.stopped(leaving, requests)
    assert pool.end_if_drained(leaving)
    assert {request.unit.stream for request in pool.orders(pool.slots[0], 0)} == {0, 1, 2, 3}
    assert pool.resize(2).start == (1,)  # its name is free again


def test_a_newcomer_that_never_gets_ready_does_not_end_the_run() -> None:
    pool = make_pool(4, 1)
    pool.resize(2)
    newcomer = pool.slots[1]
    assert [pool.lost(newcomer, [], "no CPU") for _ in range(MAX_LOSSES + 1)] == [True] * MAX_LOSSES + [False]
    assert (newcomer.state, pool.size) == ("gone", 1)


# ---- automatic scaling ---------------------------------------------------------------------------------------------


def watch(scaler: Autoscaler, learner: float, samplers: float, windows: int, start: float = 0.0) -> None:
    for tick in range(int(windows * scaler.window) + 1):
        scaler.observe(start + tick, learner, samplers)


@pytest.mark.parametrize(
    ("learner_idle", "samplers_idle", "samplers", "wish"),
    [
        (0.9, 0.0, 2, 3),
        (0.9, 0.0, 8, 10),  # a quarter more
        (0.9, 0.0, 16, None),  # no more allowed
        (0.9, 0.9, 2, None),  # they take turns: a synchronous run
        (0.5, 0.5, 2, None),
        (0.0, 0.9, 4, 3),
        (0.0, 0.9, 1, None),
        (0.05, 0.4, 4, None),  # between the bands
    ],
)
def test_who_waits_decides(learner_idle: float, samplers_idle: float, samplers: int, wish: int | None) -> None:
    scaler = Autoscaler(1, 16)
    watch(scaler, learner_idle, samplers_idle, windows=2)
    assert scaler.target(samplers) == wish


def test_one_window_is_not_enough_and_a_change_begins_anew() -> None:
    scaler = Autoscaler(1, 16)
    watch(scaler, 0.9, 0.0, windows=1)
    assert scaler.target(2) is None
    watch(scaler, 0.0, 0.9, windows=1, start=100.0)
    assert scaler.target(2) is None
    watch(scaler, 0.9, 0.0, windows=2, start=200.0)
    assert scaler.target(2) == 3
    scaler.reset()
    assert scaler.target(3) is None


def test_a_number_outside_the_bounds_comes_back() -> None:
    assert Autoscaler(2, 4).target(1) == 2
    assert Autoscaler(2, 4).target(7) == 4


# ---- commands to a run ---------------------------------------------------------------------------------------------


class Background:
    """A run in a thread of this process."""

    def __init__(self, run: dict[str, Any], runs: Path):
        self.outcome: Any = None
        self.folder = FolderRun(runs / run["name"])
        self.thread = threading.Thread(target=self._train, args=(run, runs))
        self.thread.start()
        self.wait_for(lambda status: status["state"] == "running")

    def _train(self, run: dict[str, Any], runs: Path) -> None:
        try:
            self.outcome = train(run, runs_dir=runs)
        except BaseException as error:
            self.outcome = error

    def wait_for(self, holds: Callable[[dict[str, Any]], Any], seconds: float = 60.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.folder.status()
            if status and holds(status):
                return status
            assert self.thread.is_alive(), self.outcome
            time.sleep(0.05)
        raise AssertionError(f"never so: {status}")

    def end(self) -> dict[str, Any]:
        self.thread.join(60)
        assert isinstance(self.outcome, dict), self.outcome
        return self.outcome


ENDLESS: dict[str, Any] = {"stop": {"updates": 10**9}, "checkpoint": {"every": 0}}


def test_stop_writes_a_checkpoint_and_the_run_can_go_on(tmp_runs: Path) -> None:
    run = Background(config("stopped", **ENDLESS), tmp_runs)
    run.wait_for(lambda status: status["version"] >= 2)
    with pytest.raises(ConfigError, match="backend serial"):
        run.folder.send(Command("scale", 2))
    with pytest.raises(ConfigError, match="unknown command 'dance'"):
        run.folder.send(Command("dance"))
    assert "checkpoint" in run.folder.send(Command("stop"))
    summary = run.end()
    assert summary["stopped"] == "stop command"
    assert summary["checkpoint"].endswith(f"update_{summary['updates']:08d}")
    status = run.folder.status()
    assert status is not None
    assert status["state"] == "ended: stop command"
    assert not list((tmp_runs / "stopped" / CONTROL_FOLDER).iterdir())
    goal = summary["updates"] + 3
    resumed = train(config("stopped", **{**ENDLESS, "stop": {"updates": goal}}), runs_dir=tmp_runs, resume=True)
    assert resumed["updates"] == goal
    with pytest.raises(ConfigError, match="not running"):
        run.folder.send(Command("stop"))


def test_stop_now_writes_none(tmp_runs: Path) -> None:
    run = Background(config("now", **ENDLESS), tmp_runs)
    assert "it has none" in run.folder.send(Command("stop_now"))
    summary = run.end()
    assert summary["stopped"] == "stop --now command"
    assert summary["checkpoint"] is None


def test_what_an_earlier_attempt_was_told_is_thrown_away(tmp_path: Path) -> None:
    box = FolderMailbox(tmp_path)
    (tmp_path / CONTROL_FOLDER / "x.command.json").write_text(json.dumps({"verb": "stop", "id": "x"}))
    (tmp_path / CONTROL_FOLDER / "y.command.json").write_text("half of a comm")
    assert [command.verb for command in box.pop()] == ["stop"]
    assert box.pop() == []
    (tmp_path / CONTROL_FOLDER / "z.command.json").write_text(json.dumps({"verb": "stop", "id": "z"}))
    assert FolderMailbox(tmp_path).pop() == []


def test_a_run_that_died_is_named(tmp_path: Path) -> None:
    import platform

    status = {"state": "running", "host": platform.node(), "pid": 2**22 + 1}
    FolderMailbox(tmp_path).show(status)
    found = FolderRun(tmp_path).status()
    assert found is not None
    assert found["state"] == "dead"
    FolderMailbox(tmp_path).show({**status, "host": "elsewhere"})
    with pytest.raises(ResourceError, match=r"within 0.1 s.*kill -9"):
        FolderRun(tmp_path).send(Command("stop"), seconds=0.1)


@pytest.mark.ray
@pytest.mark.slow
def test_one_four_one_samplers_change_no_bit(local_ray: str, tmp_runs: Path) -> None:
    """The run of 8 streams that is scaled 1 -> 4 -> 1 ends with the hash and the steps of the fixed-size run."""
    changes: dict[str, Any] = {"env": EIGHT, "store": {"max_staleness": 2}, "stop": {"updates": 40}}
    fixed = parameter_hash(config("fixed", **changes), tmp_runs)
    scaled = config("scaled", backend="ray", callbacks=["tests.runtime.user_code:Scales141"], **changes)
    summary = train(scaled, runs_dir=tmp_runs)
    assert summary["parameter_hash"] == fixed
    check_141(tmp_runs / "scaled", summary, updates=40)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.drill
def test_one_four_one_samplers_lose_nothing_by_arrival(local_ray: str, tmp_runs: Path) -> None:
    run = config(
        "arrival",
        backend="ray",
        deterministic=False,
        env={"id": "tests.runtime.user_code:DelayedEnv", **EIGHT},
        store={"max_staleness": 2},
        callbacks=["tests.runtime.user_code:Scales141"],
        stop={"updates": 60},
    )
    check_141(tmp_runs / "arrival", train(run, runs_dir=tmp_runs), updates=60)


def check_141(folder: Path, summary: dict[str, Any], updates: int) -> None:
    """Exact steps, a balanced ledger without a cut fragment before the end, and both changes really happened."""
    ledger = summary["ledger"]
    assert summary["env_steps"] == ledger["env_steps"] == updates * 8 * 16
    assert ledger["consumed"] == updates * 8
    assert ledger["started"] == ledger["finished"] + ledger["cut"]
    assert ledger["finished"] == sum(ledger[fate] for fate in ("consumed", "evicted", "lost", "rolled_back", "waiting"))
    assert (ledger["evicted"], ledger["lost"], ledger["rolled_back"]) == (0, 0, 0)
    assert summary["staleness_max"] <= 2
    assert [(event["before"], event["after"]) for event in events(folder, "scaled")] == [(1, 4), (4, 1)]
    assert sorted(event["sampler"] for event in events(folder, "joined")) == [0, 1, 2, 3]
    assert sorted(event["sampler"] for event in events(folder, "left")) == [1, 2, 3]
    assert events(folder, "died") == []
    came = {stream for event in events(folder, "reassigned") for stream in event["streams"]}
    assert len(came) >= 6
    status = FolderRun(folder).status()
    assert status is not None
    assert [sampler["sampler"] for sampler in status["samplers"]] == [0]


@pytest.mark.ray
@pytest.mark.slow
def test_commands_reach_a_run_on_a_cluster(local_ray: str, tmp_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from distrl.runtime.commands import control_actor
    from distrl.runtime.commands.control_actor import ActorRun, running

    changes: dict[str, Any] = {**ENDLESS, "backend": "ray", "ray": {"address": local_ray}, "deterministic": False}
    run = Background(config("cluster", env=EIGHT, **changes), tmp_runs)
    second = Background(config("second", env=EIGHT, **changes), tmp_runs)
    assert {"cluster", "second"} <= set(running())
    monkeypatch.setattr(control_actor, "NAME_SECONDS", 1.0)
    outside = ActorRun("cluster")
    with pytest.raises(ConfigError, match="run of 8 streams can use 1 to 8"):
        outside.send(Command("scale", 9))
    assert "1 -> 3" in outside.send(Command("scale", 3))
    status = run.wait_for(lambda status: len([s for s in status["samplers"] if s["state"] == "hosting"]) == 3)
    assert sorted(len(sampler["streams"]) for sampler in status["samplers"]) == [2, 3, 3]
    with pytest.raises(ConfigError, match="a run named 'cluster' is active"):
        train(config("cluster", env=EIGHT, **changes), runs_dir=tmp_runs.parent / "others")
    shown = outside.status()
    assert shown is not None
    assert shown["name"] == "cluster"
    outside.send(Command("stop"))
    assert run.end()["stopped"] == "stop command"
    with pytest.raises(ConfigError, match=r"no run named 'cluster'.*second"):
        ActorRun("cluster")
    # The other run went on undisturbed.
    version = second.wait_for(lambda status: True)["version"]
    second.wait_for(lambda status: status["version"] > version)
    ActorRun("second").send(Command("stop_now"))
    assert second.end()["stopped"] == "stop --now command"
    assert ray.is_initialized()
