"""Knapsack budgets: what samplers draw is a pure function of weights and names, its sum is kept, and runs resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.experience.fragment import CollectRequest, Unit
from distrl.language.algorithms.group_relative.knapsack import KnapsackSamples, SuccessTable, prompt_key
from distrl.language.curricula.budgets import knapsack_budget
from distrl.language.curricula.sampling_plan import PromptSamples
from distrl.language.models.weights import extras_of
from distrl.runtime.train import train
from tests.helpers import merged
from tests.runtime.test_text_runs import text_config
from tests.support.text_worlds import TextWorld, same_next_update

RNG = np.random.default_rng(0)


def test_the_table_knows_prompts_and_forgets_where_it_is_full() -> None:
    table = SuccessTable(8)
    key = prompt_key([3, 1, 4])
    assert key > 0
    assert key != prompt_key([3, 1])
    assert table.rate(key) is None
    table.record(key, 0.8, decay=0.5)
    table.record(key, 0.4, decay=0.5)
    assert table.rate(key) == pytest.approx(0.6)
    again = SuccessTable(1)
    again.load(table.extras())
    assert again.rate(key) == table.rate(key)
    table.record(key + 8, 1.0, decay=0.5)  # the same place
    assert table.rate(key) is None
    assert table.rate(key + 8) == 1.0


def test_the_plan_is_the_knapsack_of_the_entrys_numbers() -> None:
    table, prompts = SuccessTable(64), [[1], [2]]
    for prompt, rate in zip(prompts, (0.5, 0.1), strict=True):
        table.record(prompt_key(prompt), rate, decay=0.0)
    plan = KnapsackSamples(8, least=2, most=128, confidence=0.9)
    assert plan(prompts, table.extras(), RNG) == [PromptSamples(0, 6), PromptSamples(1, 10)]
    assert plan(prompts, {}, RNG) == [PromptSamples(0, 8), PromptSamples(1, 8)]  # no rates yet


def sizes(data: Any) -> list[int]:
    return np.unique(data.rollout.group, return_counts=True)[1].tolist()


def test_groups_follow_the_published_rates() -> None:
    world = TextWorld("knapsack", task="pairs", table_size=512)
    assert all(sizes(data) == [8] * 4 for data in world.fragments(0))
    for seq in range(6):
        world.turn(seq)
    table = SuccessTable(1)
    table.load(extras_of(world.weights))
    fragments = world.fragments(6)
    for unit, data in zip((Unit(6, 0), Unit(6, 1)), fragments, strict=True):
        asked = world.sampler.lines.items(unit, {})
        rates = [table.rate(prompt_key(world.sampler.tokenizer.encode_prompt(item.prompt))) for item in asked]
        assert sizes(data) == knapsack_budget(rates, 32)
        assert sum(sizes(data)) == 32
    assert len({size for data in fragments for size in sizes(data)}) > 1
    world.turn(6)
    assert world.metrics["text/group_size_max"] == max(size for data in fragments for size in sizes(data))
    other = world.twin()  # another sampler, which has seen nothing, makes the same
    other.weights = world.weights
    for one, two in zip(world.fragments(7), other.fragments(7), strict=True):
        assert np.array_equal(one.rollout.tokens, two.rollout.tokens)
        assert np.array_equal(one.rollout.group, two.rollout.group)


def test_rates_are_what_groups_have_shown() -> None:
    world = TextWorld("knapsack", rate_decay=0.0)
    batch = world.batch(0)
    world.turn(0)
    for group in batch.group.unique():
        rows = (batch.group == group).nonzero().squeeze(1)
        prompt = batch.tokens[rows[0]][~batch.mask[rows[0]]][:3].tolist()  # two digits and ">"
        rate = world.algorithm.table.rate(prompt_key(prompt))
        assert rate == pytest.approx(float(batch.correct[rows].double().mean()))


def test_the_state_alone_decides_the_next_updates() -> None:
    same_next_update(TextWorld("knapsack", task="pairs"), updates=3)


def test_a_batch_of_two_sizes_has_each_groups_own_advantages() -> None:
    world = TextWorld("knapsack", task="pairs")
    for seq in range(4):
        world.turn(seq)
    batch = world.algorithm.prepare(world.batch(4))
    for group in batch.group.unique():
        reward = batch.reward[batch.group == group]
        expected = torch.zeros_like(reward)
        if float(reward.max()) > float(reward.min()):
            expected = (reward - reward.mean()) / (reward.std() + 1e-6)
        torch.testing.assert_close(batch.advantage[batch.group == group], expected)


def test_one_call_for_all_streams_draws_what_single_calls_draw() -> None:
    world = TextWorld("knapsack", task="pairs")
    for seq in range(3):
        world.turn(seq)
    requests = [CollectRequest(Unit(3, stream), 0) for stream in range(2)]
    alone = world.sampler.collect(requests, world.weights)
    world.sampler.fuse = True
    for (_, one), (_, two) in zip(alone, world.sampler.collect(requests, world.weights), strict=True):
        assert np.array_equal(one.rollout.tokens, two.rollout.tokens)


def run(name: str, **changes: Any) -> dict[str, Any]:
    own = {"task": {"name": "pairs", "kwargs": None}, "algorithm": {"name": "knapsack", "reward": {"components": {}}}}
    config = merged(text_config(name, language={"warm_start": {"steps": 20, "batch_size": 16}}), merged(own, changes))
    config["task"]["kwargs"] = {}
    config["algorithm"]["reward"] = {}
    return config


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_resumed_run_ends_with_the_same_hash(tmp_runs: Path, staleness: int) -> None:
    store = {"max_staleness": staleness}
    whole = train(run("whole", store=store, stop={"updates": 6}), runs_dir=tmp_runs)
    train(run("resumed", store=store, stop={"updates": 3}), runs_dir=tmp_runs)
    again = train(run("resumed", store=store, stop={"updates": 6}), runs_dir=tmp_runs, resume=True)
    assert again["parameter_hash"] == whole["parameter_hash"]
    assert whole["episodes"] == 6 * 16


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.drill
def test_ray_gives_the_serial_hash(local_ray: str, tmp_runs: Path) -> None:
    serial = train(run("serial"), runs_dir=tmp_runs)
    ray = train(run("ray", backend="ray", samplers={"count": 2}), runs_dir=tmp_runs)
    assert ray["parameter_hash"] == serial["parameter_hash"]


def test_bounds_that_leave_the_mean_out_are_named() -> None:
    with pytest.raises(ConfigError, match=r"between algorithm\.least 2 and algorithm\.most 4"):
        TextWorld("knapsack", most=4)
