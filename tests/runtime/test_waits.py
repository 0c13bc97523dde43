"""Who waits for whom is told, machines are watched, and the object store is never filled to its limit."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distrl.experience.fragment import CollectRequest, FragmentMeta, Unit
from distrl.runtime.backends.stacks import Stacks, stacks_file
from distrl.runtime.loop import waits
from distrl.runtime.loop.admission import FULL, STORED, Admission
from distrl.runtime.loop.waits import Waits
from distrl.runtime.protocol.orders import Wait

MIB = 2**20


class World:
    """A loop that does nothing but wait.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path):
        self.orders: list[Wait] = []
        self.living = {"n1": "10.0.0.1", "n2": "10.0.0.2"}
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.full = ""
        monitor = SimpleNamespace(event=lambda kind, **facts: self.told.append((kind, facts)))
        backend = SimpleNamespace(waits=lambda: self.orders, nodes=lambda: dict(self.living))
        slots = [SimpleNamespace(index=index, node=f"n{index}", state="hosting") for index in (1, 2)]
        self.called: list[str] = []
        recovery = SimpleNamespace(restart_at=None, node_lost=lambda: self.called.append("keep a state"))
        lost_data = SimpleNamespace(probe=lambda: self.called.append("look for data"))
        elastic = SimpleNamespace(node_joined=lambda: self.called.append("start samplers"))
        state: Any = SimpleNamespace(pool=SimpleNamespace(slots=slots), queue=SimpleNamespace(learning=[]))
        services: Any = SimpleNamespace(monitor=monitor, backend=backend, folder=SimpleNamespace(path=folder))
        helpers: tuple[Any, Any, Any] = (recovery, lost_data, elastic)
        self.watch = Waits(state, services, *helpers, (lambda: self.full, lambda: ""))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(waits, "CHECK_SECONDS", 0.0)
    return World(tmp_path)


def fragments(seconds: float, unit: int = 4) -> Wait:
    return Wait("sampler 1", "fragments", f"it makes fragments {unit} of stream 2", seconds, 120.0)


def test_a_long_wait_is_told_and_told_again_when_it_is_three_times_as_long(world: World) -> None:
    watch = world.watch
    for seconds in (1.0, 9.0, 11.0, 12.0, 30.0, 34.0, 50.0):
        world.orders = [fragments(seconds)]
        watch.poll()
    assert [facts["seconds"] for kind, facts in world.told if kind == "waiting"] == [11.0, 34.0]
    assert watch.line() == "the learner waits for sampler 1: it makes fragments 4 of stream 2 for 50 s of 120 s"
    assert watch.record()["orders"][0]["process"] == "sampler 1"


def test_what_always_takes_long_is_not_told_each_time(world: World) -> None:
    watch = world.watch
    for unit in range(3):
        for seconds in (5.0, 15.0):
            world.orders = [fragments(seconds, unit)]
            watch.poll()
    assert len([kind for kind, _ in world.told if kind == "waiting"]) == 1


def test_machines_are_watched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = world.watch
    watch.poll()
    del world.living["n2"]
    world.full = "the object store is at its limit"
    monkeypatch.setattr(waits.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * MIB))
    watch.poll()
    watch.poll()
    assert ("node_lost", {"node": "n2", "address": "10.0.0.2", "samplers": [2]}) in world.told
    assert world.called == ["look for data", "keep a state"]
    world.living["n3"] = "10.0.0.3"
    watch.poll()
    assert ("node_joined", {"node": "n3", "address": "10.0.0.3"}) in world.told
    assert world.called[2:] == ["start samplers"]
    assert watch.record()["problems"] == ["the run folder's disk is nearly full: 3 MiB free", world.full]
    world.full = ""
    watch.poll()
    assert [(kind, facts["of"]) for kind, facts in world.told if kind.startswith("problem")] == [
        ("problem", "disk"),
        ("problem", "object store"),
        ("problem_over", "object store"),
    ]


# ---- admission -----------------------------------------------------------------------------------------------------


def admission(*, ordered: bool, nbytes: int, waiting: int, running: int, kept: int = 0) -> Admission:
    """A loop of 4 streams that has taken 5 batches, in a store of 100 MiB."""
    meta = FragmentMeta(Unit(5, 0), 5, 16, [], nbytes=nbytes)

    class Line(list[Any]):
        streams = 4

        def waiting(self) -> list[Any]:
            return list(self)

    queue: Any = Line(SimpleNamespace(meta=meta) for _ in range(waiting))
    queue.ordered = ordered
    state: Any = SimpleNamespace(queue=queue, updates_started=5, ledger=SimpleNamespace(running=set(range(running))))
    recovery: Any = SimpleNamespace(nbytes=lambda: kept)
    made = Admission(state, recovery, 100 * MIB)
    made.observe([meta])
    return made


REQUESTS = [CollectRequest(Unit(seq, stream), 5) for seq, stream in ((5, 0), (6, 1), (7, 2))]


@pytest.mark.parametrize(
    ("facts", "allowed"),
    [
        ({"ordered": True, "nbytes": 10 * MIB, "waiting": 1, "running": 1}, 3),  # 50 MiB
        (
            {"ordered": True, "nbytes": 10 * MIB, "waiting": 3, "running": 1},
            1,
        ),  # 70: only fragment 5, of the next batch
        ({"ordered": True, "nbytes": 10 * MIB, "waiting": 1, "running": 1, "kept": 20 * MIB}, 1),
        ({"ordered": False, "nbytes": 10 * MIB, "waiting": 2, "running": 2}, 0),  # a batch is on its way
        ({"ordered": False, "nbytes": 20 * MIB, "waiting": 1, "running": 1}, 2),  # it is not: two are missing
        ({"ordered": True, "nbytes": STORED - 1, "waiting": 10**5, "running": 0}, 3),  # none of them is in the store
    ],
)
def test_samplers_run_ahead_only_where_there_is_room(facts: dict[str, Any], allowed: int) -> None:
    made = admission(**facts)
    assert len(made.allowed(REQUESTS)) == allowed
    assert made.held_back == (allowed < 3)
    assert ("of 100 MiB" in made.problem()) == made.held_back
    assert FULL < 0.8  # where Ray begins to write to the disk


# ---- stacks --------------------------------------------------------------------------------------------------------


def test_a_long_call_writes_its_stacks_once(tmp_path: Path) -> None:
    stacks = Stacks(str(tmp_path), "sampler 3", seconds=0.05)
    with stacks.watch():
        assert not stacks_file(tmp_path, "sampler 3").exists()
    path = stacks_file(tmp_path, "sampler 3")
    with stacks.watch():
        for _ in range(200):
            if path.is_file() and "test_a_long_call" in path.read_text():
                break
            time.sleep(0.05)
    assert "test_waits.py" in path.read_text()
