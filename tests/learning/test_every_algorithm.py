"""What must hold for every algorithm: spaces, masks, rows that do not count, shards, resume, broken numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space
from torch import Tensor

from distrl.base.columns import Columns, tree_map
from distrl.base.errors import NonFiniteError
from distrl.base.pack import load_state, save_state
from distrl.base.registry import register
from distrl.control.algorithms.on_policy.base import OnPolicy
from distrl.learning.shards import Shards, add_in_order
from tests.learning.rollouts import (
    ACTIONS,
    ALGORITHMS,
    OBSERVATIONS,
    RECURRENT,
    make_algorithm,
    make_rollout,
    maskable,
    update,
    weights,
    whole_gradient,
)

#: options that switch on everything an algorithm can remember between updates
EVERYTHING: dict[str, dict[str, Any]] = {
    "appo": {"kl_coefficient": 0.5, "target_every": 2, "epochs": 2},
    "ppo": {"entropy_coef": 0.01, "clip_value": 0.5, "dual_clip": 3.0, "target_kl": 0.5},
    "a2c": {"entropy_coef": 0.01, "normalize_advantage": True},
}


def with_everything(name: str, **more: Any) -> Any:
    return make_algorithm(name, **{**EVERYTHING.get(name, {}), **more})


def test_all_are_registered_with_paper():
    found = {method.name: method for method in register.methods("algorithm")}
    assert set(ALGORITHMS) <= set(found)
    for name in ALGORITHMS:
        assert found[name].paper
        assert found[name].line


@pytest.mark.parametrize("masks", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_updates_on_every_space(name: str, observation: str, action: str, masks: bool):
    if masks and not maskable(action):
        masks = False  # a plain Box has no masks: the case repeats the free one on another rollout
    spaces: tuple[Space[Any], Space[Any]] = OBSERVATIONS[observation], ACTIONS[action]
    algorithm = make_algorithm(name, *spaces)
    for number in range(2):
        before = weights(algorithm)
        rollout = make_rollout(algorithm, *spaces, masks=masks, seed=number + 2 * masks)
        metrics = update(algorithm, rollout, number)
        assert all(np.isfinite(value) for value in metrics.values()), metrics
        assert not torch.equal(weights(algorithm), before)
    diagnosis = algorithm.diagnose(rollout)
    assert all(np.isfinite(value) for value in diagnosis.values()), diagnosis
    assert diagnosis["policy/kl"] > 0


@pytest.mark.parametrize("recurrent", ["gru", "lstm"])
@pytest.mark.parametrize("name", RECURRENT)
def test_two_updates_with_memory(name: str, recurrent: str):
    algorithm = make_algorithm(name, recurrent=recurrent, shards=2)
    for number in range(2):
        before = weights(algorithm)
        metrics = update(algorithm, make_rollout(algorithm, seed=number, burnt=bool(number)), number)
        assert all(np.isfinite(value) for value in metrics.values()), metrics
        assert not torch.equal(weights(algorithm), before)


@pytest.mark.parametrize("recurrent", [None, "gru"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_burnt_rows_have_no_influence(name: str, recurrent: str | None):
    if recurrent and name not in RECURRENT:
        name = "a2c"
    algorithm = make_algorithm(name, recurrent=recurrent)
    rollout = make_rollout(algorithm, steps=12, burnt=True, masks=True)
    assert not rollout.valid.all()
    changed = with_other_burnt_rows(rollout)
    assert not torch.equal(changed.obs, rollout.obs)
    torch.testing.assert_close(
        whole_gradient(algorithm, changed), whole_gradient(algorithm, rollout), rtol=0, atol=1e-7
    )


def with_other_burnt_rows(rollout: Columns) -> Columns:
    """Other observations, actions, probabilities and rewards where `valid` does not hold."""
    burnt, rng = ~rollout.valid, np.random.default_rng(5)

    def disturb(leaf: Tensor) -> Tensor:
        noise = torch.from_numpy(rng.standard_normal(leaf.shape).astype(np.float32))
        keep = burnt.reshape(*burnt.shape, *[1] * (leaf.ndim - 2))
        return torch.where(keep, noise, leaf)

    action = torch.where(burnt, (rollout.action + 1) % 4, rollout.action)
    mask = rollout.mask | burnt[..., None]
    names = ("obs", "logp", "reward", "params")
    return rollout.with_(action=action, mask=mask, **{name: tree_map(disturb, rollout[name]) for name in names})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_updates_repeat_to_the_bit_and_two_shards_agree_with_one(name: str):
    rollouts = three_rollouts(name)
    two, again, one = (after_updates(with_everything(name, shards=count), rollouts) for count in (2, 2, 1))
    assert torch.equal(two, again)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_gradient_of_two_shards_agrees_with_one(name: str):
    one, two = with_everything(name), with_everything(name, shards=2)
    rollout = make_rollout(one, burnt=True, masks=True)
    torch.testing.assert_close(whole_gradient(two, rollout), whole_gradient(one, rollout), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_processes_are_bit_equal_to_one_with_two_shards(name: str):
    found: dict[int, Tensor] = {}
    exchange = Exchange(2)
    # made here, not in the threads: making a model seeds torch's one generator
    algorithms = [with_everything(name, shards=ExchangedShards(exchange, rank)) for rank in range(2)]
    rollouts = three_rollouts(name)

    def process(rank: int) -> None:
        found[rank] = after_updates(algorithms[rank], rollouts)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = after_updates(with_everything(name, shards=2), rollouts)
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], expected)


def three_rollouts(name: str) -> list[Columns]:
    """Batches with burnt rows and masks, by the first policy."""
    source = with_everything(name)
    return [make_rollout(source, seed=seed, burnt=True, masks=True) for seed in range(3)]


def after_updates(algorithm: OnPolicy, rollouts: Sequence[Columns]) -> Tensor:
    """The weights after an update on each rollout."""
    for number, rollout in enumerate(rollouts):
        update(algorithm, rollout, number)
    return weights(algorithm)


class Exchange:
    """What the processes of a group give each other; here they are threads."""

    def __init__(self, world: int):
        self.given: list[list[Tensor]] = [[] for _ in range(world)]
        self.barrier = threading.Barrier(world, timeout=60)


class ExchangedShards(Shards):
    """One shard for each process."""

    def __init__(self, exchange: Exchange, rank: int):
        super().__init__(len(exchange.given))
        self.mine = range(rank, rank + 1)
        self.exchange = exchange

    def sum(self, parts: Sequence[Tensor]) -> Tensor:
        self.exchange.given[self.mine.start] = [part.clone() for part in parts]
        self.exchange.barrier.wait()
        total = add_in_order([part for given in self.exchange.given for part in given])
        self.exchange.barrier.wait()
        return total


@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_resumes_to_the_bit(name: str, before: int, tmp_path: Path):
    algorithm, resumed = with_everything(name), with_everything(name, seed=7)
    for number in range(before):
        update(algorithm, make_rollout(algorithm, seed=number, stale=0.1), number)
    save_state(tmp_path / "state", algorithm.state())
    for number in range(before, before + 3):
        rollout = make_rollout(algorithm, seed=number, stale=0.1)
        metrics = update(algorithm, rollout, number)
        if number == before:
            resumed.load_state(load_state(tmp_path / "state"))
        assert update(resumed, rollout, number) == metrics
        assert torch.equal(weights(resumed), weights(algorithm))


def nan(leaf: Tensor) -> Tensor:
    broken = leaf.clone()
    broken[3, 2] = float("nan")
    return broken


BROKEN: dict[str, Callable[[Columns], Columns]] = {
    "reward": lambda rollout: rollout.with_(reward=nan(rollout.reward)),
    "obs": lambda rollout: rollout.with_(obs=nan(rollout.obs)),
    "logp": lambda rollout: rollout.with_(logp=nan(rollout.logp)),
}


@pytest.mark.parametrize("updates", [0, 1])
@pytest.mark.parametrize("column", BROKEN)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_broken_numbers_change_nothing(name: str, column: str, updates: int):
    if name == "a2c" and column == "logp":
        column = "obs"  # its loss does not read the behavior's probabilities
    algorithm, clean = with_everything(name), with_everything(name)
    for number in range(updates):
        rollout = make_rollout(clean, seed=number)
        update(algorithm, rollout, number)
        update(clean, rollout, number)
    rollout = make_rollout(clean, seed=9)
    before = weights(algorithm)
    with pytest.raises(NonFiniteError, match="non-finite"):
        update(algorithm, BROKEN[column](rollout))
    assert torch.equal(weights(algorithm), before)
    update(algorithm, rollout)
    update(clean, rollout)
    assert torch.equal(weights(algorithm), weights(clean))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_learning_rate_follows_its_schedule(name: str):
    algorithm = make_algorithm(name, learning_rate={"from": 1e-3, "to": 0, "over": "run"})
    rollout = make_rollout(algorithm)
    algorithm.resolve(500, 1000)
    update(algorithm, rollout)
    assert algorithm.trained.optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)
    algorithm.resolve(1000, 1000)
    critic = [parameter.detach().clone() for parameter in algorithm.model.critic.parameters()]
    update(algorithm, rollout)
    assert all(map(torch.equal, critic, algorithm.model.critic.parameters()))
