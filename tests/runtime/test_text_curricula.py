"""Curricula in a run: the learner owns them, samplers get them with the weights; nothing depends on who was faster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrl.base.errors import ConfigError, NonFiniteError
from distrl.config.load import load_config
from distrl.experience.fragment import CollectRequest, Unit
from distrl.language.models.weights import extras_of
from distrl.learning.learner_base import Progress
from distrl.runtime.plan.make import make_plan
from distrl.runtime.train import train
from tests.helpers import merged
from tests.runtime.test_text_runs import text_config

BAND = {"name": "success_band", "low": 0.2, "high": 0.8, "floor": 0.1}
SIZE = 24


def curriculum_run(name: str = "band", curriculum: Any = BAND, **changes: Any) -> dict[str, Any]:
    run = text_config(
        name,
        task={"name": "tests.runtime.text_tasks:EasyAndOpen", "kwargs": {"size": SIZE}, "prompts": 4},
        algorithm={"reward": {}},
        language={"curriculum": curriculum},
    )
    return merged(run, changes)


class World:
    """A learner and a sampler of one run."""

    def __init__(self, **changes: Any):
        plan = make_plan(load_config(curriculum_run(**changes)))
        self.learner, self.sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
        self.weights = self.learner.weights(0)

    def turn(self, seq: int) -> np.ndarray:
        """One update on fragment `seq` of both streams; the items that were asked, one for each answer."""
        data = self.fragments(seq)
        self.learner.algorithm.resolve(0, None)
        _, self.weights = self.learner.update(data, Progress(seq, 0))
        return items_of(data)

    def fragments(self, seq: int) -> list[Any]:
        requests = [CollectRequest(Unit(seq, stream), self.weights.version) for stream in range(2)]
        return [data for _, data in self.sampler.collect(requests, self.weights)]


def items_of(fragments: list[Any]) -> np.ndarray:
    return np.concatenate([fragment.rollout.item for fragment in fragments])


def test_a_band_leaves_out_what_always_succeeds() -> None:
    world = World()
    asked = [set(world.turn(seq).tolist()) for seq in range(30)]
    assert all(len(items) == 4 for items in asked)  # none twice in a batch
    curriculum = world.learner.curriculum
    assert curriculum is not None
    np.testing.assert_array_equal(np.flatnonzero(curriculum.seen), sorted(set.union(*asked)))
    assert (curriculum.rate[::2][curriculum.seen[::2]] == 1.0).all()
    easy = np.mean([item % 2 == 0 for items in asked[15:] for item in items])
    assert easy < 0.3, "half of all items are even"


def test_the_state_travels_with_the_weights_and_items_are_a_function_of_it() -> None:
    world = World()
    for seq in range(3):
        world.turn(seq)
    extras = extras_of(world.weights)
    assert world.learner.curriculum is not None
    np.testing.assert_array_equal(extras["curriculum.rate"], world.learner.curriculum.rate)
    asked = items_of(world.fragments(7))
    other = World()  # another sampler, which has seen nothing
    other.weights = world.weights
    np.testing.assert_array_equal(items_of(other.fragments(7)), asked)
    assert set(asked) != set(items_of(World().fragments(7)))


def test_a_learner_goes_on_from_its_state() -> None:
    world, other = World(), World()
    for seq in range(3):
        world.turn(seq)
    other.learner.load_state(world.learner.state())
    assert other.learner.weights(3).checksum() == world.weights.checksum()


def test_a_batch_that_is_refused_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    def refuse(*_: Any) -> None:
        raise NonFiniteError("loss is nan")

    data = world.fragments(0)
    with monkeypatch.context() as patch:
        patch.setattr(world.learner.algorithm, "update", refuse)
        with pytest.raises(NonFiniteError):
            world.learner.update(data, Progress(0, 0))
    world.learner.weights(0)
    assert world.learner.curriculum is not None
    assert not world.learner.curriculum.seen.any()


def undisturbed(runs: Path, name: str, **changes: Any) -> str:
    return train(curriculum_run(name, **changes), runs_dir=runs)["parameter_hash"]


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_resumed_run_has_the_same_hash(tmp_runs: Path, staleness: int) -> None:
    store = {"max_staleness": staleness}
    train(curriculum_run("resumed", store=store, stop={"updates": 2}), runs_dir=tmp_runs)
    again = train(curriculum_run("resumed", store=store), runs_dir=tmp_runs, resume=True)
    assert again["parameter_hash"] == undisturbed(tmp_runs, "whole", store=store)


def test_another_curriculum_is_another_run(tmp_runs: Path) -> None:
    hashes = {
        undisturbed(tmp_runs, str(number), language={"curriculum": word})
        for number, word in enumerate((None, "uniform", BAND, "dynamic"))
    }
    assert len(hashes) == 4


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("samplers", "staleness"), [pytest.param(1, 0, marks=pytest.mark.drill), (2, 2)])
def test_ray_gives_the_serial_hash(local_ray: str, tmp_runs: Path, samplers: int, staleness: int) -> None:
    store = {"max_staleness": staleness}
    run = curriculum_run("ray", backend="ray", samplers={"count": samplers}, store=store)
    assert train(run, runs_dir=tmp_runs)["parameter_hash"] == undisturbed(tmp_runs, "serial", store=store)


ENDLESS = {"name": "sort_digits", "kwargs": {"count": 3}}
WRONG: list[tuple[Any, dict[str, Any], str]] = [
    ("bands", {}, "success_band|dynamic|uniform"),
    ({"low": 0.1}, {}, "without a name"),
    ({"name": "success_band", "lo": 0.1}, {}, "'lo'.*low"),
    ({"name": "success_band", "low": "much"}, {}, "cannot take"),
    ({"name": "success_band", "low": 0.9}, {}, "low <= high"),
    ({"name": "uniform", "size": 25}, {}, "at most the task's 24"),
    ({"name": "uniform", "size": "all"}, {}, "whole number"),
    ("success_band", ENDLESS, "size: 1000"),
]


@pytest.mark.parametrize(("curriculum", "env", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_wrong_curricula_are_named(curriculum: Any, env: dict[str, Any], says: str) -> None:
    run = curriculum_run(curriculum=curriculum)
    run["task"] = {**run["task"], **env}
    with pytest.raises(ConfigError, match=says):
        make_plan(load_config(run))


def test_an_endless_task_is_asked_its_first_items() -> None:
    run = curriculum_run(curriculum={"name": "uniform", "size": 6})
    run["task"] = {**run["task"], **ENDLESS}
    plan = make_plan(load_config(run))
    learner, sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
    weights = learner.weights(0)
    made = [sampler.collect([CollectRequest(Unit(seq, 0), 0)], weights)[0][1] for seq in range(20)]
    assert set(items_of(made).tolist()) == set(range(6))
