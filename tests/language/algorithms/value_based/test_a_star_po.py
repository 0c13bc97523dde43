"""A*-PO: estimates of stage 1 against plain sums, the passage to stage 2, state and resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distrl.base.errors import ConfigError
from distrl.language.algorithms.value_based.a_star_po import AStarPO
from distrl.language.losses.sequence import soft_value
from distrl.language.tasks.subset import TaskSubset
from distrl.language.tasks.tiny import SortDigits
from distrl.runtime.train import train
from tests.helpers import merged, parameter_hash
from tests.runtime.test_text_runs import text_config
from tests.support.tiny_worlds import TinyWorld

PLACED = {"components": {"placed": {}}}


def world(**words: Any) -> TinyWorld:
    return TinyWorld({"name": "a_star_po", "prompts": 16, "reference_answers": 3, "reward": PLACED, **words})


@pytest.mark.parametrize("optimism", [0.5, 0.0])
def test_stage_one_estimates_and_leaves_the_weights_alone(optimism: float) -> None:
    made = world(optimism=optimism)
    algorithm = made.algorithm
    first = algorithm.flat.data.clone()
    seen: dict[int, list[float]] = {}
    for update in range(6):  # 16 prompts, 8 a batch, one answer each: three passes
        assert algorithm.estimating
        batch = made.batch(update)
        for item, reward in zip(batch.item.tolist(), batch.components[:, 1].tolist(), strict=True):
            seen.setdefault(item, []).append(reward)
        metrics = made.step()
        assert metrics["policy/reference_share"] == pytest.approx((update + 1) / 6)
        assert torch.equal(algorithm.flat.data, first)
    assert not algorithm.estimating
    assert len(seen) == 16
    assert {len(rewards) for rewards in seen.values()} == {3}
    assert len({tuple(rewards) for rewards in seen.values()}) > 3
    for item, rewards in seen.items():
        expected = soft_value(torch.tensor(rewards, dtype=torch.float64), torch.zeros(3, dtype=torch.int64), optimism)
        assert float(algorithm.optimal_value(torch.tensor([item]))) == pytest.approx(float(expected), abs=1e-6)
    metrics = made.step()
    assert not torch.equal(algorithm.flat.data, first)
    assert "policy/reference_share" not in metrics
    assert 0.0 < metrics["policy/optimal_value"] < 1.0


def test_known_values() -> None:
    made = world(reference_answers=4)
    made.algorithm._estimate(torch.tensor([5, 5, 5, 6]), torch.tensor([1.0, 0.0, 0.0, 0.0]))
    made.algorithm._estimate(torch.tensor([5]), torch.tensor([0.0]))
    found = made.algorithm.optimal_value(torch.tensor([5, 6]))
    assert found.tolist() == pytest.approx([0.47723, 0.0], abs=5e-6)
    assert float(found[0]) == pytest.approx(0.5 * math.log(0.75 + 0.25 * math.exp(2)), abs=1e-6)
    assert made.algorithm.best[[5, 6]].tolist() == [1.0, 0.0]


def test_the_gradient_is_reinforces_with_the_estimate_for_a_baseline() -> None:
    made = world(reference_answers=1)
    while made.algorithm.estimating:
        made.step()
    batch = made.prepared(made.updates)
    found = made.gradient(batch)
    logp = (made.algorithm.token_logp_and_entropy(batch)[0] * batch.mask).sum(1)
    baseline = batch.reward.float() - batch.optimal_value
    expected = made.slow_gradient((-2 * 1e-3 * baseline * logp).mean())
    assert float(expected.norm()) > 1e-6
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-7)


def test_prompts_without_success_may_be_left_out() -> None:
    made = world(reference_answers=1, drop_unsolved=True)
    while made.algorithm.estimating:
        made.step()
    made.algorithm.best[:] = 0.0
    batch = made.prepared(made.updates)
    kept = int((batch.reward - batch.optimal_value).abs().argmax())
    made.algorithm.best[int(batch.item[kept])] = 1.0
    weighted = made.algorithm.add_loss_weights(batch)
    assert weighted.row_weight.tolist() == [float(k == kept) for k in range(8)]
    assert float(made.gradient(batch).norm()) > 0


def test_estimates_are_part_of_the_state() -> None:
    made, other = world(), world()
    made.step()
    state = made.algorithm.state()
    made.step()  # must not change what was saved
    other.algorithm.load_state(state)
    assert int(other.algorithm.count.sum()) == 8
    assert np.isneginf(other.algorithm.log_sum).sum() == 8


def test_a_run_resumed_in_either_stage_ends_with_the_same_hash(tmp_runs: Path) -> None:
    words = {"name": "a_star_po", "group_size": 2, "prompts": 8, "reference_answers": 2, "reward": PLACED}
    run = text_config("star", stop={"updates": 5})  # 2 of them estimate
    run["algorithm"] = {"learning_rate": 1e-3, **words}
    whole = parameter_hash(run, tmp_runs)
    for updates in (1, 3):
        part = merged(run, {"name": f"star-{updates}", "stop": {"updates": updates}})
        parameter_hash(part, tmp_runs)
        again = train(merged(part, {"stop": {"updates": 5}}), runs_dir=tmp_runs, resume=True)
        assert again["parameter_hash"] == whole


def test_the_first_items_of_a_task() -> None:
    task = SortDigits(3)
    few = TaskSubset(task, 5)
    assert few.size == 5
    assert few.item(4) == task.item(4)
    assert few.item(90, "eval") == task.item(90, "eval")
    assert few.demonstration(few.item(0)) == task.demonstration(task.item(0))
    assert (few.components, few.alphabet, few.eval_size) == (task.components, task.alphabet, None)
    with pytest.raises(IndexError, match="no training item 5 of 5"):
        few.item(5)
    with pytest.raises(ConfigError, match="has 5"):
        TaskSubset(few, 6)
    config = AStarPO.Config(name="a_star_po")
    assert AStarPO.training_task(few, config) is few
    assert AStarPO.training_task(task, config).size == AStarPO.DEFAULT_PROMPTS
