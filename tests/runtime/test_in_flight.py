"""Weights that reach samplers in the middle of a batch: every token says which version drew it, and with what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrl.base.columns import Columns
from distrl.base.errors import ConfigError
from distrl.config.load import load_config
from distrl.experience.fragment import CollectRequest, Unit
from distrl.experience.weights import Weights
from distrl.learning.learner_base import Progress
from distrl.runtime.plan.make import make_plan
from distrl.runtime.train import train
from tests.helpers import events, lines
from tests.runtime.test_recovery import balanced
from tests.runtime.test_text_runs import text_config

SWAP_AT = 3  # tokens that are drawn with the old weights


class World:
    """A learner, and a sampler that hears of new weights at its third token."""

    def __init__(self, recompute: bool):
        run = text_config(
            deterministic=False,
            task={"kwargs": {"count": 6}},
            language={"max_new_tokens": 8, "warm_start": {"steps": 30, "batch_size": 16, "learning_rate": 3e-3}},
            algorithm={"learning_rate": 3e-2, "minibatches": 1},
        )
        plan = make_plan(load_config(run))
        self.learner, self.sampler = plan.build_learner(), plan.build_sampler(0, reuse_buffers=False)
        self.learner.algorithm.resolve(0, None)
        self.sampler.recompute = recompute
        self.weights = [self.learner.weights(0)]

    def collect(self, seq: int, news: Callable[[int], Weights | None] | None) -> Any:
        """Fragment `seq` of both streams, ordered with the weights before the newest."""
        self.sampler.news = news
        order = self.weights[-2] if news else self.weights[-1]
        requests = [CollectRequest(Unit(seq, stream), order.version) for stream in range(2)]
        return self.sampler.collect(requests, order)

    def update(self, made: Any) -> Any:
        version = self.learner.version
        report, weights = self.learner.update([data for _, data in made], Progress(version, 0))
        self.weights.append(weights)
        return report

    def swap(self) -> Callable[[int], Weights | None]:
        """News of the newest weights, from the third question on; before the second two tokens are drawn."""
        asked = 0

        def news(version: int) -> Weights | None:
            nonlocal asked
            asked += 1
            newest = self.weights[-1]
            return newest if asked >= SWAP_AT and newest.version > version else None

        return news


def swapped(recompute: bool) -> tuple[World, Any, Columns]:
    world = World(recompute)
    world.update(world.collect(0, None))
    made = world.collect(1, world.swap())
    return world, made, world.learner._batch([data for _, data in made], ())


@pytest.mark.parametrize("recompute", [False, True])
def test_every_token_has_the_version_that_drew_it(recompute: bool) -> None:
    world, made, batch = swapped(recompute)
    versions = [row[mask].tolist() for row, mask in zip(batch.version, batch.mask, strict=True)]
    assert any(len(row) > SWAP_AT for row in versions)
    for row in versions:
        assert row == [0] * min(len(row), SWAP_AT) + [1] * (len(row) - SWAP_AT)
    assert {meta.version for meta, _ in made} == {0}, "a fragment is as old as its oldest token can be"
    assert world.sampler.version == world.sampler.engine.version == 1
    again = world.collect(2, lambda version: None)  # the order has version 0: what is newer stays
    for _, data in again:
        assert set(data.rollout.version[data.rollout.mask]) == {1}


@pytest.mark.parametrize("recompute", [False, True])
def test_the_gate_books_the_difference_as_stale_cache(recompute: bool) -> None:
    world, made, batch = swapped(recompute)
    gate = world.learner.gate
    scores = gate._scores(batch).detach()
    new, old = batch.mask & (batch.version == 1), batch.mask & (batch.version == 0)
    assert float((scores - batch.logp).abs()[old].mean()) > 1e-2, "the update must move the distribution"
    found = gate.check_cache(batch, 1)
    assert found is not None
    assert found.mean == pytest.approx(float((scores - batch.logp).abs()[new].mean()), rel=1e-4, abs=1e-6)
    if recompute:
        assert found.largest < 1e-3
        assert found.cause == ""
    else:
        assert found.mean > found.threshold
        assert found.cause == "stale cache"
        again = gate.check_cache(batch, 1)
        assert again is not None
        assert again.cause == "", "it is told once"
    world.learner.gate.settings = world.learner.gate.settings.model_copy(update={"action": "stop", "every": 1})
    report = world.update(made)
    assert report.metrics["text/mismatch_stale_cache"] == pytest.approx(found.mean, rel=1e-4, abs=1e-6)
    assert report.metrics["staleness/mixed_answers"] > 0
    assert 0 < report.metrics["staleness/tokens_mean"] < 1
    assert not np.isnan(report.metrics["loss/policy"])


def test_answers_of_one_version_have_no_stale_cache() -> None:
    world = World(False)
    batch = world.learner._batch([data for _, data in world.collect(0, None)], ())
    assert world.learner.gate.check_cache(batch, 0) is None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"deterministic": True}, "deterministic"),
    ({"language": {"in_flight": "keep", "engine": "tests.runtime.text_tasks:Drains"}}, "finishes every batch"),
    ({"language": {"in_flight": "kept"}}, "drain"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG, ids=[says for _, says in WRONG])
def test_wrong_configs_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_plan(load_config(text_config(**{"deterministic": False, "language": {"in_flight": "keep"}, **changes})))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("in_flight", ["keep", pytest.param("recompute", marks=pytest.mark.drill)])
def test_weights_arrive_in_the_middle_of_answers(local_ray: str, tmp_runs: Path, in_flight: str) -> None:
    """Two samplers take turns: while one is in the middle of long answers the learner makes updates."""
    run = text_config(
        "flying",
        backend="ray",
        deterministic=False,
        task={"prompts": 4, "streams": 4},
        samplers={"count": 2},
        store={"max_staleness": 3},
        language={
            "engine": "tests.runtime.text_tasks:SlowTokens",
            "in_flight": in_flight,
            "max_new_tokens": 32,
            "gate": {"every": 1},
        },
        algorithm={"minibatches": 1, "learning_rate": 3e-3},
        logging={"every_seconds": 0.01},
        stop={"updates": 10},
    )
    summary = train(run, runs_dir=tmp_runs)
    assert summary["staleness_max"] <= 3
    assert balanced(summary["ledger"])
    folder = tmp_runs / "flying"
    points = lines(folder / "metrics.jsonl")
    mixed = [point["staleness/mixed_answers"] for point in points if "staleness/mixed_answers" in point]
    assert max(mixed) > 0.2
    caches = [point["text/mismatch_stale_cache"] for point in points if "text/mismatch_stale_cache" in point]
    assert caches
    if in_flight == "recompute":
        assert max(caches) < 1e-3
    assert not [warning for warning in events(folder, "warning") if "stale weights" in warning["text"]]
